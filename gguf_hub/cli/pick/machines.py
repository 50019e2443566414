"""From this machine, and what a user says of another one, to the machine that ``fit`` judges by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.hub.fit import Machine
    from gguf_hub.hub.hardware import Hardware, Speeds


class Rate(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A speed in bytes a second: ``936GB/s``, ``936GB``, or a bare number of GB/s."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the bytes a second that the text names.

        Raises:
            UsageError: The text is no rate; it names the option.
        """
        from gguf_hub.cli.options import SIZE
        from gguf_hub.errors import UsageError

        if isinstance(value, float):
            return value
        found = SIZE.convert(str(value).strip().removesuffix("/s"), param, ctx)
        if found <= 0:
            where = f"`{param.opts[0]}`: " if param else ""
            raise UsageError(
                f"{where}`{value}` is no speed: expected more than 0", hint="for example 60GB/s"
            )
        return float(found)


class Disk(click.ParamType):  # type: ignore[type-arg]  # as above
    """What is free on a disk (``500GB``) or how fast it reads (``3.5GB/s``)."""

    name = "size|rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Return (``free`` or ``rate``, bytes)."""
        from gguf_hub.cli.options import SIZE

        if isinstance(value, tuple):
            return value
        if str(value).strip().endswith("/s"):
            return "rate", RATE.convert(value, param, ctx)
        return "free", SIZE.convert(value, param, ctx)


RATE, DISK = Rate(), Disk()


@dataclass(frozen=True)
class MachineOverrides:
    """What the user says of a machine, in place of what is seen; None for nothing.

    Attributes:
        ram_bytes: Another memory: this machine's GPU is no part of that question.
        reserve_bytes: Memory that is left to other programs, in place of the default.
        disk: Pairs of ``free`` or ``rate`` and bytes.
        may_probe: Speeds that are not known yet may be measured.
    """

    ram_bytes: int | None = None
    vram_bytes: int | None = None
    gpu_bytes_per_s: float | None = None
    disk: tuple[tuple[str, float], ...] = ()
    may_probe: bool = False
    reserve_bytes: int | None = None


@dataclass(frozen=True)
class DetectedMachine:
    """The machine to judge by, and this machine as it is."""

    machine: Machine
    hardware: Hardware
    target: Path
    may_probe: bool

    def with_disk(self) -> DetectedMachine:
        """Return the same with the disk's speed, measured if need be and allowed."""
        if self.machine.disk_bytes_per_s is not None or not self.may_probe:
            return self
        found = _speeds(self.hardware, self.target, may_probe=True, with_disk=True)
        speed = found.disk_bytes_per_s
        return replace(self, machine=replace(self.machine, disk_bytes_per_s=speed))


def look(told: MachineOverrides = MachineOverrides()) -> DetectedMachine:
    """Look at this machine, with what the user says in place of what is seen.

    Raises:
        GgufHubError: Nobody knows how much memory there is.
    """
    from gguf_hub.errors import GgufHubError
    from gguf_hub.hub import hardware
    from gguf_hub.hub.client import default_cache_dir

    seen = hardware.detect()
    if seen.ram_available_bytes is None and told.ram_bytes is None:
        raise GgufHubError(
            "the memory of this machine cannot be read", hint="say how much: `--ram 24GB`"
        )
    machine = machine_of(seen if told.ram_bytes is not None else _steady(seen, told), told)
    return DetectedMachine(machine, seen, default_cache_dir(), told.may_probe)


def _steady(seen: Hardware, told: MachineOverrides) -> Hardware:
    """Return the same with the available memory of the last pick, as long as it is nearly that.

    Half of the reserve is what it may differ by: the other half is left to other programs still.
    """
    from gguf_hub.hub.fit import Constraints, Machine
    from gguf_hub.hub.hardware import machine_key, steady_bytes

    available = seen.ram_available_bytes
    assert available is not None, "asked before"
    reserves = [Constraints().reserve_of(Machine(available)), told.reserve_bytes]
    band = min(each for each in reserves if each is not None) // 2
    key = machine_key(seen.cpu_name, seen.n_threads)
    return replace(seen, ram_available_bytes=steady_bytes(key, available, band))


def machine_of(seen: Hardware, told: MachineOverrides = MachineOverrides()) -> Machine:
    """Return the machine to judge by; unknown memory is none."""
    from gguf_hub.hub.client import default_cache_dir
    from gguf_hub.hub.fit import Machine, isa_of

    speeds = _speeds(seen, default_cache_dir(), may_probe=told.may_probe)
    disk = dict(told.disk)
    free = disk.get("free")
    machine = Machine(
        ram_bytes=(seen.ram_available_bytes or 0) if told.ram_bytes is None else told.ram_bytes,
        n_threads=seen.n_threads,
        isa=isa_of(seen.simd),
        ram_bytes_per_s=speeds.ram_bytes_per_s,
        disk_bytes_per_s=disk.get("rate", speeds.disk_bytes_per_s),
        disk_free_bytes=seen.disk_free_bytes if free is None else round(free),
    )
    return _with_gpu(machine, seen, told)


def _with_gpu(machine: Machine, seen: Hardware, told: MachineOverrides) -> Machine:
    """Add the GPU: the one that was told, or this machine's where the question is about it."""
    rate = told.gpu_bytes_per_s
    if told.vram_bytes is not None:
        return replace(machine, vram_bytes=told.vram_bytes, gpu_bytes_per_s=rate)
    if told.ram_bytes is not None:
        return machine
    if seen.vram_free_bytes:
        n_gpus = sum(not gpu.is_unified for gpu in seen.gpus)
        rate = rate or seen.gpu_bytes_per_s
        return replace(
            machine, vram_bytes=seen.vram_free_bytes, n_gpus=n_gpus, gpu_bytes_per_s=rate
        )
    if seen.unified_bytes:
        # both read the same memory
        rate = rate or machine.ram_bytes_per_s
        return replace(
            machine, vram_bytes=seen.unified_bytes, is_unified=True, gpu_bytes_per_s=rate
        )
    return machine


def _speeds(seen: Hardware, target: Path, *, may_probe: bool, with_disk: bool = False) -> Speeds:
    """Return what is known of the speeds of this machine, measured first where that is allowed."""
    from gguf_hub.hub.hardware import machine_key, measure, recall_speeds

    key = machine_key(seen.cpu_name, seen.n_threads)
    found = recall_speeds(key, target)
    is_known = found.disk_bytes_per_s if with_disk else found.ram_bytes_per_s
    if is_known or not may_probe:
        return found
    what = "disk" if with_disk else "memory"
    console.note(f"measuring how fast this machine reads {what}: once, for a second")
    return measure(
        key,
        target,
        n_threads=seen.n_threads,
        l3_bytes=seen.last_cache_bytes,
        available_bytes=seen.ram_available_bytes,
        with_disk=with_disk,
    )
