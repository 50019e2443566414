"""Measures how fast this machine reads memory and disk, once, and remembers the figures.

Memory: each thread combines the words of a part of a buffer much larger than the caches; numpy
releases the interpreter's lock and reads as fast as a compiled pass does (docs/fit.md). Threads
count the time that they ran, so that other work on the machine makes no difference beyond the
memory that it reads itself.

Disk: a file is read past the page cache, a model that is there or else one that is written for it.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_hub.machine_files import positive, read_machine_file, write_machine_file
from gguf_hub.units import MIB

FILENAME = "speeds.json"
MEMORY_S, DISK_S = 1.0, 0.5  # how long measuring may take, making the buffer included
TOGETHER = 1.2  # a pass that took no longer than this, by what its threads ran, was undisturbed
MIN_BUFFER_BYTES, MAX_BUFFER_BYTES = 64 * MIB, 512 * MIB
DISK_FILE_BYTES = 64 * MIB
DISK_BLOCK_BYTES = 4 * MIB


@dataclass(frozen=True)
class Speeds:
    """What was measured, in bytes a second; None for what was not."""

    ram_bytes_per_s: float | None = None
    disk_bytes_per_s: float | None = None


def recall_speeds(key: str, target: Path) -> Speeds:
    """Return what was measured on this machine before.

    Args:
        key: From ``machine_key``.
        target: Where files lie; each disk has a figure of its own.
    """
    entry = read_machine_file(FILENAME).get(key)
    entry = entry if isinstance(entry, dict) else {}
    disks = entry.get("disks")
    disk = disks.get(_disk_key(target)) if isinstance(disks, dict) else None
    return Speeds(positive(entry.get("ram_bytes_per_s")), positive(disk))


def machine_key(cpu_name: str, n_threads: int) -> str:
    """Return what a measurement holds for: this computer, its CPU, so many threads."""
    return f"{platform.node()}, {cpu_name}, {n_threads} threads"


def measure(
    key: str,
    target: Path,
    *,
    n_threads: int,
    l3_bytes: int | None,
    available_bytes: int | None,
    with_disk: bool = False,
) -> Speeds:
    """Return the speeds of this machine, measuring and remembering those that are not known yet.

    Args:
        key: From ``machine_key``.
        target: Where files lie.
        n_threads: Threads that read memory together.
        l3_bytes: The last cache; the buffer is at least four times as large.
        available_bytes: Memory there is; an eighth of it is taken at most.
        with_disk: Measure the disk too.
    """
    known = recall_speeds(key, target)
    ram, disk = known.ram_bytes_per_s, known.disk_bytes_per_s
    if ram is None:
        ram = read_bandwidth(n_threads, buffer_bytes(l3_bytes, available_bytes))
    if disk is None and with_disk:
        disk = disk_speed(target)
    speeds = Speeds(ram, disk)
    if speeds != known:
        _remember(key, target, speeds)
    return speeds


# ---- memory ------------------------------------------------------------------------------------


def buffer_bytes(l3_bytes: int | None, available_bytes: int | None) -> int:
    """Return how much memory to read: far more than the caches, and no burden to the machine."""
    n_bytes = 8 * (l3_bytes or 0)
    n_bytes = min(max(n_bytes, MIN_BUFFER_BYTES), MAX_BUFFER_BYTES)
    return n_bytes if available_bytes is None else min(n_bytes, available_bytes // 8)


def read_bandwidth(n_threads: int, n_bytes: int, *, limit_s: float = MEMORY_S) -> float | None:
    """Measure how many bytes a second all threads together read from memory.

    Args:
        n_threads: Threads.
        n_bytes: Size of the buffer.
        limit_s: When to stop.

    Returns:
        The fastest pass in which all threads ran at the same time, or else the middle of all
        passes; None where there is no memory for a buffer.
    """
    import statistics  # these three when there is something to measure: once a machine
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    if n_bytes < 8 * n_threads:
        return None
    began = time.perf_counter()
    try:
        # written, as untouched pages all lie in one page of zeros
        words = np.ones(n_bytes // 8, np.int64)
    except MemoryError:
        return None

    def read(part: Any) -> float:
        """Return the seconds of its own CPU time in which a thread reads its part."""
        started = time.thread_time()
        np.bitwise_or.reduce(part)
        return time.thread_time() - started

    parts = np.array_split(words, n_threads)
    together, alone = [], []
    with ThreadPoolExecutor(n_threads) as threads:
        while True:
            started = time.perf_counter()
            busy_s = max(threads.map(read, parts))
            ended = time.perf_counter()
            alone.append(busy_s)
            if ended - started < TOGETHER * busy_s:
                together.append(busy_s)
            if ended - began > limit_s:
                return words.nbytes / (min(together) if together else statistics.median(alone))


# ---- disk --------------------------------------------------------------------------------------


def disk_speed(target: Path, *, limit_s: float = DISK_S) -> float | None:
    """Measure how fast a file at ``target`` is read; None where that cannot be measured.

    Args:
        target: A folder, or one that will be: the nearest that exists is taken.
        limit_s: When to stop.
    """
    if not hasattr(os, "posix_fadvise"):
        return None  # no way around the page cache
    folder = next(each for each in (target, *target.parents) if each.is_dir())
    try:
        path = _large_file(folder)
        if path is not None:
            return _read_speed(path, limit_s)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".gguf-hub-probe-") as file:
            file.write(os.urandom(DISK_BLOCK_BYTES) * (DISK_FILE_BYTES // DISK_BLOCK_BYTES))
            file.flush()
            os.fsync(file.fileno())
            return _read_speed(Path(file.name), limit_s)
    except OSError:
        return None


def _large_file(folder: Path) -> Path | None:
    """Return a large file near the top of a folder, so that nothing need be written."""
    for depth, (top, folders, names) in enumerate(os.walk(folder)):
        if depth > 200:
            break
        folders.sort()
        for name in names:
            path = Path(top, name)
            if not path.is_symlink() and path.stat().st_size >= DISK_FILE_BYTES:
                return path
    return None


def _read_speed(path: Path, limit_s: float) -> float | None:
    """Read a file in large blocks that the page cache does not hold."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        began, n_bytes = time.perf_counter(), 0
        for offset in range(0, os.fstat(fd).st_size, DISK_BLOCK_BYTES):
            n_bytes += len(os.pread(fd, DISK_BLOCK_BYTES, offset))
            if time.perf_counter() - began > limit_s:
                break
        seconds = time.perf_counter() - began
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return n_bytes / seconds if n_bytes and seconds else None
    finally:
        os.close(fd)


def _disk_key(target: Path) -> str:
    """Return a name for the disk that a folder is on."""
    for folder in (target, *target.parents):
        try:
            return f"device {folder.stat().st_dev}"
        except OSError:
            continue
    return "device unknown"


# ---- memory of what was measured ---------------------------------------------------------------


def _remember(key: str, target: Path, speeds: Speeds) -> None:
    """Write the figures down; a cache that cannot be written costs a second at the next start."""
    rows = read_machine_file(FILENAME)
    old = rows.get(key)
    entry: dict[str, Any] = old if isinstance(old, dict) else {}
    disks = dict(_items(entry.get("disks")))
    if speeds.disk_bytes_per_s is not None:
        disks[_disk_key(target)] = speeds.disk_bytes_per_s
    rows[key] = {"ram_bytes_per_s": speeds.ram_bytes_per_s, "disks": disks}
    write_machine_file(FILENAME, rows)


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()
