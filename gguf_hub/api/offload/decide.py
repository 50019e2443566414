"""From what was asked for to what is done: numbers that a model is opened with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gguf_hub.api.offload.request import OffloadRequest
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.model.settings import NO_GPU, ON_CPU_WITH_ADAPTERS, GpuSettings, ModelSettings

if TYPE_CHECKING:
    from gguf_hub.api.offload.rooms import Room
    from gguf_hub.gguf.memory.layout import Limits
    from gguf_hub.hub.fit import FileFacts, GpuNeed
    from gguf_hub.hub.hardware import Hardware
    from gguf_hub.run.gpu.adapters import GpuReport

_ALL = "everything runs on the CPU"


def decide_offload(
    path: Path, settings: ModelSettings, request: OffloadRequest, progress: Progress = SILENT
) -> GpuSettings:
    """Return what GPUs compute of a model: what was asked for, as far as there is room.

    Args:
        path: The GGUF file, or any shard of a set.
        settings: How it is opened otherwise: context, slots and types take memory.
        request: What was asked for.
        progress: Gets one line where that is not what is done, or what GPUs compute.

    Raises:
        UsageError: Something was asked for that can never be right on this machine.
        GgufError: The file cannot be read.
    """
    request.check()
    if request.n_layers == 0 or request.devices == ():
        return NO_GPU
    from gguf_hub.run.gpu.adapters import find_gpus, may_have_gpu

    if not (request.is_explicit or may_have_gpu()):
        return NO_GPU
    if settings.adapters:
        progress.note(f"{request.label}: {ON_CPU_WITH_ADAPTERS}")
        return NO_GPU
    report = find_gpus()
    if not report.usable:
        if request.is_explicit:
            progress.note(f"{request.label}: {_ALL}: {report.problem}; {report.hint}")
        return NO_GPU
    from gguf_hub.hub.hardware import detect
    from gguf_hub.hub.survey.headers import facts_of_file
    from gguf_hub.resources import usable_threads
    from gguf_hub.run.model.limits import limits_of

    facts = facts_of_file(path)
    if facts.shape.is_encoder:
        if request.is_explicit:
            progress.note(f"{request.label}: {_ALL}: GPUs do not compute encoders")
        return NO_GPU
    rooms = _rooms(request, report, detect())
    limits = limits_of(facts.shape.n_ctx_train, settings, usable_threads())
    return _deal(path, facts, limits, request, rooms, progress)


def default_rooms(report: GpuReport, hardware: Hardware) -> list[Room]:
    """Return the GPUs that are used where nothing else is asked for, with their free memory."""
    return _rooms(OffloadRequest(), report, hardware) if report.usable else []


def _rooms(request: OffloadRequest, report: GpuReport, hardware: Hardware) -> list[Room]:
    """Return the GPUs to use; memory is that of the whole list, as equal cards are told by order.

    Raises:
        UsageError: A GPU is named that is not there or cannot be used.
    """
    from gguf_hub.api.offload.rooms import chosen_rooms, rooms_of

    rooms = rooms_of(report.usable, hardware.gpus, hardware.ram_available_bytes or 0)
    return chosen_rooms(request, report, rooms)


def _deal(
    path: Path, facts: FileFacts, limits: Limits, request: OffloadRequest, rooms: Sequence[Room],
    progress: Progress,
) -> GpuSettings:  # fmt: skip
    from gguf_hub.hub.fit import gpu_need

    need = gpu_need(facts, limits)
    n_cpu_moe = _n_cpu_moe(path, facts, request, progress)
    n_all = facts.shape.n_layer + 1
    wanted = n_all if request.n_layers is None else min(request.n_layers, n_all)
    if any(room.free_bytes is None for room in rooms):
        return _unchecked(request, wanted, n_cpu_moe, rooms, progress)
    rooms, shares, n_fitting = _spread(request, need, n_cpu_moe, rooms, wanted)
    n = min(wanted, n_fitting)
    if n:
        note = f"{_names(rooms)}: {_count(n, n_all)}{_without_experts(n, n_cpu_moe, n_all)}"
    else:
        note = f"{_names(rooms)}: no room for a layer of {_gb(max(need.parts(1)))}; {_ALL}"
    if n < wanted and request.is_explicit:
        note = f"{request.label}: {note}: no more fit"
    if n < wanted or not request.is_quiet:
        progress.note(note)
    return _settings(n, n_cpu_moe, rooms, shares) if n else NO_GPU


def _spread(
    request: OffloadRequest, need: GpuNeed, n_cpu_moe: int, rooms: Sequence[Room], wanted: int
) -> tuple[Sequence[Room], Sequence[float], int]:
    """Return the GPUs to use, their shares, and how many layers fit.

    One GPU is used alone where it holds all that is wanted: each further one has a token's numbers
    pass through RAM, and its own copy of what layers compute in.
    """
    from gguf_hub.api.offload.rooms import most_layers, shares_of

    free = [_budget(room, request) for room in rooms]
    largest = max(range(len(rooms)), key=free.__getitem__)
    alone = need.most_layers(free[largest], n_cpu_moe)
    is_free_to_choose = not request.split and not request.devices
    if len(rooms) == 1 or (is_free_to_choose and alone >= wanted):
        return [rooms[largest]], (), alone
    shares = shares_of(request, rooms, need)
    return rooms, shares, most_layers(need, free, shares, n_cpu_moe)


def _budget(room: Room, request: OffloadRequest) -> int:
    """Return what may be taken: as for llama.cpp, less a margin where nobody asked for more."""
    from gguf_hub.hub.fit.offload import GPU_MARGIN_BYTES

    margin = 0 if request.n_layers is not None else GPU_MARGIN_BYTES
    return max(0, (room.free_bytes or 0) - margin)


def _unchecked(
    request: OffloadRequest, wanted: int, n_cpu_moe: int, rooms: Sequence[Room], progress: Progress
) -> GpuSettings:
    """Do what was asked for where nobody tells how much memory is free; nothing by itself."""
    unknown = next(room for room in rooms if room.free_bytes is None)
    if request.n_layers is None:
        progress.note(f"`{unknown.name}`: its free memory is unknown; {_ALL}: `-ngl N` puts N "
                      "layers on it")  # fmt: skip
        return NO_GPU
    shares = request.split or (1.0,) * len(rooms)
    return _settings(wanted, n_cpu_moe, rooms, shares)


def _settings(
    n: int, n_cpu_moe: int, rooms: Sequence[Room], shares: Sequence[float]
) -> GpuSettings:
    """Leave GPUs without a share out: each takes memory for what it computes in."""
    split = [*shares, *[0.0] * (len(rooms) - len(shares))] if shares else [1.0] * len(rooms)
    used = [(room, share) for room, share in zip(rooms, split, strict=True) if share > 0]
    return GpuSettings(
        n_layers=n,
        n_cpu_moe=n_cpu_moe,
        devices=tuple(room.adapter.index for room, _ in used),
        split=tuple(share for _, share in used) if len(used) > 1 else (),
    )


def _n_cpu_moe(path: Path, facts: FileFacts, request: OffloadRequest, progress: Progress) -> int:
    """Return of how many of the first layers the experts stay in RAM; 0 for a dense model."""
    n = min(request.n_cpu_moe, facts.shape.n_layer) if facts.shape.n_expert else 0
    if request.cpu_patterns:
        from gguf_hub.api.offload.patterns import n_cpu_moe_of, unmatched
        from gguf_hub.gguf.shards import open_gguf

        with open_gguf(path) as file:
            n = max(n, n_cpu_moe_of(request.cpu_patterns, file.tensors, facts.shape.n_layer))
            for pattern in unmatched(request.cpu_patterns, file.tensors):
                progress.note(f"-ot `{pattern}=CPU` matches no tensor of {path.name}")
    return n


def _names(rooms: Sequence[Room]) -> str:
    return ", ".join(f"`{room.name}`" for room in rooms)


def _count(n: int, n_all: int) -> str:
    return f"all {n_all} layers" if n == n_all else f"{n} of {n_all} layers"


def _without_experts(n: int, n_cpu_moe: int, n_all: int) -> str:
    """Say of how many of the last n layers the experts stay in RAM."""
    n_kept = max(0, n_cpu_moe - max(0, n_all - 1 - n))
    return f", the experts of {n_kept} of them in RAM" if n_kept else ""


def _gb(size_bytes: int) -> str:
    from gguf_hub.units import format_gb

    return format_gb(size_bytes)
