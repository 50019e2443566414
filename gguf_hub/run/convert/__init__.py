"""From a Hugging Face checkpoint to a GGUF file.

Knows the folder (``checkpoint``), how weights are stored (``stored``), what ``config.json`` says
(``keys``, ``families``), which tensor becomes which (``tensors``), the vocabulary (``vocabulary``)
and how floats become bytes (``encode``). Reading needs the extra ``gguf-hub[convert]``: safetensors
and sentencepiece, no compiler.
"""

from __future__ import annotations

from gguf_hub.run.convert.conversion import (
    Conversion,
    OutType,
    plan_adapter,
    plan_conversion,
)

__all__ = ["Conversion", "OutType", "plan_adapter", "plan_conversion"]
