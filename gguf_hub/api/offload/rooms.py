"""GPUs with the memory that is free on them, and layers dealt to them by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gguf_hub.errors import UsageError

if TYPE_CHECKING:
    from gguf_hub.api.offload.request import OffloadRequest
    from gguf_hub.hub.fit import GpuNeed
    from gguf_hub.hub.hardware import Gpu
    from gguf_hub.run.gpu.adapters import Adapter, GpuReport


@dataclass(frozen=True)
class Room:
    """A GPU to put layers on.

    Attributes:
        adapter: The GPU.
        free_bytes: Its free memory; None where nobody tells.
        is_detected: Whether the system told it; else it is a part of the RAM, as usual.
    """

    adapter: Adapter
    free_bytes: int | None
    is_detected: bool = False

    @property
    def name(self) -> str:
        """The driver's name of it."""
        return self.adapter.info.name


def rooms_of(adapters: Sequence[Adapter], gpus: Sequence[Gpu], ram_bytes: int) -> list[Room]:
    """Return the free memory of each GPU.

    Drivers of graphics do not tell it, so it is that of the GPU of the same name, or else of the
    next of the same maker, as the system lists them.

    Args:
        adapters: As drivers list them.
        gpus: As the system lists them, with their memory.
        ram_bytes: Free RAM, of which a processor's graphics may take half where nobody tells.
    """
    left, rooms = list(gpus), []
    for adapter in adapters:
        gpu = _same(adapter, left)
        if gpu is not None:
            left.remove(gpu)
        rooms.append(Room(adapter, _free(adapter, gpu, ram_bytes), gpu is not None))
    return rooms


def _same(adapter: Adapter, gpus: Sequence[Gpu]) -> Gpu | None:
    info = adapter.info
    if info.backend == "Metal":
        return next((gpu for gpu in gpus if gpu.is_unified), None)
    alike = [gpu for gpu in gpus if gpu.vendor_id == info.vendor_id]
    named = [gpu for gpu in alike if gpu.name == info.name]
    return next(iter(named + alike), None)


def _free(adapter: Adapter, gpu: Gpu | None, ram_bytes: int) -> int | None:
    if gpu is not None and not gpu.is_unified:
        return gpu.vram_free_bytes
    if gpu is not None:
        return min(gpu.vram_free_bytes or ram_bytes, ram_bytes)
    return ram_bytes // 2 if adapter.info.kind in ("IntegratedGPU", "CPU") else None


# ---- which GPUs --------------------------------------------------------------------------------


def chosen_rooms(request: OffloadRequest, report: GpuReport, rooms: Sequence[Room]) -> list[Room]:
    """Return the GPUs to use, in order.

    By default all cards, but for those that the system hides (``CUDA_VISIBLE_DEVICES``) and whose
    memory is therefore unknown; a processor's own graphics only where there is no card.

    Args:
        request: What is asked for.
        report: All GPUs.
        rooms: Those that can be used.

    Raises:
        UsageError: A GPU is named that is not there or cannot be used.
    """
    if request.devices:
        by_index = {room.adapter.index: room for room in rooms}
        named = dict.fromkeys(_named(name, report).index for name in request.devices)
        chosen = [by_index[index] for index in named]
    else:
        cards = [room for room in rooms if room.adapter.info.kind == "DiscreteGPU"]
        chosen = [room for room in cards if room.free_bytes is not None] or cards
        chosen = chosen or list(rooms[:1])
    if len(request.split) > len(chosen):
        raise UsageError(
            f"shares for {len(request.split)} GPUs: {len(chosen)} can be used",
            hint="`gguf-hub doctor` lists them",
        )
    if request.mode == "none":
        if request.main_gpu >= len(chosen):
            raise UsageError(f"main GPU {request.main_gpu}: expected [0, {len(chosen) - 1}]",
                             hint="`gguf-hub doctor` lists the GPUs")  # fmt: skip
        return [chosen[request.main_gpu]]
    return chosen


def _named(name: str, report: GpuReport) -> Adapter:
    """Return the GPU of a number, ``Vulkan0`` and the like, or a part of a name."""
    digits = name[len(name.rstrip("0123456789")) :]
    is_number = bool(digits) and name[: -len(digits)].lower() in _PREFIXES
    found = [each for each in report.adapters
             if (each.index == int(digits) if is_number
                 else name.lower() in each.info.name.lower())]  # fmt: skip
    listed = "; ".join(f"{each.index}: {each.info.name}" for each in report.adapters)
    if len(found) != 1:
        what = "names several GPUs" if found else "names no GPU"
        raise UsageError(f"device `{name}` {what}", hint=f"there are {listed}")
    if found[0].problem:
        raise UsageError(f"device `{name}` ({found[0].info.name}) is not used: {found[0].problem}")
    return found[0]


_PREFIXES = ("", "gpu", "cuda", "vulkan", "rocm", "metal", "mtl", "sycl", "dx")


# ---- how many layers ---------------------------------------------------------------------------


def shares_of(request: OffloadRequest, rooms: Sequence[Room], need: GpuNeed) -> list[float]:
    """Return the share of the layers for each GPU: those asked for, or by free memory."""
    if any(request.split) and len(rooms) > 1:
        return [*request.split, *[0.0] * (len(rooms) - len(request.split))]
    return [max(1.0, float((room.free_bytes or 0) - need.own_bytes)) for room in rooms]


def most_layers(
    need: GpuNeed, free: Sequence[int], shares: Sequence[float], n_cpu_moe: int = 0
) -> int:
    """Return how many layers fit, dealt by shares; 0 for none.

    Args:
        need: What they take.
        free: Bytes of each GPU.
        shares: Of each GPU.
        n_cpu_moe: Of how many layers the experts stay in RAM.
    """
    from gguf_hub.run.gpu.placement import place_layers

    n_layer = len(need.layers)
    for n in range(n_layer + 1, 0, -1):
        placement = place_layers(n_layer, n, shares=shares, n_cpu_moe=n_cpu_moe)
        devices = [each for each in (*placement.layers, placement.head) if each >= 0]
        taken = [0] * len(free)
        for device, size in zip(devices, need.parts(n, n_cpu_moe), strict=True):
            taken[device] += size
        if all(size == 0 or need.own_bytes + size <= room
               for size, room in zip(taken, free, strict=True)):  # fmt: skip
            return n
    return 0
