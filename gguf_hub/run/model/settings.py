"""How a model is opened: the same settings, with the same meaning, whoever opens it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gguf_hub.errors import UsageError
from gguf_hub.gguf.memory.cache import CACHE_TYPES
from gguf_hub.gguf.memory.layout import N_BATCH
from gguf_hub.run.model.rope import AS_TRAINED, RopeChange

if TYPE_CHECKING:
    from gguf_hub.gguf.overrides import Override

Lock = Literal["none", "dense", "all"]
"""What to lock in memory: nothing, the tensors that every token reads, or the whole file."""


ALL_LAYERS = 2**31 - 1
"""More layers than any model has."""


@dataclass(frozen=True)
class GpuSettings:
    """What of a model GPUs compute, under llama.cpp's names.

    Attributes:
        n_layers: How many layers, the last ones; one more than the model has, or more, for the
            output layer, too. 0 for none.
        n_cpu_moe: Of how many of the first layers the CPU computes the experts all the same.
        devices: Which GPUs, as ``list_adapters`` counts them; none for the first.
        split: Shares of the layers that each of them gets; none for shares by free memory.
    """

    n_layers: int = 0
    n_cpu_moe: int = 0
    devices: tuple[int, ...] = ()
    split: tuple[float, ...] = ()


NO_GPU = GpuSettings()
"""Everything on the CPU."""


ON_CPU_WITH_ADAPTERS = "the CPU computes all layers of a model with LoRA adapters"
"""What is said where GPUs would compute some."""


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA adapter in GGUF form.

    Attributes:
        path: The file.
        scale: Factor of what it adds; 0 for nothing.
    """

    path: Path
    scale: float = 1.0


@dataclass(frozen=True)
class ModelSettings:
    """Settings of a model, under llama.cpp's names.

    Attributes:
        n_ctx: Positions of the cache; 0 for as many as the model was trained on.
        n_batch: Maximum batch size in tokens.
        n_threads: Threads that compute; 0 for as many as help, see ``auto_threads``.
        n_slots: How many caches of ``n_ctx`` positions.
        n_logits: Maximum rows of logits of one pass; None for one of every token of a batch.
        key_type: Type of the keys in the cache, one of ``CACHE_TYPES``.
        value_type: Type of the values in the cache.
        is_mapped: Map the file, or read all of it into memory first.
        prefetch_experts: Prefetch the experts that each token needs; None to do so where the
            mapped file is larger than free memory.
        lock: Which weights must stay in memory.
        rope: Changes to the model's position embedding.
        swa_full: Keep all positions in layers with windows, too: a text can then be gone back
            anywhere.
        overrides: Metadata that is read otherwise than the file has it.
        gpu: What GPUs compute.
        adapters: LoRA adapters that are applied.
    """

    n_ctx: int = 0
    n_batch: int = N_BATCH
    n_threads: int = 0
    n_slots: int = 1
    n_logits: int | None = 1
    key_type: str = "F16"
    value_type: str = "F16"
    is_mapped: bool = True
    prefetch_experts: bool | None = None
    lock: Lock = "none"
    rope: RopeChange = AS_TRAINED
    swa_full: bool = False
    overrides: tuple[Override, ...] = ()
    gpu: GpuSettings = NO_GPU
    adapters: tuple[AdapterFile, ...] = ()

    def check(self) -> None:
        """Refuse values that no model can be opened with.

        Raises:
            UsageError: Names the setting, its range and its value.
        """
        for name in ("n_ctx", "n_batch", "n_threads"):
            value = getattr(self, name)
            if not isinstance(value, Integral):
                raise UsageError(f"{name}: expected a whole number, found {value!r}")
            if value < 0:
                raise UsageError(f"{name} {value}: expected 0 (the default) or more")
        for name in (self.key_type, self.value_type):
            if name not in CACHE_TYPES:
                raise UsageError(f"cache type `{name}`: expected one of {', '.join(CACHE_TYPES)}")
        for adapter in self.adapters:
            if not math.isfinite(adapter.scale):
                raise UsageError(
                    f"scale {adapter.scale} of LoRA adapter `{adapter.path}`: expected a number"
                )


DEFAULTS = ModelSettings()
"""The defaults of the model and this machine."""
