"""New files that are whole or not there at all.

Knows names, locks, space and the disk; nothing about what is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from gguf_hub.errors import DiskFullError, GgufHubError, LockedError
from gguf_hub.units import format_size

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def part_name(path: Path) -> Path:
    """Return what a file is called while it is being written."""
    return path.with_name(path.name + ".part")


@contextlib.contextmanager
def new_file(path: Path, size_bytes: int) -> Iterator[int]:
    """Give a descriptor to write a file that takes its name when the block ends well.

    It is written as ``<name>.part`` in the same folder, brought to the disk, and renamed; when the
    block raises it disappears. What a killed process left under that name is written over.

    Args:
        path: The final name; an existing file is replaced at the very end.
        size_bytes: How long it will be; checked against the free space first.

    Raises:
        DiskFullError: Not enough space.
        LockedError: Another process writes the same file.
        GgufHubError: The folder does not exist or may not be written.
    """
    part = part_name(path)
    try:
        require_space(path.parent, size_bytes)
        target = _open_locked(part, path)
    except OSError as exc:
        raise GgufHubError(f"cannot write `{path}`: {_reason(exc)}") from exc
    try:
        os.ftruncate(target, 0)
        yield target
        os.fsync(target)
        _finish(target, part, path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        kind = DiskFullError if exc.errno in _NO_ROOM else GgufHubError
        raise kind(f"writing `{path}` failed: {_reason(exc)}") from exc
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        with contextlib.suppress(OSError):
            os.close(target)


def _finish(target: int, part: Path, path: Path) -> None:
    """Rename; the lock is held until that is done, except where open files cannot be renamed."""
    if os.name == "nt":
        os.close(target)
    part.replace(path)
    sync_folder(path.parent)


def _open_locked(part: Path, path: Path) -> int:
    """Open the temporary file for this process alone."""
    while True:
        target = os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock(target, path)
            if _is_still(target, part):
                return target
        except BaseException:
            os.close(target)
            raise
        # the one who held the lock has renamed it meanwhile: what is open here is the result
        os.close(target)


def _is_still(target: int, part: Path) -> bool:
    """Tell whether a descriptor is that of the file which now bears the name."""
    try:
        return os.path.samestat(os.fstat(target), part.stat())
    except FileNotFoundError:
        return False


def _lock(target: int, path: Path) -> None:
    """Keep other processes from writing the same file, where the system can."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise LockedError(f"another process is writing `{path}`", path=path) from exc


def require_own(path: Path) -> None:
    """Raise when changing a file would change another one, such as a blob of a cache.

    Raises:
        GgufHubError: It is a link, or has other names.
        OSError: There is no such file.
    """
    if path.is_symlink() or path.stat().st_nlink > 1:
        kind = "a link" if path.is_symlink() else "one of several names of a file"
        raise GgufHubError(
            f"`{path}` is {kind}: changing it would change what others see under that content",
            hint="write a new file instead",
        )


def require_space(folder: Path, size_bytes: int) -> None:
    """Raise unless the folder's file system has room.

    Raises:
        DiskFullError: It has not.
        OSError: There is no such folder.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise DiskFullError(
            f"not enough space in `{folder}`: {format_size(size_bytes)} needed, "
            f"{format_size(free)} free",
            path=folder,
            hint="free some space, or name a path on another disk",
        )


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(exc: OSError) -> str:
    """What the system says, with the name of the file that it is about."""
    what = (exc.strerror or str(exc)).lower()
    return f"{what}: `{exc.filename}`" if exc.filename else what
