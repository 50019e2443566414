"""How much of a model GPUs compute: from what was asked for, and what fits, to ``GpuSettings``."""

from gguf_hub.api.offload.decide import decide_offload, default_rooms
from gguf_hub.api.offload.request import CPU_ONLY, OffloadRequest, SplitMode

__all__ = ["CPU_ONLY", "OffloadRequest", "SplitMode", "decide_offload", "default_rooms"]
