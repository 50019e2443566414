"""Where the parts of a model go: VRAM, VRAM and RAM, RAM, or the disk for what finds no room."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

from gguf_hub.hub.fit.facts import FileFacts
from gguf_hub.hub.fit.machine import Constraints, Machine
from gguf_hub.hub.fit.memory import MemoryEstimate, need_of

GPU_CONTEXT_BYTES = 260_000_000  # what a GPU's driver takes for a program
GPU_MARGIN_BYTES = 2**30  # what llama.cpp leaves free on each GPU (`--fit-target`)
ALL_LAYERS = 99  # `-ngl` for "all of them", whatever the model


class Verdict(str, Enum):
    """Where a file can be run from."""

    VRAM = "fits in VRAM"
    SPLIT = "GPU and RAM"
    RAM = "fits in RAM"
    DISK = "from disk"
    TOO_BIG = "too big"
    NOT_HERE = "does not run"
    UNKNOWN = "unknown"

    @property
    def is_in_memory(self) -> bool:
        """All that a token reads stays in memory."""
        return self in (Verdict.VRAM, Verdict.SPLIT, Verdict.RAM)

    @property
    def is_hopeless(self) -> bool:
        """No memory helps: it does not run, or that is not known."""
        return self in (Verdict.NOT_HERE, Verdict.UNKNOWN)


@dataclass(frozen=True)
class Placement:
    """What goes where.

    Attributes:
        verdict: The sum of it.
        ram_bytes: Taken of RAM; from disk, all that there is.
        vram_bytes: Taken of VRAM, without the margin.
        n_gpu_layers: llama.cpp's ``-ngl``.
        n_cpu_moe: Its ``--n-cpu-moe``: layers whose experts stay in RAM.
        gpu_share: How much of the active dense and expert weights lie in VRAM, each 0 to 1.
        miss_share: How much of the active experts is read from disk for each token, on average.
        lacking_bytes: RAM that is missing for all to stay in memory.
    """

    verdict: Verdict
    ram_bytes: int = 0
    vram_bytes: int = 0
    n_gpu_layers: int = 0
    n_cpu_moe: int = 0
    gpu_share: tuple[float, float] = (0.0, 0.0)
    miss_share: float = 0.0
    lacking_bytes: int = 0


def memory_limit(constraints: Constraints, machine: Machine) -> int:
    """Return the bytes that a model may take at most, RAM and VRAM together."""
    limit = constraints.limit_of(machine)
    if constraints.engine == "gguf-hub" or machine.is_unified or not machine.vram_bytes:
        return limit
    margin_bytes = machine.n_gpus * (GPU_MARGIN_BYTES + GPU_CONTEXT_BYTES)
    return limit + max(0, machine.vram_bytes - margin_bytes)


def placement_of(file: FileFacts, constraints: Constraints, machine: Machine) -> Placement:
    """Put a model onto a machine, as far into fast memory as it goes.

    Args:
        file: The file.
        constraints: Context, K/V type and engine; our runner has no use for a GPU.
        machine: What there is.
    """
    need = need_of(file, constraints, n_threads=machine.n_threads)
    if file.unknown:
        return Placement(Verdict.UNKNOWN)
    if constraints.engine == "gguf-hub" and file.obstacles:
        return Placement(Verdict.NOT_HERE)
    has_use = constraints.engine == "llama.cpp" and machine.vram_bytes > 0
    placement = _with_gpu(file, need, constraints, machine) if has_use else None
    return placement or _without_gpu(file, need, constraints.limit_of(machine))


def _with_gpu(
    file: FileFacts, need: MemoryEstimate, constraints: Constraints, machine: Machine
) -> Placement | None:
    """Return the best use of the GPU, or None where it is of none."""
    all_layers_bytes = _on_gpu(file, need, file.shape.n_layer, machine)
    limit = constraints.limit_of(machine)
    host_bytes = file.embedding_bytes + need.overhead_bytes
    if machine.is_unified:
        fits = (
            all_layers_bytes + GPU_MARGIN_BYTES <= machine.vram_bytes and need.total_bytes <= limit
        )
        gpu = min(all_layers_bytes, need.total_bytes)
        placement = Placement(
            Verdict.VRAM, need.total_bytes - gpu, gpu, ALL_LAYERS, gpu_share=(1.0, 1.0)
        )
        return placement if fits else None
    room = machine.vram_bytes - machine.n_gpus * GPU_MARGIN_BYTES
    if all_layers_bytes <= room:
        # the table of embeddings is looked up by the CPU
        return Placement(
            Verdict.VRAM, host_bytes, all_layers_bytes, ALL_LAYERS, gpu_share=(1.0, 1.0)
        )
    split = _split_experts(file, need, room, machine) if file.shape.n_expert else None
    split = split or _split_layers(file, need, room, machine)
    if split is None or split.ram_bytes <= limit:
        return split
    return _short_of_ram(file, split, limit)


def _on_gpu(file: FileFacts, need: MemoryEstimate, n_expert_layers: int, machine: Machine) -> int:
    """Return the VRAM for all layers, the experts of so many of them among it.

    ::

        dense + n_expert_layers x experts of a layer + K/V + scratch + a context on each GPU
    """
    experts = file.expert_bytes * n_expert_layers // file.shape.n_layer
    own = need.kv_bytes + need.scratch_bytes + machine.n_gpus * GPU_CONTEXT_BYTES
    return file.dense_bytes + experts + own


def _split_experts(
    file: FileFacts, need: MemoryEstimate, room_bytes: int, machine: Machine
) -> Placement | None:
    """Keep the experts of the first k layers in RAM, everything else in VRAM.

    ::

        k = ceil((need of the whole - room) / experts of a layer)

    E.g. Mixtral Q4_K_M at 4096 tokens on 24 GB: k = 6 of 32.

    Source: llama.cpp's ``--n-cpu-moe``.
    """
    n_layer = file.shape.n_layer
    layer_bytes = file.expert_bytes / n_layer
    over_bytes = _on_gpu(file, need, n_layer, machine) - room_bytes
    k = math.ceil(over_bytes / layer_bytes)
    if k > n_layer:
        return None
    return Placement(
        Verdict.SPLIT,
        ram_bytes=math.ceil(k * layer_bytes) + file.embedding_bytes + need.overhead_bytes,
        vram_bytes=_on_gpu(file, need, n_layer - k, machine),
        n_gpu_layers=ALL_LAYERS,
        n_cpu_moe=k,
        gpu_share=(1.0, (n_layer - k) / n_layer),
    )


def _split_layers(
    file: FileFacts, need: MemoryEstimate, room_bytes: int, machine: Machine
) -> Placement | None:
    """Put the last n layers into VRAM, each with its part of the K/V cache.

    Source: llama.cpp's ``-ngl``.
    """
    n_layer = file.shape.n_layer
    output_bytes = sum(share.size_bytes for share in file.tensors if share.role == "output")
    weights_bytes = (file.weights_bytes - file.embedding_bytes - output_bytes) / n_layer
    own_bytes = need.scratch_bytes + machine.n_gpus * GPU_CONTEXT_BYTES
    n, layers_bytes = 0, 0.0
    for kv_bytes in reversed(need.layer_kv_bytes):
        if own_bytes + layers_bytes + weights_bytes + kv_bytes > room_bytes:
            break
        n, layers_bytes = n + 1, layers_bytes + weights_bytes + kv_bytes
    if n < 1:
        return None
    share = n / n_layer
    return Placement(
        Verdict.SPLIT,
        ram_bytes=math.ceil(need.total_bytes - layers_bytes),
        vram_bytes=math.ceil(layers_bytes) + own_bytes,
        n_gpu_layers=n,
        gpu_share=(share, share),
    )


def _short_of_ram(file: FileFacts, split: Placement, limit_bytes: int) -> Placement:
    """Read again and again from disk what of the RAM's part finds no room there."""
    lacking_bytes = split.ram_bytes - limit_bytes
    if lacking_bytes > file.expert_bytes * (1 - split.gpu_share[1]):
        return Placement(Verdict.TOO_BIG, split.ram_bytes, lacking_bytes=lacking_bytes)
    return replace(
        split,
        verdict=Verdict.DISK,
        ram_bytes=limit_bytes,
        miss_share=lacking_bytes / file.expert_bytes,
        lacking_bytes=lacking_bytes,
    )


def _without_gpu(file: FileFacts, need: MemoryEstimate, limit_bytes: int) -> Placement:
    """Judge by RAM alone.

    What does not fit is read from disk again: the system keeps of the file what has room. A model
    runs so as long as the part that every token reads stays; of the experts (of the feed-forward
    part, in a dense model) the share that has no room is missed by a token.
    """
    if need.total_bytes <= limit_bytes:
        return Placement(Verdict.RAM, ram_bytes=need.total_bytes)
    lacking_bytes = need.total_bytes - limit_bytes
    spare_bytes = limit_bytes - need.own_bytes - file.dense_bytes
    if spare_bytes < 0 or not file.expert_bytes:
        return Placement(Verdict.TOO_BIG, need.total_bytes, lacking_bytes=lacking_bytes)
    return Placement(
        Verdict.DISK,
        ram_bytes=limit_bytes,
        miss_share=max(0.0, 1 - spare_bytes / file.expert_bytes),
        lacking_bytes=lacking_bytes,
    )
