"""Graphics processors: what they are, and which of them this process may use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One graphics processor and its memory.

    Attributes:
        vram_total_bytes: Of its own, or what it may take of the RAM that it shares; 0 where it
            shares all of it.
        vram_free_bytes: What of it is free now.
        bytes_per_s: Bandwidth of its memory by clock and width of the bus; None if unknown.
        is_unified: It has no memory of its own.
        vendor_id: Its maker's number on the PCI bus; 0 if unknown.
    """

    name: str
    vram_total_bytes: int
    vram_free_bytes: int
    bytes_per_s: float | None = None
    is_unified: bool = False
    vendor_id: int = 0


NVIDIA, AMD = 0x10DE, 0x1002
"""Makers' numbers on the PCI bus."""


@dataclass(frozen=True)
class DetectedGpus:
    """The GPUs, and notes on what could not be read."""

    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Device:
    """A GPU as its driver lists it.

    Attributes:
        gpu: The GPU; None where its memory cannot be read.
        index: Its number among the driver's GPUs; instances of one divided GPU share it.
        ids: What a variable may call it besides.
    """

    gpu: Gpu | None
    index: int
    ids: tuple[str, ...] = ()


def visible_devices(
    devices: Sequence[Device], variable: str
) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """Return the devices that a variable of the environment leaves to us, and a note of the rest.

    Args:
        devices: As the driver lists them.
        variable: ``CUDA_VISIBLE_DEVICES`` or one that is written so: numbers, or ids or beginnings
            of ids that fit one GPU only. What follows an item that names no GPU is not read, so
            that ``""`` and ``-1`` leave none.

    Source: CUDA C++ programming guide, CUDA environment variables.
    """
    value = os.environ.get(variable)
    if value is None or not devices:
        return tuple(devices), ()
    chosen: list[Device] = []
    for item in value.split(","):
        named = _named(devices, item.strip())
        if named is None:
            break
        if named not in chosen:
            chosen.append(named)
    left_out = len(devices) - len(chosen)
    note = f"{variable}={value[:60]!r} leaves {len(chosen)} of {len(devices)} GPUs"
    return tuple(chosen), (note,) if left_out else ()


def _named(devices: Sequence[Device], item: str) -> Device | None:
    """Return the device that an item of the variable names; of a divided GPU the first instance."""
    if item.isascii() and item.isdecimal():
        return next((device for device in devices if device.index == int(item)), None)
    fits = [each for each in devices if item and any(id_.startswith(item) for id_ in each.ids)]
    return fits[0] if len({device.index for device in fits}) == 1 else None
