"""Errors of the operating system in our words: the one place that translates them."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from gguf_hub.errors import DiskFullError, GgufHubError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def reason_of(exc: OSError) -> str:
    """Return what the system says: "permission denied"."""
    return (exc.strerror or str(exc)).lower()


def reason_with_name(exc: OSError) -> str:
    """Return what the system says, with the name of the file that it is about."""
    return f"{reason_of(exc)}: `{exc.filename}`" if exc.filename else reason_of(exc)


def is_full(exc: OSError) -> bool:
    """Return whether there was no room for what was written."""
    return exc.errno in _FULL


@contextlib.contextmanager
def translate_os_errors(
    what: str,
    kind: type[GgufHubError] = GgufHubError,
    *,
    full_hint: str | None = None,
    **details: Any,
) -> Iterator[None]:
    """Raise an error of ours for one of the system's inside.

    Args:
        what: What could not be done, e.g. "cannot read `model.gguf`".
        kind: The error; ``DiskFullError`` where there was no room.
        full_hint: The next step where there was no room.
        details: For ``kind``: ``hint``, ``path``.
    """
    try:
        yield
    except OSError as exc:
        if is_full(exc):
            path = details.get("path") or exc.filename
            message = f"{what}: the disk is full"
            raise DiskFullError(message, path=path, hint=full_hint) from exc
        is_named = f"`{exc.filename}`" in what  # a folder above it may be what is refused
        reason = reason_of(exc) if is_named else reason_with_name(exc)
        raise kind(f"{what}: {reason}", **details) from exc
