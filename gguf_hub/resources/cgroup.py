"""What a container may use: memory and CPU limits of Linux control groups, versions 1 and 2.

A process is in one group of each hierarchy; every ancestor's limit binds it too. Page cache and
reclaimable kernel memory of a group are given back on demand, so they do not count as used: a model
file that was read once would otherwise seem to fill the container.

Source: kernel documentation, admin-guide/cgroup-v2.rst (memory.max, memory.high, memory.stat,
cpu.max), admin-guide/cgroup-v1/memory.rst and scheduler/sched-bwc.rst (cpu.cfs_quota_us).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Group:
    """One control group that binds this process: its folder and which version wrote its files."""

    folder: Path
    version: int


@dataclass(frozen=True)
class MemoryLimit:
    """The tightest of the groups: bytes that may be used at all, and bytes still free under it."""

    limit_bytes: int
    available_bytes: int


def memory_limit(root: Path) -> MemoryLimit | None:
    """Return what the control groups leave to this process, or None where none sets a limit.

    Args:
        root: The root of the file system (another one in tests).
    """
    found = [each for group in groups(root, "memory") if (each := _memory_of(group))]
    if not found:
        return None
    return MemoryLimit(
        min(each.limit_bytes for each in found), min(each.available_bytes for each in found)
    )


def cpu_quota(root: Path) -> float | None:
    """Return how many CPUs' worth of time this process gets, e.g. 1.5; None without a limit."""
    quotas = [each for group in groups(root, "cpu") if (each := _quota_of(group))]
    return min(quotas, default=None)


def groups(root: Path, controller: str) -> Iterator[Group]:
    """Yield the groups of this process for a controller, its own first, then each ancestor."""
    mounts = parse_mounts(_read(root / "proc/self/mountinfo"))
    for name, path in parse_membership(_read(root / "proc/self/cgroup")):
        if name not in ("", controller):
            continue
        for mount in mounts:
            if mount.controller == name:
                yield from _chain(root, mount, path)


# ---- where the groups lie ----------------------------------------------------------------------


@dataclass(frozen=True)
class Mount:
    """A mounted hierarchy; ``controller`` is empty for version 2.

    Attributes:
        source: The group that the mount shows as its top: ``/`` or, in a container without a
            namespace of its own, the container's group.
        point: Where it is mounted.
    """

    controller: str
    source: str
    point: str


def parse_membership(text: str) -> list[tuple[str, str]]:
    """Return (controller, path) for each line of ``/proc/self/cgroup``; version 2 has ``""``.

    E.g. ``4:cpu,cpuacct:/docker/1f`` gives ``("cpu", "/docker/1f"), ("cpuacct", ...)``.
    """
    found = []
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            found += [(name, parts[2]) for name in parts[1].split(",")]
    return found


def parse_mounts(text: str) -> list[Mount]:
    """Return the mounted hierarchies of ``/proc/self/mountinfo``.

    E.g. ``35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory``: fields 4 and 5 are
    source and point; after the dash come type, device and options, controllers among them.
    """
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        source, point = _unescape(fields[3]), _unescape(fields[4])
        if kind[0] == "cgroup2":
            found.append(Mount("", source, point))
        elif kind[0] == "cgroup":
            found += [Mount(option, source, point) for option in kind[2].split(",")]
    return found


def _unescape(text: str) -> str:
    r"""Undo mountinfo's octal escapes: ``\040`` is a space."""
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, char)
    return text


def _chain(root: Path, mount: Mount, path: str) -> Iterator[Group]:
    """Yield the groups from ``path`` up to the top of a mount."""
    version = 1 if mount.controller else 2
    top = root / mount.point.lstrip("/")
    try:
        inner = PurePosixPath(path).relative_to(mount.source)
    except ValueError:
        inner = PurePosixPath()  # not below this mount: all that can be seen is its top
    if ".." in inner.parts:
        inner = PurePosixPath()  # a process outside of its own namespace's root
    for level in (inner, *inner.parents):
        yield Group(top / level, version)


# ---- what a group says -------------------------------------------------------------------------


def _memory_of(group: Group) -> MemoryLimit | None:
    """Return the limit of one group, or None when it sets none or cannot be read."""
    names, used_name = ["memory.max", "memory.high"], "memory.current"
    if group.version == 1:
        names, used_name = ["memory.limit_in_bytes"], "memory.usage_in_bytes"
    limits = [each for name in names if (each := _bytes_in(group.folder / name)) is not None]
    # version 1 writes "no limit" as the largest multiple of the page size below 2**63
    limits = [each for each in limits if each < 2**60]
    used_bytes = _bytes_in(group.folder / used_name)
    if not limits or used_bytes is None:
        return None
    needed_bytes = max(0, used_bytes - _reclaimable_bytes(group))
    return MemoryLimit(min(limits), max(0, min(limits) - needed_bytes))


def _reclaimable_bytes(group: Group) -> int:
    """Return page cache and slab that the kernel gives back before it kills anything."""
    stat = parse_stat(_read(group.folder / "memory.stat"))
    if group.version == 1:  # without the prefix they leave out the groups below
        return stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
    names = ("inactive_file", "active_file", "slab_reclaimable")
    return sum(stat.get(name, 0) for name in names)


def parse_stat(text: str) -> dict[str, int]:
    """Return name -> value of a ``memory.stat``."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _quota_of(group: Group) -> float | None:
    """Return the CPU time of one group over wall time, or None when it sets no limit."""
    if group.version == 2:
        words = _read(group.folder / "cpu.max").split()  # "max 100000" or "150000 100000"
    else:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = [_read(group.folder / name).strip() for name in names]  # "-1" is no limit
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        return None
    return int(words[0]) / int(words[1])


def _bytes_in(path: Path) -> int | None:
    """Return the number in a file; None for ``max``, for no file and for anything else."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    """Return the text of a file, or nothing where there is none to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
