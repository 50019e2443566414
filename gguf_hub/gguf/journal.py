"""Changing a few bytes inside of a file so that a crash at any moment can be finished later.

Before the first byte changes, old and new bytes of all patches lie on the disk beside the file, in
``<name>.journal``, which appears there whole. Whoever finds one writes the new bytes again.

A journal is believed only if it is ours and of this very file: its first line is our signature and
the hash of the rest, which names the file's size and a hash of its beginning (without the bytes
that change), and every patch lies inside of the file and finds its old bytes or its new ones.
Anything else under that name belongs to somebody: it is neither followed nor removed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gguf_hub.errors import GgufError
from gguf_hub.files import open_regular, remove_if
from gguf_hub.gguf.atomic import new_file, require_own, sync_folder
from gguf_hub.gguf.copying import write_all
from gguf_hub.oserrors import reason_of
from gguf_hub.units import MIB, format_size

SIGNATURE = b"gguf-hub edit journal 2 "
MAX_BYTES = 16 * MIB
"""A journal that is larger is neither written nor read."""
_CONTEXT_BYTES = 65_536
"""How much of the file behind the last patch is hashed, too."""


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

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + len(self.new)


def journal_name(path: Path) -> Path:
    """Return where the journal of a file lies."""
    return path.with_name(path.name + ".journal")


def apply_patches(path: Path, patches: Sequence[Patch]) -> None:
    """Change bytes of a file, all or none, whatever happens meanwhile.

    Args:
        path: The file; no link, and its only name.
        patches: What changes, in the order of their offsets.

    Raises:
        GgufError: The file does not hold the old bytes, or its journal's name is taken.
        OSError: The disk failed; ``recover`` finishes the work later.
    """
    with _open_own(path) as file:
        for patch in patches:
            if _bytes_at(file, patch) != patch.old:
                raise GgufError(f"`{path}` changed while it was being edited", path=path)
        status = _write_journal(path, _encode_journal(file, patches))
        _write_patches(file, patches)
    _remove(path, status)


def recover(path: Path) -> bool:
    """Finish a change that was interrupted.

    Returns:
        Whether there was one.

    Raises:
        GgufError: What lies there is not the journal of this file.
    """
    if not os.path.lexists(journal_name(path)):
        return False
    with _open_own(path) as file:
        patches, status = _read_journal(path, file)
        _write_patches(file, patches)
    _remove(path, status)
    return True


def is_unfinished(path: Path) -> bool:
    """Return whether there is a journal of an interrupted change that ``recover`` would use.

    Raises:
        OSError: The file cannot be read.
    """
    if not os.path.lexists(journal_name(path)):
        return False
    with path.open("rb", buffering=0) as file:
        try:
            _read_journal(path, file)
        except GgufError:
            return False
    return True


def _open_own(path: Path) -> Any:
    """Open the file that changes: under its only name, not through a link."""
    require_own(path)
    return os.fdopen(open_regular(path, os.O_RDWR), "rb+", buffering=0)


def _bytes_at(file: Any, patch: Patch) -> bytes:
    file.seek(patch.offset)
    data: bytes = file.read(len(patch.new))
    return data


def _write_patches(file: Any, patches: Sequence[Patch]) -> None:
    for patch in patches:
        os.lseek(file.fileno(), patch.offset, os.SEEK_SET)
        write_all(file.fileno(), patch.new)
    os.fsync(file.fileno())


# -- the journal ----------------------------------------------------------------------------------


def _encode_journal(file: Any, patches: Sequence[Patch]) -> bytes:
    rows = [
        [patch.offset, base64.b64encode(patch.old).decode(), base64.b64encode(patch.new).decode()]
        for patch in patches
    ]
    size_bytes = os.fstat(file.fileno()).st_size
    body = json.dumps(
        {"size_bytes": size_bytes, "sha256": _identity(file, patches), "patches": rows}
    ).encode()
    return SIGNATURE + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _identity(file: Any, patches: Sequence[Patch]) -> str:
    """Return a hash of the file's beginning, the same before, while and after patches are applied.

    Worked example: patches 4..6 and 9..10 of a file of 20 bytes leave 0..4, 6..9 and 10..20.
    """
    digest, at = hashlib.sha256(), 0
    for patch in patches:
        file.seek(at)
        digest.update(file.read(patch.offset - at))
        at = patch.end
    file.seek(at)
    digest.update(file.read(_CONTEXT_BYTES))
    return digest.hexdigest()


def _write_journal(path: Path, data: bytes) -> os.stat_result:
    """Bring the journal to the disk, whole, under a name that nothing has.

    Raises:
        GgufError: The name is taken, or there is too much to write.
    """
    journal = journal_name(path)
    if os.path.lexists(journal):
        raise _not_ours(path, "it was there before the edit")
    if len(data) > MAX_BYTES:
        raise GgufError(
            f"`{path}`: a journal of {format_size(len(data))}, at most {format_size(MAX_BYTES)}",
            path=path,
            hint="write a new file with -o OUT",
        )
    with new_file(journal, len(data), may_replace=False) as new:
        write_all(new.descriptor, data)
        return os.fstat(new.descriptor)


def _read_journal(path: Path, file: Any) -> tuple[list[Patch], os.stat_result]:
    """Return the patches of the journal of an open file, and which file the journal is.

    Raises:
        GgufError: It is not ours, not whole, or of another file.
    """
    try:
        descriptor = open_regular(journal_name(path))
    except OSError as exc:
        raise _not_ours(path, reason_of(exc)) from exc
    with os.fdopen(descriptor, "rb") as journal:
        status = os.fstat(journal.fileno())
        if journal.read(len(SIGNATURE)) != SIGNATURE:
            raise _not_ours(path, "it does not begin as one of gguf-hub's")
        if status.st_size > MAX_BYTES:
            raise _not_ours(path, f"it takes {format_size(status.st_size)}")
        digest, _, body = journal.read(MAX_BYTES).partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise _not_ours(path, "its checksum is wrong")
    try:
        return _parse_patches(file, json.loads(body)), status
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise _not_ours(path, _Misfit.reason(exc)) from exc


class _Misfit(ValueError):
    """What keeps a journal from being that of a file."""

    @classmethod
    def reason(cls, exc: Exception) -> str:
        """Return the reason to report for an error of reading."""
        return str(exc) if isinstance(exc, cls) else "it makes no sense"


def _parse_patches(file: Any, content: Any) -> list[Patch]:
    """Return the patches in a journal's content; raise ``_Misfit`` if one does not fit the file."""
    size_bytes = os.fstat(file.fileno()).st_size
    patches = [_patch(*row) for row in content["patches"]]
    if content["size_bytes"] != size_bytes:
        raise _Misfit(f"it is of a file of {content['size_bytes']!r:.20} bytes, not {size_bytes:,}")
    if not patches or any(before.end > after.offset for before, after in pairwise(patches)):
        raise _Misfit("its patches overlap, or there are none")
    if patches[-1].end > size_bytes:
        raise _Misfit("a patch lies beyond the end of the file")
    if any(_bytes_at(file, patch) not in (patch.old, patch.new) for patch in patches):
        raise _Misfit("the file holds neither the old bytes nor the new ones")
    if content["sha256"] != _identity(file, patches):
        raise _Misfit("it is of a file that begins otherwise")
    return patches


def _patch(offset: Any, old: Any, new: Any) -> Patch:
    if type(offset) is not int or not isinstance(old, str) or not isinstance(new, str):
        raise _Misfit("a patch makes no sense")
    patch = Patch(offset, *(base64.b64decode(text, validate=True) for text in (old, new)))
    if offset < 0 or not patch.new or len(patch.old) != len(patch.new):
        raise _Misfit("a patch makes no sense")
    return patch


def _not_ours(path: Path, reason: str) -> GgufError:
    journal = journal_name(path)
    return GgufError(
        f"`{journal}` is not the journal of an edit of `{path}`: {reason}; both are left as they "
        "are",
        path=path,
        hint=f"move `{journal}` elsewhere, then repeat the command",
    )


def _remove(path: Path, status: os.stat_result) -> None:
    remove_if(journal_name(path), status)
    sync_folder(path.parent)
