"""This machine as data: nothing raises, and limits count."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from gguf_hub.hub.hardware import Gpu, Hardware, detect
from gguf_hub.hub.hardware.detect import available_bytes
from gguf_hub.resources.cgroup import MemoryLimit
from gguf_hub.resources.cpus import count_cores, cpu_name, threads_within, usable_cpus
from gguf_hub.units import GIB


def test_this_machine_is_seen() -> None:
    found = detect()
    assert found.ram_total_bytes == psutil.virtual_memory().total
    assert 0 < found.ram_available_bytes <= found.ram_total_bytes
    assert 1 <= found.n_threads <= found.n_cores_physical <= len(usable_cpus())
    assert found.disk_free_bytes > 0
    assert found.cpu_name


def test_a_machine_without_proc_and_sys_is_seen_as_far_as_it_goes(tmp_path: Path) -> None:
    found = detect(root=tmp_path)
    assert found.ram_limit_bytes is None
    assert found.n_cores_physical >= 1
    assert found.cpu_name


@pytest.mark.parametrize(("limit_gib", "is_told"), [(1, True), (10**6, False)])
def test_a_limit_counts_only_below_the_memory_of_the_machine(
    tmp_path: Path, limit_gib: int, is_told: bool
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/")
    mount = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
    (tmp_path / "proc/self/mountinfo").write_text(mount)
    top = tmp_path / "sys/fs/cgroup"
    top.mkdir(parents=True)
    for name, text in (("memory.max", limit_gib * GIB), ("memory.current", 0)):
        (top / name).write_text(f"{text}\n")
    (top / "cpu.max").write_text("50000 100000\n")
    found = detect(root=tmp_path)
    assert found.ram_limit_bytes == (limit_gib * GIB if is_told else None)
    assert found.ram_available_bytes <= limit_gib * GIB
    assert found.n_threads == 1


def test_memory_that_cannot_be_read_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    found = detect(root=Path("/no/such/root"))
    assert (found.ram_total_bytes, found.ram_available_bytes) == (None, None)
    assert any("memory of this machine" in note for note in found.notes)


@pytest.mark.parametrize(
    ("host", "limit", "expected"),
    [
        (60 * GIB, None, 60 * GIB),
        (60 * GIB, MemoryLimit(6 * GIB, 5 * GIB), 5 * GIB),
        (2 * GIB, MemoryLimit(6 * GIB, 5 * GIB), 2 * GIB),
        (None, MemoryLimit(6 * GIB, 5 * GIB), 5 * GIB),
        (None, None, None),
    ],
    ids=["no limit", "a tight limit", "a full host", "host unknown", "nothing known"],
)
def test_available_is_the_least_of_what_is_known(
    host: int | None, limit: MemoryLimit | None, expected: int | None
) -> None:
    assert available_bytes(host, limit) == expected


def test_free_disk_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    assert detect(tmp_path / "not" / "yet" / "there").disk_free_bytes > 0


def test_vram_of_all_gpus_is_added() -> None:
    gpus = (Gpu("a", 2 * GIB, GIB), Gpu("b", 2 * GIB, 2 * GIB))
    assert Hardware(None, None, None, 1, 1, "", gpus, None, ()).vram_free_bytes == 3 * GIB


# ---- processor ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_hyperthreads_are_one_core(tmp_path: Path, name: str) -> None:
    for cpu in range(8):
        topology = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / name).write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert count_cores(tmp_path, frozenset(range(8))) == 4
    assert count_cores(tmp_path, frozenset({0, 4})) == 1
    assert count_cores(tmp_path, frozenset({1, 2, 6})) == 2
    assert count_cores(tmp_path, frozenset({0, 9})) is None


@pytest.mark.parametrize(
    ("n_cores", "quota", "expected"),
    [(8, None, 8), (8, 4.0, 4), (8, 1.5, 1), (8, 0.2, 1), (2, 16.0, 2)],
)
def test_threads_stay_within_the_quota(n_cores: int, quota: float | None, expected: int) -> None:
    assert threads_within(n_cores, quota) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD Ryzen 9 7950X\nflags\t: avx2\n", "AMD Ryzen 9 7950X"),
        ("processor : 0\nBogoMIPS : 50\nHardware : BCM2835\n", "BCM2835"),
    ],
)
def test_cpu_name(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    assert cpu_name(tmp_path) == name


def test_usable_cpus_follow_the_affinity() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system has no affinity")
    assert usable_cpus() == os.sched_getaffinity(0)
