"""One download of a file at a time, over all processes, huggingface_hub's among them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from gguf_hub.errors import LockedError

_LOOKS = 5
_LOOK_EVERY_S = 0.05


@contextlib.contextmanager
def only_one(path: Path, what: str, where: Path) -> Iterator[None]:
    """Hold the lock at ``path`` inside the block.

    Args:
        path: The lock file, the same that huggingface_hub takes.
        what: The file that is downloaded, for the message.
        where: The place, likewise.

    Raises:
        LockedError: Another process holds it; names that process if it is one of ours.
        OSError: The lock cannot be made.
    """
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock: filelock.BaseFileLock = filelock.FileLock(path, timeout=0, mode=0o664)
    try:
        try:
            lock.acquire()
        except NotImplementedError:
            # some network file systems know no flock: there the file itself is the lock
            lock = filelock.SoftFileLock(path, timeout=0)
            lock.acquire()
    except filelock.Timeout as exc:
        raise LockedError(
            f"{_holder(path)} is downloading `{what}` to `{where}`",
            path=path,
            hint="wait until it is done, then repeat the command",
        ) from exc
    owner = _owner_of(path)
    with contextlib.suppress(OSError):  # who holds it is said for people only
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        with contextlib.suppress(OSError):
            lock.release()


def _owner_of(path: Path) -> Path:
    # not in the lock itself: whoever tries to take that empties it
    return path.with_name(f"{path.name}.owner")


def _holder(path: Path) -> str:
    """Say who holds a lock."""
    for _ in range(_LOOKS):
        try:
            row = json.loads(_owner_of(path).read_text())
            pid, host = int(row["pid"]), str(row["host"])
            break
        except (OSError, ValueError, LookupError, TypeError):
            time.sleep(_LOOK_EVERY_S)  # it may have the lock, and not have signed yet
    else:
        return "another process"
    elsewhere = "" if host == socket.gethostname() else f" on {host}"
    return f"another process (pid {pid}{elsewhere})"
