"""The memory and speed of a machine, and the constraints that a pick must satisfy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from gguf_hub.gguf.types import QuantType
from gguf_hub.units import GB

Policy = Literal["balanced", "quality", "fast"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

EngineName = Literal["gguf-hub", "llama.cpp"]

FlashAttention = Literal["auto", "on", "off"]
"""llama.cpp's ``-fa``; ``auto`` is on wherever it can be."""

KV_TYPES = {"f16": QuantType.F16, "q8_0": QuantType.Q8_0, "f32": QuantType.F32}
"""Types that keys and values may be kept in."""

RESERVE_SHARE, MAX_RESERVE_BYTES = 0.1, 3 * GB // 2
"""Memory that is left to other programs by default: a tenth, at most 1.5 GB."""

ASSUMED_RAM_BYTES_PER_S = 20e9
"""Where nobody measured: half of what a desktop of two DDR4 channels reads."""
ASSUMED_DISK_BYTES_PER_S = 1e9
"""Where nobody measured: a solid state disk of the slower kind."""


@dataclass(frozen=True)
class Machine:
    """What a model may use; None is what is not known.

    Attributes:
        ram_bytes: Memory that is available now, the reserve still in it.
        vram_bytes: Free memory of all GPUs; of unified memory the part that a GPU may take.
        is_unified: The GPU's memory is part of ``ram_bytes``.
        n_gpus: How many GPUs share ``vram_bytes``.
        can_offload: Whether our own runner can use these GPUs; llama.cpp can, or so we assume.
        n_threads: Threads that compute.
        isa: Which of our kernels run there: ``generic``, ``avx2``, ``avxvnni``, ``avx512vnni``,
            ``dotprod``.
        ram_bytes_per_s: Measured read bandwidth of all threads together.
        gpu_bytes_per_s: Memory bandwidth of a GPU.
        gpu_weights_bytes_per_s: What our own runner's kernels read of it, measured.
        disk_bytes_per_s: Read speed of the disk where the files lie.
        disk_free_bytes: Room there.
    """

    ram_bytes: int
    vram_bytes: int = 0
    is_unified: bool = False
    n_gpus: int = 1
    can_offload: bool = False
    n_threads: int = 1
    isa: str = "generic"
    ram_bytes_per_s: float | None = None
    gpu_bytes_per_s: float | None = None
    gpu_weights_bytes_per_s: float | None = None
    disk_bytes_per_s: float | None = None
    disk_free_bytes: int | None = None


@dataclass(frozen=True)
class Constraints:
    """What a pick must satisfy.

    Attributes:
        n_ctx: Tokens of context.
        kv_type: A key of ``KV_TYPES``.
        engine: Who runs the file.
        flash_attn: Whether llama.cpp computes without keeping all scores; ours always does.
        policy: What counts among the files that fit, see ``choose``.
        reserve_bytes: RAM that stays with other programs; None for the default.
        min_tok_per_s: Slower files do not count; None for any speed.
    """

    n_ctx: int = 4096
    kv_type: str = "f16"
    engine: EngineName = "gguf-hub"
    flash_attn: FlashAttention = "auto"
    policy: str = "balanced"
    reserve_bytes: int | None = None
    min_tok_per_s: float | None = None

    def uses_gpu(self, machine: Machine) -> bool:
        """Tell whether the engine has a use for the machine's VRAM."""
        return machine.vram_bytes > 0 and (self.engine == "llama.cpp" or machine.can_offload)

    def reserve_of(self, machine: Machine) -> int:
        """Return the bytes of RAM that are left to other programs."""
        if self.reserve_bytes is not None:
            return self.reserve_bytes
        return round(min(MAX_RESERVE_BYTES, machine.ram_bytes * RESERVE_SHARE))

    def limit_of(self, machine: Machine) -> int:
        """Return the bytes of RAM that the model may take."""
        return max(0, machine.ram_bytes - self.reserve_of(machine))


_NEEDS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avxvnni": {"avx2", "fma", "f16c", "avx_vnni"},
    "avx512vnni": {"avx2", "fma", "f16c", "avx512_vnni", "avx512vl", "avx512bw"},
    "dotprod": {"asimddp"},
}


def isa_of(simd: Iterable[str]) -> str:
    """Return which of our kernels run on a CPU, given its features as Linux names them."""
    has = set(simd)
    able = ["generic", *(isa for isa, needs in _NEEDS.items() if needs <= has)]
    return able[-1]
