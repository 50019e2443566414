"""Files in memory: mapped side by side as one, or read.

The shards of a model are mapped one after another into one reserved range of addresses, each from
a page of its own, so that an offset into that range names a byte of any shard. Whoever computes
with weights need not know that there are several files.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gguf_hub.errors import GgufError, ResourceError
from gguf_hub.gguf.format import align
from gguf_hub.oserrors import reason_of
from gguf_hub.progress import SILENT, Progress, Task
from gguf_hub.units import format_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE_BYTES = 64 << 20
_MAP_FIXED = 0x10  # of Linux, macOS and the BSDs; Python's mmap does not name it


@dataclass(frozen=True)
class Extent:
    """A file that was looked at, and is to be mapped.

    Attributes:
        path: Its name.
        size_bytes: Its length.
        status: Distinguishes it from another file that has got its name meanwhile.
    """

    path: Path
    size_bytes: int
    status: os.stat_result


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raise ``GgufError`` for what keeps a file from being opened, mapped or read."""
    _require_no_pipe(path)
    try:
        yield
    except FileNotFoundError as exc:
        hint = "check the path; `gguf-hub list` names the files that can be downloaded"
        raise GgufError(f"no such file: `{path}`", path=path, hint=hint) from exc
    except IsADirectoryError as exc:
        hint = "name the .gguf file in it"
        raise GgufError(f"`{path}` is a folder, not a file", path=path, hint=hint) from exc
    except OSError as exc:
        hint = "the limit on address space is too low: `ulimit -v`"
        is_memory = exc.errno == errno.ENOMEM
        raise GgufError(
            f"cannot read `{path}`: {reason_of(exc)}", path=path, hint=hint if is_memory else None
        ) from exc


def _require_no_pipe(path: Path) -> None:
    """Refuse what would be waited for without end when it is opened."""
    try:
        is_pipe = stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return  # opening it says why
    if is_pipe:
        raise GgufError(f"`{path}` is a pipe: expected a file", path=path)


def starts_of(sizes: Sequence[int]) -> list[int]:
    """Return where each file begins when all lie together, and where the last one ends."""
    starts = [0]
    for size_bytes in sizes:
        starts.append(starts[-1] + align(size_bytes, mmap.ALLOCATIONGRANULARITY))
    return starts


# -- mapped ----------------------------------------------------------------------------------


def map_together(files: Sequence[Extent]) -> NDArray[np.uint8] | None:
    """Map files at ``starts_of`` in one array, read-only; None where the system cannot.

    Raises:
        GgufError: A file cannot be read, or is not the one that was looked at.
    """
    if os.name != "posix":
        return None
    *starts, total = starts_of([file.size_bytes for file in files])
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with read_errors(files[0].path):
        # the reserved pages take no memory; unmapping them unmaps what replaced them
        area = mmap.mmap(-1, total, flags=flags, prot=mmap.PROT_READ)
    data = np.frombuffer(area, np.uint8)
    for file, start in zip(files, starts, strict=True):
        _map_at(file, data.ctypes.data + start)
    return data


def _map_at(file: Extent, address: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    with read_errors(file.path), file.path.open("rb") as opened:
        status = os.fstat(opened.fileno())
        # sizes are checked through the first mapping: this one must be of the same file
        if not os.path.samestat(status, file.status) or status.st_size != file.size_bytes:
            raise GgufError(f"`{file.path}` has changed while it was opened", path=file.path)
        flags = mmap.MAP_SHARED | _MAP_FIXED
        size, number = file.size_bytes, opened.fileno()
        if libc.mmap(address, size, mmap.PROT_READ, flags, number, 0) != address:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(file.path))


# -- read ------------------------------------------------------------------------------------


def read_together(
    paths: Sequence[Path], progress: Progress = SILENT
) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """Read whole files into memory of our own, at ``starts_of`` in one array.

    Returns:
        That array and each file's part of it, read-only.

    Raises:
        GgufError: A file cannot be read, or becomes shorter meanwhile.
        ResourceError: The system does not give as much memory.
    """
    sizes = [_size_of(path) for path in paths]
    *starts, total = starts_of(sizes)
    pages = _fresh_pages(paths, total)
    with progress.task("read the file", sum(sizes)) as task, memoryview(pages) as memory:
        for path, start, size_bytes in zip(paths, starts, sizes, strict=True):
            with memory[start : start + size_bytes] as part:
                _read_into(part, path, task)
    data = np.frombuffer(pages, np.uint8)
    data.flags.writeable = False
    parts = zip(starts, sizes, strict=True)
    return data, [data[start : start + size_bytes] for start, size_bytes in parts]


def _size_of(path: Path) -> int:
    with read_errors(path):
        return path.stat().st_size


def _read_into(memory: memoryview, path: Path, task: Task) -> None:
    with read_errors(path), path.open("rb", buffering=0) as file:
        at = 0
        while at < len(memory):
            n = file.readinto(memory[at : at + _PIECE_BYTES])
            if not n:
                raise GgufError(f"`{path}` became shorter while it was read", path=path)
            at += n
            task.advance(n)


def _fresh_pages(paths: Sequence[Path], size_bytes: int) -> Any:
    """Return memory of our own for files, in large pages where the system has them."""
    if size_bytes == 0:
        return b""
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, size_bytes)
        pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as exc:
        what = f"`{paths[0]}` takes" if len(paths) == 1 else f"the shards of `{paths[0]}` take"
        raise ResourceError(
            f"not enough memory: {what} {format_size(size_bytes)}",
            hint="without `--no-mmap` it is read as it is needed",
        ) from exc
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages
