"""One download of a file at a time, over all processes, huggingface_hub's among them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

from gguf_hub.errors import LockedError
from gguf_hub.files import HEAD_BYTES, create, open_regular, remove_if
from gguf_hub.locks import HeldLock, try_lock
from gguf_hub.progress import SILENT, Progress

_TRIES = 5
_POLL_S = 0.05
_WAIT_POLL_S = 0.2
_SOFT_LOCK_BYTES = 1024


@contextlib.contextmanager
def download_lock(
    path: Path,
    what: str,
    where: Path,
    *,
    progress: Progress = SILENT,
    cancel: threading.Event | None = None,
) -> Iterator[None]:
    """Hold the lock at ``path`` inside the block.

    Args:
        path: The lock file, the same that huggingface_hub takes.
        what: The file that is downloaded, for the message.
        where: The place, likewise.
        progress: Where to note whom it waits for.
        cancel: Ends the wait for another process when set; without it nobody is waited for.

    Raises:
        LockedError: Another process holds it (which is named if it is one of ours), or
            something that is no lock has its name.
        CancelledError: ``cancel`` was set.
        OSError: The lock cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _require_lock(path)
    lock = _try_lock(path, progress)
    if lock is None:
        holder = _holder(path)
        if cancel is None:
            raise LockedError(
                f"{holder} is downloading `{what}` to `{where}`",
                path=path,
                hint="wait until it is done, then repeat the command",
            )
        progress.note(
            f"{holder} is downloading `{what}` to `{where}`: waiting for it (lock `{path}`)"
        )
    while lock is None:
        assert cancel
        if cancel.wait(_WAIT_POLL_S):
            raise CancelledError
        lock = _try_lock(path, progress)
    owner = _owner_of(path)
    signed = _sign(owner)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if signed:
                remove_if(owner, signed)
        with contextlib.suppress(OSError):
            lock.release()


def _try_lock(path: Path, progress: Progress) -> HeldLock | None:
    return try_lock(path, progress.note, mode=0o664)


def _require_lock(path: Path) -> None:
    """Refuse what is no lock: whoever takes a lock empties the file, and follows links to it.

    Raises:
        LockedError: Something else has the name.
    """
    try:
        status = path.lstat()
    except OSError:
        return
    is_file = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    if is_file and (not status.st_size or _is_soft_lock(path)):
        return
    raise LockedError(
        f"`{path}` is not a lock file: it is left as it is",
        path=path,
        hint=f"move `{path}` elsewhere, then repeat the command",
    )


def _is_soft_lock(path: Path) -> bool:
    """Return whether a file is the lock of a system without flock: it names a process."""
    with os.fdopen(open_regular(path), "rb") as file:
        text = file.read(_SOFT_LOCK_BYTES + 1)
    return len(text) <= _SOFT_LOCK_BYTES and text.split(b"\n")[0].strip().isdigit()


def _sign(owner: Path) -> os.stat_result | None:
    """Say who holds a lock, for people only; None where somebody else's file has the name."""
    with contextlib.suppress(OSError):
        if _read_owner(owner):
            owner.unlink(missing_ok=True)  # of a process that was killed
        with os.fdopen(create(owner), "wb") as file:
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            return os.fstat(file.fileno())
    return None


def _read_owner(owner: Path) -> tuple[int, str] | None:
    """Return process and machine that a file names; None where it names none."""
    try:
        with os.fdopen(open_regular(owner), "rb") as file:
            row = json.loads(file.read(HEAD_BYTES))
        return int(row["pid"]), str(row["host"])
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None


def _owner_of(path: Path) -> Path:
    # not in the lock itself: whoever tries to take that empties it
    return path.with_name(f"{path.name}.owner")


def _holder(path: Path) -> str:
    for _ in range(_TRIES):
        if owner := _read_owner(_owner_of(path)):
            break
        time.sleep(_POLL_S)  # it may have the lock, and not have signed yet
    else:
        return "another process"
    pid, host = owner
    elsewhere = "" if host == socket.gethostname() else f" on {host}"
    return f"another process (pid {pid}{elsewhere})"
