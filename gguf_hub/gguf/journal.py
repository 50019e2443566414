"""Changing a few bytes inside of a file so that a crash at any moment can be finished later.

Before the first byte changes, old and new bytes of all places lie on the disk beside the file, in
``<name>.journal``. Whoever finds one there writes the new bytes again; a journal that is not whole
was never acted on.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_hub.errors import GgufError
from gguf_hub.gguf.atomic import sync_folder


@dataclass(frozen=True)
class Patch:
    """Bytes that change; both are of one length.

    Attributes:
        offset: Where in the file.
        old: What is there.
        new: What shall be there.
    """

    offset: int
    old: bytes
    new: bytes


def journal_name(path: Path) -> Path:
    """Return where the journal of a file lies."""
    return path.with_name(path.name + ".journal")


def apply_patches(path: Path, patches: Sequence[Patch]) -> None:
    """Change bytes of a file, all or none, whatever happens meanwhile.

    Raises:
        GgufError: The file does not hold the old bytes.
        OSError: The disk failed; ``recover`` finishes the work later.
    """
    with path.open("rb+", buffering=0) as file:
        for patch in patches:
            if _at(file, patch) != patch.old:
                raise GgufError(f"`{path}` changed while it was being edited", path=path)
        _write_journal(path, patches)
        _write_patches(file, patches)
    _remove(path)


def recover(path: Path) -> bool:
    """Finish a change that was interrupted.

    Returns:
        Whether there was one.

    Raises:
        GgufError: The journal is that of another file.
    """
    patches = _read_journal(path)
    if patches is None:
        return False
    with path.open("rb+", buffering=0) as file:
        if any(_at(file, patch) not in (patch.old, patch.new) for patch in patches):
            raise GgufError(
                f"`{journal_name(path)}` is not the journal of `{path}`",
                path=path,
                hint="remove the journal if the file was put there after it",
            )
        _write_patches(file, patches)
    _remove(path)
    return True


def _at(file: Any, patch: Patch) -> bytes:
    """The bytes where a patch belongs."""
    file.seek(patch.offset)
    found: bytes = file.read(len(patch.new))
    return found


def _write_patches(file: Any, patches: Sequence[Patch]) -> None:
    for patch in patches:
        os.lseek(file.fileno(), patch.offset, os.SEEK_SET)
        os.write(file.fileno(), patch.new)
    os.fsync(file.fileno())


def _write_journal(path: Path, patches: Sequence[Patch]) -> None:
    """Bring the journal to the disk: its first line is the hash of the rest."""
    rows = [
        [patch.offset, base64.b64encode(patch.old).decode(), base64.b64encode(patch.new).decode()]
        for patch in patches
    ]
    body = json.dumps(rows).encode()
    with journal_name(path).open("wb", buffering=0) as journal:
        os.write(journal.fileno(), hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        os.fsync(journal.fileno())
    sync_folder(path.parent)


def _read_journal(path: Path) -> list[Patch] | None:
    """Return the patches of a journal; None when there is none, or no whole one."""
    try:
        digest, _, body = journal_name(path).read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if hashlib.sha256(body).hexdigest().encode() != digest:
        # it was being written when the process died, and the file was not touched yet
        _remove(path)
        return None
    return [
        Patch(offset, base64.b64decode(old), base64.b64decode(new))
        for offset, old, new in json.loads(body)
    ]


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(journal_name(path))  # noqa: PTH108 - one of the calls that crash tests count
    sync_folder(path.parent)
