"""New files that are whole or not there at all.

Knows names, locks, space and the disk; nothing about what is written. While a file is written it
is called ``<name>.<16 hex digits>.part``: eight are random, eight a hash of them, of the name and
of the file's own number. By that, and by nobody holding its lock, what a killed process left is
known and removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf_hub.errors import DiskFullError, GgufHubError, LockedError
from gguf_hub.files import create_beside, is_named, open_regular, remove_if, rename_new
from gguf_hub.oserrors import is_full, reason_with_name
from gguf_hub.units import format_size

SUFFIX = ".part"
_LOOKS, _LOOK_EVERY_S = 10, 0.05


@dataclass(frozen=True)
class NewFile:
    """A file that is being written.

    Attributes:
        descriptor: For reading and writing.
        path: What it is called until it is whole.
    """

    descriptor: int
    path: Path


@contextlib.contextmanager
def new_file(path: Path, size_bytes: int, *, may_replace: bool = True) -> Iterator[NewFile]:
    """Give a file to write that takes its name when the block ends well.

    It is brought to the disk and renamed; when the block raises it disappears.

    Args:
        path: The final name; a file that has it now is replaced at the very end. One that appears
            there meanwhile is not.
        size_bytes: How long it will be; checked against the free space first.
        may_replace: False to replace no file at all.

    Raises:
        DiskFullError: Not enough space.
        LockedError: Another process writes the same file.
        GgufHubError: The folder does not exist or may not be written, or something else took the
            name meanwhile.
    """
    replaces = may_replace and os.path.lexists(path)
    try:
        _remove_leftovers(path)
        require_space(path.parent, size_bytes)
        new = _create(path)
    except OSError as exc:
        raise GgufHubError(f"cannot write `{path}`: {reason_with_name(exc)}") from exc
    try:
        yield new
        is_renamed = _finish(new, path, replaces=replaces)
    except OSError as exc:
        new.path.unlink(missing_ok=True)
        kind = DiskFullError if is_full(exc) else GgufHubError
        raise kind(f"writing `{path}` failed: {reason_with_name(exc)}") from exc
    except BaseException:
        new.path.unlink(missing_ok=True)
        raise
    finally:
        with contextlib.suppress(OSError):
            os.close(new.descriptor)
    if not is_renamed:
        _refuse_taken_name(new, path, is_kept=may_replace)


def _finish(new: NewFile, path: Path, *, replaces: bool) -> bool:
    """Rename; False when the name is taken. The lock is held until that is done, if it can be."""
    os.fsync(new.descriptor)
    if os.name == "nt":
        os.close(new.descriptor)  # there, open files cannot be renamed
    try:
        new.path.replace(path) if replaces else rename_new(new.path, path)
    except FileExistsError:
        return False
    sync_folder(path.parent)
    return True


def _refuse_taken_name(new: NewFile, path: Path, *, is_kept: bool) -> None:
    """Raise: another program took the name. What was written for hours is not thrown away."""
    hint = None
    if is_kept:
        aside = path.with_name(f"{path.name}.{os.urandom(4).hex()}.new")
        rename_new(new.path, aside)
        hint = f"the new file is complete: `{aside}`"
    else:
        new.path.unlink(missing_ok=True)
    raise GgufHubError(
        f"`{path}` appeared while it was being written: it is left as it is", hint=hint
    )


def _create(path: Path) -> NewFile:
    """Make the file under its first name, and lock it.

    Raises:
        LockedError: Another process writes the same file.
        OSError: It cannot be made.
    """
    while True:
        descriptor, part = create_beside(path, SUFFIX)
        try:
            _lock(descriptor)
            status = os.fstat(descriptor)
            if is_named(status, part):
                signed = _part_name(path, status, os.urandom(4).hex())
                descriptor, part = _sign(descriptor, part, signed)
                _refuse_second(path, status.st_ino)
                return NewFile(descriptor, part)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            part.unlink(missing_ok=True)
            raise
        os.close(descriptor)  # empty and not locked yet, it was taken for a leftover


def _sign(descriptor: int, part: Path, signed: Path) -> tuple[int, Path]:
    """Give the file the name by which it is known; return it under that, open."""
    if os.name != "nt":
        rename_new(part, signed)
        return descriptor, signed
    os.close(descriptor)  # there, open files cannot be renamed
    rename_new(part, signed)
    return open_regular(signed, os.O_RDWR), signed


# -- leftovers, and others at work on the same file -----------------------------------------------


def _part_name(path: Path, status: os.stat_result, token: str) -> Path:
    """Return what a file is called while it is written to become ``path``.

    A copy, or another program's file, does not have such a name: its number is another one.
    """
    text = f"gguf-hub {token} {status.st_ino} {path.name}"
    digits = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return path.with_name(f"{path.name}.{token}{digits}{SUFFIX}")


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of this file."""
    for part, is_busy, status in _unfinished_parts(path):
        if not is_busy:
            with contextlib.suppress(OSError):  # some systems keep what is open
                remove_if(part, status)


def _refuse_second(path: Path, own: int) -> None:
    """Raise when another process writes the same file; of two that begin at once, one goes on."""
    for _ in range(_LOOKS):
        status = [status.st_ino for _, is_busy, status in _unfinished_parts(path) if is_busy]
        others = [number for number in status if number != own]
        if not others:
            return
        if min(others) < own:
            break
        time.sleep(_LOOK_EVERY_S)  # the other one sees this file, too, and gives up if it is new
    raise LockedError(f"another process is writing `{path}`", path=path)


def _unfinished_parts(path: Path) -> Iterator[tuple[Path, bool, os.stat_result]]:
    """Yield files of ours that were to become ``path``: name, whether it is locked, and stat."""
    pattern = re.compile(re.escape(path.name) + r"\.([0-9a-f]{8})[0-9a-f]{8}" + re.escape(SUFFIX))
    for part in sorted(path.parent.iterdir()):
        named = pattern.fullmatch(part.name)
        if not named:
            continue
        try:
            descriptor = open_regular(part)
        except OSError:
            continue
        try:
            status = os.fstat(descriptor)
            is_ours = part == _part_name(path, status, named[1]) or not status.st_size  # not yet
            if is_ours and status.st_nlink == 1:
                yield part, _is_locked(descriptor), status
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Mark a file as being written, where the system can."""
    with contextlib.suppress(ImportError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)  # others hold it for a moment at most, to look


def _is_locked(descriptor: int) -> bool:
    """Return whether a file is being written; False where the system cannot tell."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except ImportError:
        return False
    except BlockingIOError:
        return True
    return False


# -- checks of the destination --------------------------------------------------------------------


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
