"""The machine to pick for: this one, with the user's overrides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.api.offload.rooms import Room
    from gguf_hub.hub.fit import Machine
    from gguf_hub.hub.hardware import Hardware, Speeds
    from gguf_hub.run.gpu.adapters import Adapter


class Rate(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A rate in bytes per second: ``936GB/s``, ``936GB``, or a bare number of GB/s."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return bytes per second.

        Raises:
            UsageError: The text is not a rate; the message names the option.
        """
        from gguf_hub.cli.options import SIZE
        from gguf_hub.errors import UsageError

        if isinstance(value, float):
            return value
        bytes_per_s = SIZE.convert(str(value).strip().removesuffix("/s"), param, ctx)
        if bytes_per_s <= 0:
            where = f"`{param.opts[0]}`: " if param else ""
            raise UsageError(
                f"{where}`{value}` is not a rate: expected more than 0", hint="for example 60GB/s"
            )
        return float(bytes_per_s)


class Disk(click.ParamType):  # type: ignore[type-arg]  # as above
    """Free disk space (``500GB``) or read speed (``3.5GB/s``)."""

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
    """Properties that replace the detected ones; None for no override.

    Attributes:
        ram_bytes: RAM of another machine, so that this machine's GPU does not count.
        reserve_bytes: Memory left for other programs.
        disk: Pairs of ``free`` or ``rate`` and bytes.
        may_probe: Measure unknown speeds.
    """

    ram_bytes: int | None = None
    vram_bytes: int | None = None
    gpu_bytes_per_s: float | None = None
    disk: tuple[tuple[str, float], ...] = ()
    may_probe: bool = False
    reserve_bytes: int | None = None

    @property
    def keeps_gpu(self) -> bool:
        """Whether the GPU to pick for is this machine's, as it is."""
        return (self.ram_bytes, self.vram_bytes, self.gpu_bytes_per_s) == (None, None, None)


@dataclass(frozen=True)
class DetectedMachine:
    """The machine to pick for, and the hardware of this machine.

    Attributes:
        target: Where files would lie.
        may_probe: Measure unknown speeds.
        may_probe_gpu: Those of the GPU, too: it is this machine's.
    """

    machine: Machine
    hardware: Hardware
    target: Path
    may_probe: bool
    may_probe_gpu: bool = False

    def with_gpu(self) -> DetectedMachine:
        """Return the same with the speed of our kernels there, measured if unknown and allowed."""
        if self.machine.gpu_weights_bytes_per_s is not None or not self.may_probe_gpu:
            return self
        speed = _gpu_speed(self.hardware, may_probe=True)
        return replace(self, machine=replace(self.machine, gpu_weights_bytes_per_s=speed))

    def with_disk(self) -> DetectedMachine:
        """Return the same with the disk's speed, measured if unknown and allowed."""
        if self.machine.disk_bytes_per_s is not None or not self.may_probe:
            return self
        speeds = _speeds(self.hardware, self.target, may_probe=True, with_disk=True)
        speed = speeds.disk_bytes_per_s
        return replace(self, machine=replace(self.machine, disk_bytes_per_s=speed))


def detect_machine(overrides: MachineOverrides = MachineOverrides()) -> DetectedMachine:
    """Detect this machine and apply overrides.

    Raises:
        GgufHubError: The amount of memory is unknown.
    """
    from gguf_hub.errors import GgufHubError
    from gguf_hub.hub.hardware import detect
    from gguf_hub.paths import default_cache_dir

    hardware = detect()
    if hardware.ram_available_bytes is None and overrides.ram_bytes is None:
        raise GgufHubError(
            "the memory of this machine cannot be detected", hint="give it with `--ram 24GB`"
        )
    machine = machine_of(_with_steady_memory(hardware, overrides), overrides)
    may_probe = overrides.may_probe
    may_probe_gpu = may_probe and overrides.keeps_gpu and machine.can_offload
    return DetectedMachine(machine, hardware, default_cache_dir(), may_probe, may_probe_gpu)


def _with_steady_memory(hardware: Hardware, overrides: MachineOverrides) -> Hardware:
    """Return the same with the available memory of the last pick if that is about the same.

    It may differ by half of the reserve; the other half is still left for other programs.
    """
    from gguf_hub.hub.fit import Constraints, Machine
    from gguf_hub.hub.hardware import machine_key, steady_bytes

    available = hardware.ram_available_bytes
    if available is None or overrides.ram_bytes is not None:
        return hardware
    reserves = [Constraints().reserve_of(Machine(available)), overrides.reserve_bytes]
    tolerance_bytes = min(reserve for reserve in reserves if reserve is not None) // 2
    key = machine_key(hardware.cpu_name, hardware.n_threads)
    return replace(hardware, ram_available_bytes=steady_bytes(key, available, tolerance_bytes))


def machine_of(hardware: Hardware, overrides: MachineOverrides = MachineOverrides()) -> Machine:
    """Return the machine to pick for; unknown memory counts as 0."""
    from gguf_hub.hub.fit import Machine, isa_of
    from gguf_hub.paths import default_cache_dir

    speeds = _speeds(hardware, default_cache_dir(), may_probe=overrides.may_probe)
    disk = dict(overrides.disk)
    free_bytes = disk.get("free")
    machine = Machine(
        ram_bytes=(hardware.ram_available_bytes or 0)
        if overrides.ram_bytes is None
        else overrides.ram_bytes,
        n_threads=hardware.n_threads,
        isa=isa_of(hardware.simd),
        ram_bytes_per_s=speeds.ram_bytes_per_s,
        disk_bytes_per_s=disk.get("rate", speeds.disk_bytes_per_s),
        disk_free_bytes=hardware.disk_free_bytes if free_bytes is None else round(free_bytes),
    )
    return _with_gpu(machine, hardware, overrides)


def _with_gpu(machine: Machine, hardware: Hardware, overrides: MachineOverrides) -> Machine:
    """Add the GPU of the overrides, or this machine's unless the RAM is overridden.

    Of another machine we assume that our runner can use its GPU.
    """
    rate = overrides.gpu_bytes_per_s
    if overrides.vram_bytes is not None:
        return replace(
            machine, vram_bytes=overrides.vram_bytes, gpu_bytes_per_s=rate, can_offload=True
        )
    if overrides.ram_bytes is not None:
        return machine
    if hardware.gpus:
        machine = replace(machine, can_offload=can_offload(hardware))
    if machine.can_offload and overrides.keeps_gpu:
        speed = _gpu_speed(hardware, may_probe=False)
        machine = replace(machine, gpu_weights_bytes_per_s=speed)
    if hardware.vram_free_bytes:
        n_gpus = sum(not gpu.is_unified for gpu in hardware.gpus)
        rate = rate or hardware.gpu_bytes_per_s
        return replace(
            machine, vram_bytes=hardware.vram_free_bytes, n_gpus=n_gpus, gpu_bytes_per_s=rate
        )
    if hardware.unified_bytes:
        # both read the same memory
        rate = rate or machine.ram_bytes_per_s
        return replace(
            machine, vram_bytes=hardware.unified_bytes, is_unified=True, gpu_bytes_per_s=rate
        )
    return machine


def can_offload(hardware: Hardware) -> bool:
    """Tell whether our own runner can use the GPUs whose memory counts."""
    return sum(room.free_bytes or 0 for room in _rooms(hardware)) >= (
        hardware.vram_free_bytes or hardware.unified_bytes or 1
    )


def _rooms(hardware: Hardware) -> list[Room]:
    """Return the GPUs that our own runner uses by default, of those that the system lists."""
    from gguf_hub.api.offload import default_rooms
    from gguf_hub.run.gpu.adapters import find_gpus, may_have_gpu

    if not may_have_gpu():
        return []
    return [room for room in default_rooms(find_gpus(), hardware) if room.is_detected]


def _gpu_speed(hardware: Hardware, *, may_probe: bool) -> float | None:
    """Return what our kernels read of the slowest GPU; None where nobody knows it of one."""
    from gguf_hub.run.gpu.probe import recall_bandwidth

    speeds = []
    for room in _rooms(hardware):
        speed = recall_bandwidth(room.adapter.info)
        if speed is None and may_probe:
            speed = _probed(room.adapter)
        if speed is None:
            return None
        speeds.append(speed)
    return min(speeds, default=None)


def _probed(adapter: Adapter) -> float | None:
    """Measure a GPU; a note says why it has no figure."""
    from gguf_hub.errors import GpuError
    from gguf_hub.run.gpu.probe import probe_bandwidth

    console.note(f"measuring how fast `{adapter.info.name}` reads weights, once, for some seconds")
    try:
        return probe_bandwidth(adapter)
    except GpuError as error:
        console.note(f"note: {error.message}: speeds there are not measured; `--no-probe` skips it")
        return None


def _speeds(
    hardware: Hardware, target: Path, *, may_probe: bool, with_disk: bool = False
) -> Speeds:
    """Return the remembered speeds of this machine, measured first if unknown and allowed."""
    from gguf_hub.hub.hardware import machine_key, measure, recall_speeds

    key = machine_key(hardware.cpu_name, hardware.n_threads)
    speeds = recall_speeds(key, target)
    is_known = speeds.disk_bytes_per_s if with_disk else speeds.ram_bytes_per_s
    if is_known or not may_probe:
        return speeds
    device = "disk" if with_disk else "memory"
    console.note(f"measuring the read speed of the {device}, once, for a second")
    return measure(
        key,
        target,
        n_threads=hardware.n_threads,
        l3_bytes=hardware.last_cache_bytes,
        available_bytes=hardware.ram_available_bytes,
        with_disk=with_disk,
    )
