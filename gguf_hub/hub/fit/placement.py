"""Where the parts of a model go: VRAM, VRAM and RAM, RAM, or the disk for what finds no room."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

from gguf_hub.hub.fit.facts import FileFacts
from gguf_hub.hub.fit.machine import Constraints, Machine
from gguf_hub.hub.fit.memory import MemoryEstimate, need_of, runner_limits
from gguf_hub.hub.fit.offload import (
    GPU_CONTEXT_BYTES,
    GPU_HOST_BYTES,
    GPU_MARGIN_BYTES,
    gpu_need,
    host_bytes_saved,
)

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
        n_gpu_layers: ``-ngl``.
        n_cpu_moe: llama.cpp's ``--n-cpu-moe``: layers whose experts stay in RAM.
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
    if machine.is_unified or not constraints.uses_gpu(machine):
        return limit
    margin_bytes = machine.n_gpus * (GPU_MARGIN_BYTES + GPU_CONTEXT_BYTES)
    return limit + max(0, machine.vram_bytes - margin_bytes)


def placement_of(file: FileFacts, constraints: Constraints, machine: Machine) -> Placement:
    """Put a model onto a machine, as far into fast memory as it goes.

    Args:
        file: The file.
        constraints: Context, K/V type and engine.
        machine: What there is.
    """
    need = need_of(file, constraints, n_threads=machine.n_threads)
    if file.unknown:
        return Placement(Verdict.UNKNOWN)
    if constraints.engine == "gguf-hub" and file.obstacles:
        return Placement(Verdict.NOT_HERE)
    placement = None
    is_on_cpu = file.shape.is_encoder and constraints.engine == "gguf-hub"
    if constraints.uses_gpu(machine) and not is_on_cpu:
        place = _with_gpu if constraints.engine == "llama.cpp" else _runner_with_gpu
        placement = place(file, need, constraints, machine)
    return placement or _without_gpu(file, need, constraints.limit_of(machine))


def _runner_with_gpu(
    file: FileFacts, need: MemoryEstimate, constraints: Constraints, machine: Machine
) -> Placement | None:
    """Give our runner's GPUs the last layers, as many as find room; None for none.

    Experts are not split from their layers as for llama.cpp: what a token reads of a layer besides
    is little, and each layer whose experts stay in RAM would have its inputs sent there and back.
    RAM need not hold the weights of those layers: their pages of the mapped file are dropped.
    """
    limits = runner_limits(constraints, machine.n_threads)
    on_gpu = gpu_need(file, limits)
    own_bytes = machine.n_gpus * on_gpu.own_bytes
    room_bytes = machine.vram_bytes - machine.n_gpus * GPU_MARGIN_BYTES
    n_layer = file.shape.n_layer
    n = on_gpu.most_layers(room_bytes - own_bytes + on_gpu.own_bytes)
    if n == 0:
        return None
    vram_bytes = own_bytes + sum(on_gpu.parts(n))
    saved_bytes = host_bytes_saved(file.layer_weights, n, 0)
    saved_bytes += sum(layer.kv_bytes for layer in on_gpu.layers[max(0, n_layer - n) :])
    saved_bytes += file.head_bytes if n > n_layer else 0
    ram_bytes = max(0, need.total_bytes - saved_bytes) + GPU_HOST_BYTES
    share = min(n, n_layer) / n_layer
    placement = Placement(
        Verdict.VRAM if n > n_layer else Verdict.SPLIT,
        ram_bytes=ram_bytes,
        vram_bytes=vram_bytes,
        n_gpu_layers=ALL_LAYERS if n > n_layer else n,
        gpu_share=(share, share),
    )
    limit = constraints.limit_of(machine)
    if machine.is_unified:  # one memory holds both
        return placement if ram_bytes + vram_bytes <= limit else None
    return placement if ram_bytes <= limit else _short_of_ram(file, placement, limit)


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
