"""NVIDIA's GPUs, through NVML or nvidia-smi.

What is there but cannot be read is reported in a note; what is not there is not an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf_hub.hub.hardware.gpus import DetectedGpus, Device, Gpu, visible_devices
from gguf_hub.oserrors import reason_of
from gguf_hub.subprocesses import find_program, run_program
from gguf_hub.units import MIB

TIMEOUT_S = 5.0  # a driver that hangs must not hang us
EXTRA = "`pip install gguf-hub[gpu]`"
FIELDS = ("uuid", "mig.mode.current", "name", "memory.total", "memory.free")
OLD_FIELDS = tuple(field for field in FIELDS if field != "mig.mode.current")  # before 2020


def nvidia_gpus(root: Path) -> DetectedGpus:
    """Ask NVML, or else nvidia-smi; say nothing where there is neither driver nor program."""
    problem = ""
    try:
        with warnings.catch_warnings():  # the retired package of the same name warns
            warnings.simplefilter("ignore")
            import pynvml
        return nvml_gpus(pynvml)
    except ImportError:
        pass  # the extra `gpu` is not installed
    except Exception as error:  # pynvml raises classes that it makes at run time
        problem = f"NVML: {error}"
    program = find_program("nvidia-smi")
    if program:
        return smi_gpus([program])
    if (root / "proc/driver/nvidia/version").exists():
        reason = problem or f"neither nvidia-ml-py ({EXTRA}) nor nvidia-smi"
        return DetectedGpus(
            notes=(f"an NVIDIA driver is loaded but its GPUs cannot be read: {reason}",)
        )
    return DetectedGpus()


def nvml_gpus(nvml: Any) -> DetectedGpus:
    """Ask NVML, given its module; raises what the module raises when there is no driver."""
    nvml.nvmlInit()
    try:
        devices: list[Device] = []
        notes: list[str] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            instances = _mig_instances(nvml, handle)
            id_ = _nvml_text(nvml, nvml.nvmlDeviceGetUUID, handle)
            for each in [handle] if instances is None else instances:
                gpu, note = _nvml_gpu(nvml, each, is_instance=instances is not None)
                ids = (id_, _nvml_text(nvml, nvml.nvmlDeviceGetUUID, each))
                devices.append(Device(gpu, index, ids))
                notes += note
        return _usable(devices, notes)
    finally:
        nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, handle: Any, *, is_instance: bool) -> tuple[Gpu | None, list[str]]:
    name = _nvml_text(nvml, nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        return _without_figures(name, str(error))
    # the bandwidth of a divided GPU is shared, and by how many is not known
    rate = None if is_instance else _nvml_bandwidth(nvml, handle)
    return Gpu(name, int(memory.total), int(memory.free), rate), []


def _nvml_text(nvml: Any, function: Any, handle: Any) -> str:
    try:
        text = function(handle)
    except nvml.NVMLError:
        return ""
    return text.decode() if isinstance(text, bytes) else str(text)


def _mig_instances(nvml: Any, handle: Any) -> list[Any] | None:
    """Return the instances of a GPU that is divided (MIG); None for a GPU that is whole."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return None
        n_most = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except (nvml.NVMLError, AttributeError):
        return None
    instances = []
    for index in range(n_most):
        try:
            instances.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
        except nvml.NVMLError:
            continue  # no instance has this number, or it is not ours
    return instances


def _usable(devices: Sequence[Device], notes: Sequence[str]) -> DetectedGpus:
    """Return the GPUs that CUDA shows to this process: of instances the first alone."""
    seen, left_out = visible_devices(devices, "CUDA_VISIBLE_DEVICES")
    is_instance = [any(id_.startswith("MIG-") for id_ in device.ids) for device in seen]
    if any(is_instance):
        seen = (
            seen[:1]
            if is_instance[0]
            else tuple(
                device for device, divided in zip(seen, is_instance, strict=True) if not divided
            )
        )
    gpus = tuple(device.gpu for device in seen if device.gpu)
    return DetectedGpus(gpus, (*notes, *left_out))


def _nvml_bandwidth(nvml: Any, handle: Any) -> float | None:
    """Return the bandwidth of a GPU's memory; None where the driver does not report it.

    Two transfers for each cycle of the memory clock, e.g. RTX 3090: 9751 MHz x 2 x 384 bits
    / 8 = 936 GB/s; H100: 2619 MHz x 2 x 5120 / 8 = 3352 GB/s.
    """
    try:
        clock_mhz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
        width_bits = nvml.nvmlDeviceGetMemoryBusWidth(handle)
    except (nvml.NVMLError, AttributeError):
        return None
    return clock_mhz * 1e6 * 2 * width_bits / 8 or None


def smi_gpus(program: Sequence[str]) -> DetectedGpus:
    """Ask nvidia-smi, given the words that start it."""
    try:
        for fields in (FIELDS, OLD_FIELDS):
            query = [f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
            done = run_program([*program, *query], timeout_s=TIMEOUT_S)
            if not done.returncode or "not a valid field" not in done.stdout + done.stderr:
                break
    except TimeoutError:
        return DetectedGpus(notes=(f"nvidia-smi gave no answer in {TIMEOUT_S:.0f} s",))
    except OSError as error:
        return DetectedGpus(notes=(f"nvidia-smi cannot be run: {reason_of(error)}",))
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        return DetectedGpus(notes=(f"nvidia-smi failed: {lines[0]}",))
    return parse_smi(done.stdout, has_mode=fields == FIELDS)


def parse_smi(text: str, *, has_mode: bool = True) -> DetectedGpus:
    """Read nvidia-smi's table of ``FIELDS``; sizes are MiB.

    E.g. ``GPU-1f0e, [N/A], NVIDIA GeForce RTX 3090, 24576, 23900``.

    Args:
        text: The table, without its head.
        has_mode: It has the column of MIG's mode.
    """
    devices: list[Device] = []
    notes: list[str] = []
    for index, line in enumerate(filter(str.strip, text.splitlines())):
        left, *sizes = (part.strip() for part in line.rsplit(",", 2))
        id_, *rest = (part.strip() for part in left.split(",", 1 + has_mode))
        name = rest[-1] if rest else left
        gpu: Gpu | None = None
        if has_mode and rest[:1] == ["Enabled"]:
            notes.append(f"{name} is divided (MIG), which only NVML can read: {EXTRA}")
        elif len(sizes) == 2 and all(size.isdecimal() for size in sizes) and int(sizes[0]):
            gpu = Gpu(name, int(sizes[0]) * MIB, int(sizes[1]) * MIB)
        else:
            gpu, more = _without_figures(name, ", ".join(dict.fromkeys(sizes)) or "no figures")
            notes += more
        devices.append(Device(gpu, index, (id_,)))
    return _usable(devices, notes)


def _without_figures(name: str, reason: str) -> tuple[Gpu | None, list[str]]:
    """Judge a GPU that names no memory: GB10 and Jetson have none of their own, others hide it."""
    if reason.strip("[]").lower() in ("n/a", "not supported"):
        note = f"{name}: reports no memory of its own ({reason}): assumed to share the RAM"
        return Gpu(name, 0, 0, is_unified=True), [note]
    return None, [f"{name}: its memory cannot be read ({reason}), so it is left out"]
