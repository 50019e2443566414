"""Locks that processes hold on files, also on file systems that know no ``flock``.

There (NFS without a lock daemon, some FUSE and container mounts) a file that exists is the lock. It
is made exclusively and names process and machine, so that one of a killed process is taken over.
"""

from __future__ import annotations

import errno
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

SOFT_SUFFIX = ".soft"
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_TAKING = threading.Lock()
_noted: set[Path] = set()


class HeldLock(Protocol):
    """A lock that is held."""

    def release(self) -> None:
        """Let others take it."""
        ...


def try_lock(
    path: Path, note: Callable[[str], None] = lambda text: None, *, mode: int = 0o644
) -> HeldLock | None:
    """Take a lock and return it, to be released; None while somebody else holds it.

    Args:
        path: The lock file; made when it is missing, emptied otherwise.
        note: Told once for each folder that knows no ``flock``.
        mode: Permissions of a new lock file.

    Raises:
        OSError: It cannot be made.
    """
    import filelock

    try:
        # what warnings are shown is one setting for all threads; here they say: no flock
        with _TAKING, warnings.catch_warnings(record=True) as fallbacks:
            warnings.simplefilter("always")
            lock = filelock.FileLock(path, timeout=0, mode=mode)
            lock.acquire()
        if fallbacks:
            _note_once(path, note)
        return lock
    except filelock.Timeout:
        return None
    except NotImplementedError:
        soft = path  # what huggingface_hub does then, too
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        # the lock file is there already: a file that is the lock needs another name
        soft = path.with_name(f"{path.name}{SOFT_SUFFIX}")
    _note_once(path, note)
    soft_lock = filelock.SoftFileLock(soft, timeout=0)
    try:
        soft_lock.acquire()
    except filelock.Timeout:
        return None
    return soft_lock


def _note_once(path: Path, note: Callable[[str], None]) -> None:
    if path.parent not in _noted:
        _noted.add(path.parent)
        note(
            f"note: `{path.parent}` knows no file locks: lock files with a process in them are used"
        )
