"""Graphics memory: NVIDIA through NVML or nvidia-smi, AMD through sysfs.

What is there but cannot be read is reported in a note; what is not there is not an error.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_hub.oserrors import reason_of
from gguf_hub.subprocesses import find_program, run_program
from gguf_hub.units import GIB, MIB

TIMEOUT_S = 5.0  # a driver that hangs must not hang us
MAX_CARVED_BYTES = 3 * GIB  # what firmware sets aside of the RAM for graphics; cards have more


@dataclass(frozen=True)
class Gpu:
    """One graphics processor and its memory.

    Attributes:
        vram_total_bytes: Of its own, or what it may take of the RAM that it shares; 0 where it
            shares all of it.
        vram_free_bytes: What of it is free now.
        bytes_per_s: Bandwidth of its memory by clock and width of the bus; None if unknown.
        is_unified: It has no memory of its own.
    """

    name: str
    vram_total_bytes: int
    vram_free_bytes: int
    bytes_per_s: float | None = None
    is_unified: bool = False


@dataclass(frozen=True)
class DetectedGpus:
    """The GPUs, and notes on what could not be read."""

    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()


def detect_gpus(root: Path) -> DetectedGpus:
    """Return the GPUs of this machine; ``root`` is the root of the file system."""
    nvidia = _nvidia(root)
    amd = amd_gpus(root / "sys/class/drm")
    return DetectedGpus(nvidia.gpus + amd.gpus, nvidia.notes + amd.notes)


def _nvidia(root: Path) -> DetectedGpus:
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
        reason = problem or "neither nvidia-ml-py (`pip install gguf-hub[gpu]`) nor nvidia-smi"
        return DetectedGpus(
            notes=(f"an NVIDIA driver is loaded but its GPUs cannot be read: {reason}",)
        )
    return DetectedGpus()


def nvml_gpus(nvml: Any) -> DetectedGpus:
    """Ask NVML, given its module; raises what the module raises when there is no driver."""
    nvml.nvmlInit()
    try:
        gpus, notes = [], []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            name = name.decode() if isinstance(name, bytes) else str(name)
            try:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            except nvml.NVMLError as error:
                notes.append(_shared_memory(name, str(error)))
                gpus.append(Gpu(name, 0, 0, is_unified=True))
                continue
            rate = _nvml_bandwidth(nvml, handle)
            gpus.append(Gpu(name, int(memory.total), int(memory.free), rate))
        return DetectedGpus(tuple(gpus), tuple(notes))
    finally:
        nvml.nvmlShutdown()


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
    query = ["--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = run_program([*program, *query], timeout_s=TIMEOUT_S)
    except TimeoutError:
        return DetectedGpus(notes=(f"nvidia-smi gave no answer in {TIMEOUT_S:.0f} s",))
    except OSError as error:
        return DetectedGpus(notes=(f"nvidia-smi cannot be run: {reason_of(error)}",))
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        return DetectedGpus(notes=(f"nvidia-smi failed: {lines[0]}",))
    return parse_smi(done.stdout)


def parse_smi(text: str) -> DetectedGpus:
    """Read nvidia-smi's table; sizes are MiB, e.g. ``NVIDIA GeForce RTX 3090, 24576, 23900``."""
    gpus, notes = [], []
    for line in filter(str.strip, text.splitlines()):
        name, *sizes = (part.strip() for part in line.rsplit(",", 2))
        if len(sizes) == 2 and all(size.isdecimal() for size in sizes):
            gpus.append(Gpu(name, int(sizes[0]) * MIB, int(sizes[1]) * MIB))
        else:
            notes.append(_shared_memory(name, ", ".join(sizes) or "no figures"))
            if len(sizes) == 2:
                gpus.append(Gpu(name, 0, 0, is_unified=True))
    return DetectedGpus(tuple(gpus), tuple(notes))


def _shared_memory(name: str, reason: str) -> str:
    """Return the note for a GPU without memory of its own (GB10, Jetson), or with none reported."""
    return f"{name}: reports no memory of its own ({reason}): assumed to share the RAM"


def amd_gpus(folder: Path) -> DetectedGpus:
    """Read the cards that the amdgpu driver lists under ``/sys/class/drm``.

    A processor with graphics (APU) has a small part of the RAM as its VRAM and reaches much more
    of it through its page table (GTT): it shares the RAM.

    Source: kernel documentation, gpu/amdgpu/driver-misc.rst: mem_info_vram_total, ..._used,
    mem_info_gtt_total.
    """
    gpus = []
    for card in sorted(folder.glob("card*")):
        if not re.fullmatch(r"card\d+", card.name):
            continue  # a connector: card0-HDMI-A-1
        total = _number_in(card / "device/mem_info_vram_total")
        used = _number_in(card / "device/mem_info_vram_used")
        if total and used is not None:
            name = _text_in(card / "device/product_name") or f"AMD GPU ({card.name})"
            gpus.append(_amd_gpu(card / "device", name, total, max(0, total - used)))
    return DetectedGpus(tuple(gpus))


def _amd_gpu(device: Path, name: str, total: int, free: int) -> Gpu:
    gtt_total = _number_in(device / "mem_info_gtt_total") or 0
    if total > MAX_CARVED_BYTES or gtt_total <= total:
        return Gpu(name, total, free)
    gtt_used = _number_in(device / "mem_info_gtt_used") or 0
    return Gpu(name, total + gtt_total, free + max(0, gtt_total - gtt_used), is_unified=True)


def _number_in(path: Path) -> int | None:
    text = _text_in(path)
    return int(text) if text.isdecimal() else None


def _text_in(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
