"""Container limits, read from fake trees laid out as real machines have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_hub.resources.cgroup import (
    Mount,
    cpu_quota,
    groups,
    memory_limit,
    parse_membership,
    parse_mounts,
    parse_stat,
)
from gguf_hub.units import GIB

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V1_CPU = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
NO_LIMIT_V1 = 2**63 - 4096

Files = dict[str, object]


@pytest.fixture
def machine(tmp_path: Path):
    """Write a tree of files and return its root; paths are absolute on the fake machine."""

    def write(membership: str, mounts: str, files: Files) -> Path:
        tree = {"/proc/self/cgroup": membership, "/proc/self/mountinfo": mounts, **files}
        for name, content in tree.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n", encoding="utf-8")
        return tmp_path

    return write


def v2(folder: str, limit: object, used: int, *, cache: int = 0, slab: int = 0, **more) -> Files:
    """The memory files of a version 2 group."""
    stat = f"anon {used - cache - slab}\nfile {cache}\nshmem 0\n"
    stat += f"inactive_file {cache // 2}\nactive_file {cache - cache // 2}\n"
    stat += f"slab_reclaimable {slab}\nslab_unreclaimable 0"
    top = f"/sys/fs/cgroup{folder}"
    files = {f"{top}/memory.max": limit, f"{top}/memory.current": used, f"{top}/memory.stat": stat}
    return files | {f"{top}/memory.{name}": value for name, value in more.items()}


def v1(folder: str, limit: int, used: int, *, cache: int = 0) -> Files:
    """The memory files of a version 1 group; its own part of the cache is told apart."""
    stat = f"inactive_file 0\nactive_file 0\ntotal_inactive_file {cache}\ntotal_active_file 0"
    top = f"/sys/fs/cgroup/memory{folder}"
    return {
        f"{top}/memory.limit_in_bytes": limit,
        f"{top}/memory.usage_in_bytes": used,
        f"{top}/memory.stat": stat,
    }


MEMORY = {
    "a 6 GiB container sees its own top": (
        "0::/", V2_MOUNT, v2("", 6 * GIB, 1 * GIB), (6 * GIB, 5 * GIB)
    ),
    "page cache and slab do not count as used": (
        "0::/", V2_MOUNT, v2("", 6 * GIB, 6 * GIB, cache=4 * GIB, slab=GIB), (6 * GIB, 5 * GIB)
    ),
    "no limit at all": ("0::/", V2_MOUNT, v2("", "max", GIB), None),
    "the tightest ancestor binds": (
        "0::/user/app", V2_MOUNT,
        v2("/user/app", 8 * GIB, GIB) | v2("/user", 4 * GIB, 2 * GIB), (4 * GIB, 2 * GIB)
    ),
    "an ancestor filled by others binds more than a tight limit of its own": (
        "0::/user/app", V2_MOUNT,
        v2("/user/app", 4 * GIB, GIB) | v2("/user", 8 * GIB, 7 * GIB), (4 * GIB, GIB)
    ),
    "an ancestor binds a group without limit": (
        "0::/a/b/c", V2_MOUNT,
        v2("/a/b/c", "max", GIB) | v2("/a/b", "max", GIB) | v2("/a", 3 * GIB, GIB),
        (3 * GIB, 2 * GIB)
    ),
    "memory.high slows down before memory.max kills": (
        "0::/", V2_MOUNT, v2("", 8 * GIB, GIB, high=6 * GIB), (6 * GIB, 5 * GIB)
    ),
    "memory.high alone": ("0::/", V2_MOUNT, v2("", "max", GIB, high=2 * GIB), (2 * GIB, GIB)),
    "more used than allowed leaves nothing, not less": (
        "0::/", V2_MOUNT, v2("", 2 * GIB, 3 * GIB), (2 * GIB, 0)
    ),
    "more cache than used (figures are read one after another)": (
        "0::/", V2_MOUNT, v2("", 2 * GIB, GIB, cache=GIB, slab=GIB), (2 * GIB, 2 * GIB)
    ),
    "version 1": (
        "4:memory:/docker/1f", V1_MEMORY, v1("/docker/1f", 6 * GIB, 2 * GIB), (6 * GIB, 4 * GIB)
    ),
    "version 1 counts the cache of the groups below too": (
        "4:memory:/", V1_MEMORY, v1("", 6 * GIB, 6 * GIB, cache=5 * GIB), (6 * GIB, 5 * GIB)
    ),
    "version 1 without limit": (
        "4:memory:/a", V1_MEMORY, v1("/a", NO_LIMIT_V1, GIB) | v1("", NO_LIMIT_V1, GIB), None
    ),
    "version 1, the container's group mounted as the top": (
        "4:memory:/docker/1f",
        V1_MEMORY.replace("0:32 /", "0:32 /docker/1f"),
        v1("", 6 * GIB, GIB), (6 * GIB, 5 * GIB)
    ),
    "a mount that shows another group than one's own": (
        "4:memory:/other/9a",
        V1_MEMORY.replace("0:32 /", "0:32 /docker/1f"),
        v1("", 6 * GIB, GIB), (6 * GIB, 5 * GIB)
    ),
    "outside of its own namespace": (
        "0::/../init", V2_MOUNT, v2("", 6 * GIB, GIB), (6 * GIB, 5 * GIB)
    ),
    "both versions, memory in the first": (
        "4:memory:/a\n0::/", V1_MEMORY + V2_MOUNT.replace("cgroup rw", "cgroup/unified rw", 1),
        v1("/a", 6 * GIB, GIB), (6 * GIB, 5 * GIB)
    ),
    "a mount point with a space": (
        "0::/", V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/c\\040group"),
        {"/sys/fs/c group/memory.max": GIB, "/sys/fs/c group/memory.current": 0}, (GIB, GIB)
    ),
    "no group mounted": ("0::/", "22 27 0:21 / /proc rw - proc proc rw", {}, None),
    "a limit without usage": ("0::/", V2_MOUNT, {"/sys/fs/cgroup/memory.max": GIB}, None),
    "rubbish": (
        "x\n:::::\n", "y - z\n - \n" + V2_MOUNT,
        {"/sys/fs/cgroup/memory.max": "?", "/sys/fs/cgroup/memory.current": "-3"}, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMORY)
def test_memory_limit(name: str, machine) -> None:
    membership, mounts, files, expected = MEMORY[name]
    found = memory_limit(machine(membership, mounts, files))
    assert (found and (found.limit_bytes, found.available_bytes)) == expected


def test_no_linux_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    assert cpu_quota(tmp_path) is None


CPU = {
    "one and a half": ("0::/", V2_MOUNT, {"/sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
    "no limit": ("0::/", V2_MOUNT, {"/sys/fs/cgroup/cpu.max": "max 100000"}, None),
    "the tightest ancestor binds": (
        "0::/a/b", V2_MOUNT,
        {"/sys/fs/cgroup/a/b/cpu.max": "800000 100000", "/sys/fs/cgroup/a/cpu.max": "20000 10000"},
        2.0
    ),
    "version 1": (
        "2:cpu,cpuacct:/d", V1_CPU,
        {"/sys/fs/cgroup/cpu,cpuacct/d/cpu.cfs_quota_us": 300000,
         "/sys/fs/cgroup/cpu,cpuacct/d/cpu.cfs_period_us": 100000}, 3.0
    ),
    "version 1 without limit": (
        "2:cpu,cpuacct:/", V1_CPU,
        {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1,
         "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000}, None
    ),
    "a period of nothing": ("0::/", V2_MOUNT, {"/sys/fs/cgroup/cpu.max": "100000 0"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CPU)
def test_cpu_quota(name: str, machine) -> None:
    membership, mounts, files, expected = CPU[name]
    assert cpu_quota(machine(membership, mounts, files)) == expected


def test_groups_go_from_ones_own_to_the_top(machine) -> None:
    root = machine("0::/a/b", V2_MOUNT, {})
    folders = [str(group.folder.relative_to(root)) for group in groups(root, "memory")]
    assert folders == ["sys/fs/cgroup/a/b", "sys/fs/cgroup/a", "sys/fs/cgroup"]


def test_membership_names_each_controller() -> None:
    text = "9:name=systemd:/s\n4:cpu,cpuacct:/d/1\n0::/user.slice/a:b\n"
    assert parse_membership(text) == [
        ("name=systemd", "/s"),
        ("cpu", "/d/1"),
        ("cpuacct", "/d/1"),
        ("", "/user.slice/a:b"),
    ]


def test_mounts_of_other_kinds_are_left_out() -> None:
    text = V2_MOUNT + "22 27 0:21 / /proc rw shared:5 - proc proc rw\n"
    assert parse_mounts(text) == [Mount("", "/", "/sys/fs/cgroup")]


def test_stat_leaves_out_what_is_no_number() -> None:
    assert parse_stat("anon 5\nfile x\n\nshmem\n") == {"anon": 5}
