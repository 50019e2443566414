"""Measured speeds: plausible, remembered for this machine and disk, never an error."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gguf_hub.hub.hardware import probe
from gguf_hub.hub.hardware.probe import (
    Speeds,
    buffer_bytes,
    disk_speed,
    measure,
    read_bandwidth,
    recall_speeds,
)
from gguf_hub.hub.hardware.probe import machine_key as key_of
from gguf_hub.paths import cache_dir
from gguf_hub.resources.cpus import last_cache_bytes, simd
from gguf_hub.units import GB, GIB, KIB, MIB


def test_bandwidth_is_measured_within_its_time() -> None:
    began = time.perf_counter()
    found = read_bandwidth(2, 16 * MIB, limit_s=0.05)
    assert time.perf_counter() - began < 30
    assert found is not None
    assert 5e8 < found < 2e12


def test_no_memory_no_bandwidth() -> None:
    assert read_bandwidth(2, 0) is None
    assert read_bandwidth(1, 2**60) is None


@pytest.mark.parametrize(
    ("l3_bytes", "available_bytes", "expected"),
    [
        (32 * MIB, 16 * GIB, 256 * MIB),
        (None, 16 * GIB, 64 * MIB),
        (384 * MIB, 64 * GIB, 512 * MIB),
        (32 * MIB, 512 * MIB, 64 * MIB),
        (32 * MIB, 0, 0),
        (32 * MIB, None, 256 * MIB),
    ],
)
def test_buffer_is_far_larger_than_the_cache_and_no_burden(
    l3_bytes: int | None, available_bytes: int | None, expected: int
) -> None:
    assert buffer_bytes(l3_bytes, available_bytes) == expected


@pytest.mark.parametrize("has_model", [True, False], ids=["a model is there", "nothing is there"])
def test_disk_speed_of_a_folder_that_may_not_exist_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_model: bool
) -> None:
    monkeypatch.setattr(probe, "DISK_FILE_BYTES", 4 * MIB)
    if has_model:
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs/x").write_bytes(bytes(4 * MIB))
    before = sorted(tmp_path.rglob("*"))
    found = disk_speed(tmp_path / "not" / "yet", limit_s=0.1)
    assert found is not None
    assert found > 1e6
    assert sorted(tmp_path.rglob("*")) == before


def test_disk_that_cannot_be_written_has_no_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(probe.tempfile, "NamedTemporaryFile", refuse)
    assert disk_speed(tmp_path) is None


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fake measuring; returns the list of what was measured."""
    done: list[str] = []

    def bandwidth(*_: object) -> float:
        done.append("memory")
        return 40e9

    def disk(_: Path) -> float:
        done.append("disk")
        return 2e9

    monkeypatch.setattr(probe, "read_bandwidth", bandwidth)
    monkeypatch.setattr(probe, "disk_speed", disk)
    return done


def measured(key: str, target: Path, *, with_disk: bool = False) -> Speeds:
    return measure(key, target, n_threads=2, l3_bytes=None, available_bytes=GB, with_disk=with_disk)


def test_what_was_measured_is_not_measured_again(counted: list[str], tmp_path: Path) -> None:
    key = key_of("a cpu", 2)
    assert recall_speeds(key, tmp_path) == Speeds()
    assert measured(key, tmp_path) == Speeds(40e9)
    assert measured(key, tmp_path, with_disk=True) == Speeds(40e9, 2e9)
    assert measured(key, tmp_path, with_disk=True) == recall_speeds(key, tmp_path)
    assert counted == ["memory", "disk"]
    # another CPU, another number of threads, another disk
    assert measured(key_of("a cpu", 4), tmp_path) == Speeds(40e9)
    assert counted == ["memory", "disk", "memory"]
    assert recall_speeds(key, Path("/proc")).disk_bytes_per_s is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"KEY": 3}', '{"KEY": {"ram_bytes_per_s": "x", "disks": 1}}']
)
def test_a_damaged_record_is_measured_anew(counted: list[str], tmp_path: Path, text: str) -> None:
    key = key_of("a cpu", 2)
    path = cache_dir() / "machine" / "speeds.json"
    path.parent.mkdir(parents=True)
    path.write_text(text.replace("KEY", key))
    assert measured(key, tmp_path, with_disk=True) == Speeds(40e9, 2e9)
    assert recall_speeds(key, tmp_path) == Speeds(40e9, 2e9)


# ---- the processor -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu sse4_2 avx avx2 fma f16c pni\n", ("sse4_2", "avx", "avx2", "fma", "f16c")),
        ("Features : fp asimd crc32 asimddp i8mm\n", ("asimd", "asimddp", "i8mm")),
        ("flags : avx512_vnni avx512f\nflags : nothing\n", ("avx512f", "avx512_vnni")),
        ("", ()),
    ],
    ids=["x86", "arm", "the first core speaks for all", "nobody tells"],
)
def test_simd(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    assert simd(tmp_path) == expected


def test_last_cache(tmp_path: Path) -> None:
    assert last_cache_bytes(tmp_path) is None
    for index, size in enumerate(("48K", "32K", "1024K", "32M", "?")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    assert last_cache_bytes(tmp_path) == 32 * MIB
    assert 48 * KIB < 32 * MIB
