"""Graphics memory, from a fake NVML, a fake nvidia-smi and fake trees."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gguf_hub.hub.hardware import gpus as module
from gguf_hub.hub.hardware.gpus import (
    DetectedGpus,
    Gpu,
    amd_gpus,
    detect_gpus,
    nvml_gpus,
    parse_smi,
    smi_gpus,
)
from gguf_hub.hub.hardware.unified import shared_gpu
from gguf_hub.units import GIB, MIB

SMI = {
    "one card": (
        "NVIDIA GeForce RTX 3090, 24576, 23900\n",
        [Gpu("NVIDIA GeForce RTX 3090", 24576 * MIB, 23900 * MIB)],
        0,
    ),
    "two cards": (
        "NVIDIA A100-SXM4-80GB, 81920, 81000\nTesla T4, 15360, 15000\n",
        [
            Gpu("NVIDIA A100-SXM4-80GB", 81920 * MIB, 81000 * MIB),
            Gpu("Tesla T4", 15360 * MIB, 15000 * MIB),
        ],
        0,
    ),
    "a name with a comma": ("A, the big, 1024, 512", [Gpu("A, the big", GIB, GIB // 2)], 0),
    "shared memory": ("NVIDIA GB10, [N/A], [N/A]\n", [Gpu("NVIDIA GB10", 0, 0, None, True)], 1),
    "rubbish": ("what?\n", [], 1),
    "nothing": ("\n", [], 0),
}  # fmt: skip


@pytest.mark.parametrize("name", SMI)
def test_table_of_nvidia_smi(name: str) -> None:
    text, gpus, n_notes = SMI[name]
    found = parse_smi(text)
    assert list(found.gpus) == gpus
    assert len(found.notes) == n_notes


def program(code: str) -> list[str]:
    """The words that start a Python program in the place of nvidia-smi."""
    return [sys.executable, "-c", code]


def test_nvidia_smi_is_asked_for_name_total_and_free() -> None:
    code = "import sys; assert '--query-gpu=name,memory.total,memory.free' in sys.argv; "
    code += "assert '--format=csv,noheader,nounits' in sys.argv; print('T4, 2, 1')"
    assert smi_gpus(program(code)) == DetectedGpus((Gpu("T4", 2 * MIB, MIB),))


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (program("import sys; sys.exit('No devices were found')"), "failed: No devices were found"),
        (program("import sys; sys.exit(9)"), "failed: no message"),
        (["/no/such/nvidia-smi"], "cannot be run: no such file or directory"),
    ],
    ids=["fails", "fails silently", "absent"],
)
def test_nvidia_smi_that_does_not_work_is_a_note(words: list[str], note: str) -> None:
    found = smi_gpus(words)
    assert found.gpus == ()
    assert note in found.notes[0]


def test_nvidia_smi_that_hangs_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    found = smi_gpus(program("import time; time.sleep(30)"))
    assert "no answer" in found.notes[0]


class FakeNvmlError(Exception):
    """What NVML raises."""


class FakeNvml:
    """NVML with cards given as (name, total, free); total None is a card with shared memory."""

    NVMLError = FakeNvmlError
    NVML_CLOCK_MEM = 2

    def __init__(self, *cards: tuple[str | bytes, int | None, int]) -> None:
        self.cards = cards
        self.is_open = False

    def nvmlInit(self) -> None:
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        return self.cards[handle][0]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        _, total, free = self.cards[handle]
        if total is None:
            raise FakeNvmlError("Not Supported")
        return SimpleNamespace(total=total, free=free)

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:
        return {2: 3125}[kind]  # MHz

    def nvmlDeviceGetMemoryBusWidth(self, handle: int) -> int:
        return 6144  # bits


def test_nvml_tells_total_and_free_of_each_card() -> None:
    nvml = FakeNvml(("H200", 141 * GIB, 140 * GIB), (b"T4", 16 * GIB, GIB), ("GB10", None, 0))
    found = nvml_gpus(nvml)
    assert found.gpus == (
        Gpu("H200", 141 * GIB, 140 * GIB, 4.8e12),
        Gpu("T4", 16 * GIB, GIB, 4.8e12),
        Gpu("GB10", 0, 0, is_unified=True),
    )
    assert found.notes == (
        "GB10: reports no memory of its own (Not Supported): assumed to share the RAM",
    )
    assert not nvml.is_open


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Neither pynvml nor nvidia-smi; returns an empty root."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_no_gpu_no_words(no_tools: Path) -> None:
    assert detect_gpus(no_tools) == DetectedGpus()


def test_a_driver_that_nothing_can_ask_is_a_note(no_tools: Path) -> None:
    version = no_tools / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64")
    (note,) = detect_gpus(no_tools).notes
    assert "pip install gguf-hub[gpu]" in note


def test_nvml_is_asked_first(no_tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(("H200", 2 * GIB, GIB)))
    assert detect_gpus(no_tools).gpus == (Gpu("H200", 2 * GIB, GIB, 4.8e12),)


def test_a_card_that_does_not_tell_its_bandwidth_is_seen_all_the_same() -> None:
    class Silent(FakeNvml):
        def nvmlDeviceGetMemoryBusWidth(self, handle: int) -> int:
            raise FakeNvmlError("Not Supported")

    assert nvml_gpus(Silent(("K80", 2 * GIB, GIB))).gpus == (Gpu("K80", 2 * GIB, GIB),)


def test_nvidia_smi_is_asked_when_nvml_fails(
    no_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(FakeNvml):
        def nvmlInit(self) -> None:
            raise FakeNvmlError("Driver/library version mismatch")

    monkeypatch.setitem(sys.modules, "pynvml", Broken())
    smi = no_tools / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 'T4, 2, 1'\n")
    smi.chmod(0o755)
    assert detect_gpus(no_tools).gpus == (Gpu("T4", 2 * MIB, MIB),)


def test_amd_cards_are_read_and_connectors_are_not(tmp_path: Path) -> None:
    for card, total, used, name in (
        ("card0", 16 * GIB, 1 * GIB, "Radeon RX 7800 XT"),
        ("card1", 8 * GIB, 0, None),
        ("card0-HDMI-A-1", 4 * GIB, 0, "a monitor"),
        ("card2", None, None, "another maker's"),
        ("card3", 4 * GIB, "x", "unreadable"),
    ):
        device = tmp_path / card / "device"
        device.mkdir(parents=True)
        for file, value in (("vram_total", total), ("vram_used", used)):
            if value is not None:
                (device / f"mem_info_{file}").write_text(f"{value}\n")
        if name:
            (device / "product_name").write_text(f"{name}\n")
    assert amd_gpus(tmp_path).gpus == (
        Gpu("Radeon RX 7800 XT", 16 * GIB, 15 * GIB),
        Gpu("AMD GPU (card1)", 8 * GIB, 8 * GIB),
    )


@pytest.mark.parametrize(
    ("vram_gib", "gtt_gib", "expected"),
    [
        (1, 30, Gpu("APU", 31 * GIB, 30 * GIB, is_unified=True)),
        (16, 32, Gpu("APU", 16 * GIB, 16 * GIB)),
        (4, 16, Gpu("APU", 4 * GIB, 4 * GIB)),
        (2, None, Gpu("APU", 2 * GIB, 2 * GIB)),
    ],
    ids=["in the processor", "a card, whatever it could map", "a small card", "an old kernel"],
)
def test_amd_graphics_that_share_the_ram(
    tmp_path: Path, vram_gib: int, gtt_gib: int | None, expected: Gpu
) -> None:
    device = tmp_path / "card0/device"
    device.mkdir(parents=True)
    figures = {"vram_total": vram_gib * GIB, "vram_used": 0}
    if gtt_gib:
        figures |= {"gtt_total": gtt_gib * GIB, "gtt_used": GIB}
    for name, value in figures.items():
        (device / f"mem_info_{name}").write_text(f"{value}\n")
    (device / "product_name").write_text("APU\n")
    assert amd_gpus(tmp_path).gpus == (expected,)


@pytest.mark.parametrize(
    ("ram_gib", "wired_mb", "budget_gib"),
    [(36, "0", 24), (16, "", 32 / 3), (64, "0", 48), (64, "57344", 56)],
)
def test_apple_graphics_take_a_part_of_the_ram(
    ram_gib: int, wired_mb: str, budget_gib: float
) -> None:
    gpu = shared_gpu("Apple M3 Pro", ram_gib * GIB, wired_mb)
    assert gpu.is_unified
    assert gpu.vram_total_bytes == pytest.approx(budget_gib * GIB, abs=1)
