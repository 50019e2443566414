"""Errors of the file system, with the next step."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from gguf_hub.errors import DiskFullError, DownloadError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of the file system into ours."""
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or str(exc)
        if exc.filename and str(exc.filename) != str(path):
            reason += f": `{exc.filename}`"
        if exc.errno in _NO_ROOM:
            raise DiskFullError(
                f"the disk is full: cannot go on with `{path}`",
                path=path,
                hint="free some space and repeat the command: it goes on from what is there",
            ) from exc
        raise DownloadError(
            f"cannot write `{path}`: {reason}",
            path=path,
            hint="check the folder and who owns it, or choose another with --local-dir",
        ) from exc
