"""AMD's GPUs, through sysfs."""

from __future__ import annotations

import re
from pathlib import Path

from gguf_hub.hub.hardware.gpus import DetectedGpus, Device, Gpu, visible_devices
from gguf_hub.units import GIB

MAX_CARVED_BYTES = 3 * GIB  # what firmware sets aside of the RAM for graphics; cards have more


def amd_gpus(folder: Path) -> DetectedGpus:
    """Read the cards that the amdgpu driver lists under ``/sys/class/drm``.

    A processor with graphics (APU) has a small part of the RAM as its VRAM and reaches much more
    of it through its page table (GTT): it shares the RAM.

    Source: kernel documentation, gpu/amdgpu/driver-misc.rst: mem_info_vram_total, ..._used,
    mem_info_gtt_total; ROCm, "GPU isolation techniques": the two variables, one after the other.
    """
    cards = [path for path in folder.glob("card*") if re.fullmatch(r"card\d+", path.name)]
    devices: tuple[Device, ...] = ()  # card0-HDMI-A-1 is a connector
    for card in sorted(cards, key=lambda path: int(path.name[4:])):
        total = _number_in(card / "device/mem_info_vram_total")
        used = _number_in(card / "device/mem_info_vram_used")
        if total and used is not None:
            name = _text_in(card / "device/product_name") or f"AMD GPU ({card.name})"
            gpu = _amd_gpu(card / "device", name, total, max(0, total - used))
            id_ = f"GPU-{_text_in(card / 'device/unique_id')}"
            devices += (Device(gpu, len(devices), (id_,)),)
    devices, notes = visible_devices(devices, "ROCR_VISIBLE_DEVICES")
    devices = tuple(Device(each.gpu, i, each.ids) for i, each in enumerate(devices))
    devices, more_notes = visible_devices(devices, "HIP_VISIBLE_DEVICES")
    return DetectedGpus(tuple(each.gpu for each in devices if each.gpu), notes + more_notes)


def _amd_gpu(device: Path, name: str, total: int, free: int) -> Gpu:
    if not _shares_the_ram(device, total):
        return Gpu(name, total, free)
    gtt_total = _number_in(device / "mem_info_gtt_total") or 0
    gtt_used = _number_in(device / "mem_info_gtt_used") or 0
    return Gpu(name, total + gtt_total, free + max(0, gtt_total - gtt_used), is_unified=True)


def _shares_the_ram(device: Path, vram_bytes: int) -> bool:
    """Return whether a GPU is part of a processor.

    Its table of metrics says so: versions 2 and 3 are those of processors, version 1 that of cards
    (kernel, kgd_pp_interface.h; from Vega 12 and Renoir on). Of older ones only cards count the
    bytes on PCIe. Where neither can be read (some containers), sizes decide; a card may map more
    of the RAM than it has memory, too.
    """
    version = _metrics_version(device)
    if version:
        return version >= 2
    gtt_total = _number_in(device / "mem_info_gtt_total") or 0
    is_card = (device / "pcie_bw").exists()
    return not is_card and vram_bytes <= MAX_CARVED_BYTES and gtt_total > vram_bytes


def _metrics_version(device: Path) -> int:
    """Return the version of the metrics: the byte after their size, a u16; 0 if unknown."""
    try:
        with (device / "gpu_metrics").open("rb") as file:
            header = file.read(4)
    except OSError:
        return 0
    return header[2] if len(header) == 4 else 0


def _number_in(path: Path) -> int | None:
    text = _text_in(path)
    return int(text) if text.isdecimal() else None


def _text_in(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
