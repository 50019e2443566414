"""Graphics memory, from a fake NVML, a fake nvidia-smi and fake trees."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gguf_hub.hub.hardware import nvidia
from gguf_hub.hub.hardware.amd import amd_gpus
from gguf_hub.hub.hardware.detect import detect_gpus
from gguf_hub.hub.hardware.gpus import NVIDIA, DetectedGpus, Gpu
from gguf_hub.hub.hardware.nvidia import nvml_gpus, parse_smi, smi_gpus
from gguf_hub.hub.hardware.unified import shared_gpu
from gguf_hub.units import GIB, MIB

VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@pytest.fixture(autouse=True)
def all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


SMI = {
    "one card": (
        "GPU-1f, [N/A], NVIDIA GeForce RTX 3090, 24576, 23900\n",
        [Gpu("NVIDIA GeForce RTX 3090", 24576 * MIB, 23900 * MIB)],
        "",
    ),
    "two cards": (
        "GPU-1f, Disabled, NVIDIA A100-SXM4-80GB, 81920, 81000\nGPU-2e, [N/A], T4, 15360, 15000\n",
        [
            Gpu("NVIDIA A100-SXM4-80GB", 81920 * MIB, 81000 * MIB),
            Gpu("T4", 15360 * MIB, 15000 * MIB),
        ],
        "",
    ),
    "a name with a comma": (
        "GPU-1, [N/A], A, the big, 1024, 512", [Gpu("A, the big", GIB, GIB // 2)], "",
    ),
    "shared memory": (
        "GPU-1, [N/A], NVIDIA GB10, [N/A], [N/A]\n",
        [Gpu("NVIDIA GB10", 0, 0, None, True)],
        "NVIDIA GB10: reports no memory of its own ([N/A]): assumed to share the RAM",
    ),
    "an instance of a divided GPU, in a container": (
        "GPU-1, Disabled, A100, [Insufficient Permissions], [Insufficient Permissions]\n",
        [],
        "A100: its memory cannot be read ([Insufficient Permissions]), so it is left out",
    ),
    "a divided GPU": ("GPU-1, Enabled, A100, 81920, 81000\n", [], "A100 is divided (MIG)"),
    "a GPU that fell off the bus": (
        "GPU-1, [N/A], T4, [GPU is lost], [GPU is lost]\n", [], "T4: its memory cannot be read",
    ),
    "rubbish": ("what?\n", [], "what?: its memory cannot be read (no figures)"),
    "nothing": ("\n", [], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SMI)
def test_table_of_nvidia_smi(name: str) -> None:
    text, gpus, note = SMI[name]
    found = parse_smi(text)
    assert list(found.gpus) == gpus
    assert len(found.notes) == bool(note)
    assert note in "".join(found.notes)


def test_a_driver_of_before_mig_is_asked_without_it() -> None:
    message = 'Field "mig.mode.current" is not a valid field to query.'
    code = f"import sys\nif 'mig' in str(sys.argv): sys.exit({message!r})\n"
    code += "print('GPU-1, Tesla K80, 2, 1')"
    assert smi_gpus(program(code)) == DetectedGpus((Gpu("Tesla K80", 2 * MIB, MIB),))


TWO = "GPU-1f0e, [N/A], A100, 4, 4\nGPU-1f0a, [N/A], T4, 2, 2\n"


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("0", ["A100"]),
        ("1", ["T4"]),
        ("1, 0", ["T4", "A100"]),
        ("1,1", ["T4"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["A100"]),
        ("2,0", []),
        ("NoDevFiles", []),
        ("GPU-1f0a", ["T4"]),
        ("GPU-1f0e,GPU-1f0a", ["A100", "T4"]),
        ("GPU-1f", []),  # fits both
        ("\u0661", []),
    ],
)
def test_only_gpus_that_cuda_shows_us_count(
    value: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    found = parse_smi(TWO)
    assert [gpu.name for gpu in found.gpus] == names
    left = f"CUDA_VISIBLE_DEVICES={value!r} leaves {len(names)} of 2 GPUs"
    assert found.notes == ((left,) if len(names) < 2 else ())


def program(code: str) -> list[str]:
    """The words that start a Python program in the place of nvidia-smi."""
    return [sys.executable, "-c", code]


def test_nvidia_smi_is_asked_for_name_total_and_free() -> None:
    fields = "uuid,mig.mode.current,name,memory.total,memory.free"
    code = f"import sys; assert '--query-gpu={fields}' in sys.argv; "
    code += "assert '--format=csv,noheader,nounits' in sys.argv; print('GPU-1, [N/A], T4, 2, 1')"
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
    monkeypatch.setattr(nvidia, "TIMEOUT_S", 0.05)
    found = smi_gpus(program("import time; time.sleep(30)"))
    assert "no answer" in found.notes[0]


class FakeNvmlError(Exception):
    """What NVML raises."""


class FakeNvml:
    """NVML with cards given as (name, total, free); without a total, free is why there is none.

    A card whose total is a list is divided into such instances.
    """

    NVMLError = FakeNvmlError
    NVML_CLOCK_MEM = 2
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, *cards: Any) -> None:
        self.cards = cards
        self.is_open = False

    def nvmlInit(self) -> None:
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self.cards[index]

    def nvmlDeviceGetName(self, handle: Any) -> str | bytes:
        return handle[0]

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return f"MIG-{handle[0]}" if "g." in str(handle[0]) else f"GPU-{self.cards.index(handle)}"

    def nvmlDeviceGetMigMode(self, handle: Any) -> tuple[int, int]:
        if "A100" not in str(handle[0]):
            raise FakeNvmlError("Not Supported")
        return int(isinstance(handle[1], list)), 0

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:
        if index >= len(handle[1]):
            raise FakeNvmlError("Not Found")
        return handle[1][index]

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> SimpleNamespace:
        _, total, free = handle
        if total is None:
            raise FakeNvmlError(free)
        return SimpleNamespace(total=total, free=free)

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:
        return {2: 3125}[kind]  # MHz

    def nvmlDeviceGetMemoryBusWidth(self, handle: int) -> int:
        return 6144  # bits


def test_nvml_tells_total_and_free_of_each_card() -> None:
    nvml = FakeNvml(("H200", 141 * GIB, 140 * GIB), (b"T4", 16 * GIB, GIB),
                    ("GB10", None, "Not Supported"))  # fmt: skip
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


def test_a_card_whose_memory_is_not_ours_to_see_is_left_out() -> None:
    found = nvml_gpus(FakeNvml(("H100", None, "Insufficient Permissions"), ("T4", GIB, GIB)))
    assert [gpu.name for gpu in found.gpus] == ["T4"]
    (note,) = found.notes
    assert note == "H100: its memory cannot be read (Insufficient Permissions), so it is left out"


DIVIDED = (
    "A100",
    [("A100 MIG 3g.40gb", 40 * GIB, 39 * GIB), ("A100 MIG 1g.10gb", 10 * GIB, GIB)],
    0,
)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, ["A100 MIG 3g.40gb"]),  # CUDA shows one instance to a process
        ("0", ["A100 MIG 3g.40gb"]),
        ("MIG-A100 MIG 1g", ["A100 MIG 1g.10gb"]),
        ("GPU-0", ["A100 MIG 3g.40gb"]),
        ("1", ["T4"]),
        ("1,0", ["T4"]),
        ("", []),
    ],
)
def test_of_a_divided_gpu_one_instance_is_ours(
    value: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    gpus = nvml_gpus(FakeNvml(DIVIDED, ("T4", 16 * GIB, 16 * GIB))).gpus
    assert [gpu.name for gpu in gpus] == names
    assert all(gpu.bytes_per_s is None for gpu in gpus if "MIG" in gpu.name)


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
    assert detect_gpus(no_tools).gpus == (Gpu("H200", 2 * GIB, GIB, 4.8e12, vendor_id=NVIDIA),)


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
    smi.write_text("#!/bin/sh\necho 'GPU-1, [N/A], T4, 2, 1'\n")
    smi.chmod(0o755)
    assert detect_gpus(no_tools).gpus == (Gpu("T4", 2 * MIB, MIB, vendor_id=NVIDIA),)


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


NO_METRICS = b""
CARD, PROCESSOR = b"\x78\x00\x01\x03", b"\x98\x00\x02\x04"  # size, version of gpu_metrics


@pytest.mark.parametrize(
    ("vram_gib", "gtt_gib", "metrics", "counts_pcie", "is_shared"),
    [
        (1, 30, PROCESSOR, False, True),
        (8, 30, PROCESSOR, False, True),
        (8, 4, PROCESSOR, False, True),
        (2, 30, CARD, False, False),
        (16, 32, CARD, True, False),
        (2, 30, NO_METRICS, True, False),
        (1, 30, NO_METRICS, False, True),
        (16, 32, NO_METRICS, False, False),
        (2, None, NO_METRICS, False, False),
    ],
    ids=["in a processor", "with much set aside", "with most set aside", "a small card",
         "a card", "an old card that maps much of the RAM", "in an old processor",
         "nothing but sizes", "an old kernel"],
)  # fmt: skip
def test_amd_graphics_that_share_the_ram(
    tmp_path: Path,
    vram_gib: int,
    gtt_gib: int | None,
    metrics: bytes,
    counts_pcie: bool,
    is_shared: bool,
) -> None:
    device = amd_card(tmp_path, 0, vram_gib)
    if gtt_gib:
        (device / "mem_info_gtt_total").write_text(f"{gtt_gib * GIB}\n")
        (device / "mem_info_gtt_used").write_text(f"{GIB}\n")
    if metrics:
        (device / "gpu_metrics").write_bytes(metrics + bytes(100))
    if counts_pcie:
        (device / "pcie_bw").write_text("")
    gtt = gtt_gib if is_shared and gtt_gib else 0
    free = vram_gib + (gtt - 1 if gtt else 0)
    expected = Gpu("card0's", (vram_gib + gtt) * GIB, free * GIB, is_unified=is_shared)
    assert amd_gpus(tmp_path).gpus == (expected,)


def amd_card(folder: Path, number: int, vram_gib: int) -> Path:
    device = folder / f"card{number}/device"
    device.mkdir(parents=True)
    (device / "mem_info_vram_total").write_text(f"{vram_gib * GIB}\n")
    (device / "mem_info_vram_used").write_text("0\n")
    (device / "product_name").write_text(f"card{number}'s\n")
    (device / "unique_id").write_text(f"{number:x}abc\n")
    return device


@pytest.mark.parametrize(
    ("rocr", "hip", "names"),
    [
        ("1", None, ["card10's"]),
        (None, "1", ["card10's"]),
        ("1,0", "0", ["card10's"]),  # HIP counts what ROCr leaves
        ("GPU-aabc", None, ["card10's"]),
        ("", None, []),
        (None, "-1", []),
    ],
)
def test_only_gpus_that_rocm_shows_us_count(
    rocr: str | None,
    hip: str | None,
    names: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("ROCR_VISIBLE_DEVICES", rocr), ("HIP_VISIBLE_DEVICES", hip)):
        if value is not None:
            monkeypatch.setenv(name, value)
    for number in (2, 10):
        amd_card(tmp_path, number, 8)
    assert [gpu.name for gpu in amd_gpus(tmp_path).gpus] == names


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
