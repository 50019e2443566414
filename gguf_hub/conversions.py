"""Conversions that are kept: GGUF files made once of checkpoints, and what they were made of.

They lie in ``converted/`` of gguf-hub's own cache folder, as ``NAME.TYPE.KEY.gguf``, each with a
note ``NAME.TYPE.KEY.json`` beside it. The key stands for the checkpoint's files (names, sizes,
times of change) and the type: when one changes, another file is made.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf_hub.errors import GgufHubError
from gguf_hub.files import write_atomically
from gguf_hub.oserrors import translate_os_errors
from gguf_hub.paths import cache_dir

_FORMAT = 1
"""Raised when a converter writes something else of the same checkpoint."""
_NAME = re.compile(r".+\.([0-9a-f]{16})\.gguf")
_MAX_NOTE_BYTES = 1 << 16


def kept_folder() -> Path:
    """Return the folder of all conversions (it may not exist yet)."""
    return cache_dir() / "converted"


def key_of(checkpoint: Path, outtype: str) -> str:
    """Return what stands for a checkpoint as it is now, and a type.

    Raises:
        GgufHubError: The folder cannot be read.
    """
    files = []
    with translate_os_errors(f"cannot read the folder `{checkpoint}`"):
        for path in sorted(checkpoint.iterdir()):
            if path.suffix in (".json", ".safetensors", ".model", ".jinja") and path.is_file():
                stat = path.stat()
                files.append([path.name, stat.st_size, stat.st_mtime_ns])
    stated = json.dumps([_FORMAT, outtype, str(checkpoint.resolve()), files])
    return hashlib.sha256(stated.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True)
class KeptConversion:
    """A conversion.

    Attributes:
        path: The GGUF file.
        checkpoint: The folder that it was made of; None if its note is missing.
        outtype: The type that was asked for; empty then.
        is_as_written: Whether the file is the one that was written.
    """

    path: Path
    checkpoint: Path | None = None
    outtype: str = ""
    is_as_written: bool = False


def find_conversion(path: Path) -> KeptConversion | None:
    """Return what is known of a file among the conversions; None for any other file."""
    is_here = path.parent.resolve() == kept_folder().resolve()
    if not is_here or not _key_in(path) or path.is_symlink() or not path.is_file():
        return None
    try:
        with note_of(path).open("rb") as file:
            note = json.loads(file.read(_MAX_NOTE_BYTES))
        stat = path.stat()
        is_as_written = (note["size_bytes"], note["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)
        return KeptConversion(path, Path(note["checkpoint"]), str(note["outtype"]), is_as_written)
    except (OSError, ValueError, TypeError, KeyError):
        return KeptConversion(path)


def kept_conversions() -> list[KeptConversion]:
    """Return all conversions, by name."""
    return [kept for path in _listed("*.gguf") if (kept := find_conversion(path))]


def superseded(conversions: Iterable[KeptConversion]) -> Iterator[KeptConversion]:
    """Yield conversions of checkpoints that were converted again after they had changed.

    One whose checkpoint is gone, or was not converted again yet, may be all that is left of a
    model: it is none of these, and neither is a file that somebody changed.
    """
    groups: dict[tuple[Path | None, str], list[KeptConversion]] = {}
    for kept in conversions:
        groups.setdefault((kept.checkpoint, kept.outtype), []).append(kept)
    for (checkpoint, outtype), group in groups.items():
        key = _current_key(checkpoint, outtype)
        if key in [_key_in(kept.path) for kept in group]:
            yield from (kept for kept in group if _key_in(kept.path) != key and kept.is_as_written)


def _current_key(checkpoint: Path | None, outtype: str) -> str | None:
    """Return the key of a conversion made now; None where nobody could make one."""
    try:
        return key_of(checkpoint, outtype) if checkpoint else None
    except GgufHubError:  # it is gone, or somebody else's
        return None


def lone_notes() -> list[Path]:
    """Return notes whose conversions are gone."""
    notes = _listed("*.json")
    return [
        note for note in notes
        if _key_in(note.with_suffix(".gguf")) and not note.with_suffix(".gguf").is_file()
    ]  # fmt: skip


def note_of(path: Path) -> Path:
    """Return the note of a conversion."""
    return path.with_suffix(".json")


def write_note(path: Path, checkpoint: Path, outtype: str) -> None:
    """Note what a conversion was made of.

    Raises:
        GgufHubError: It cannot be written.
    """
    with translate_os_errors(f"cannot write `{note_of(path)}`"):
        stat = path.stat()
        note = {
            "checkpoint": str(checkpoint.resolve()),
            "outtype": outtype,
            "size_bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }
        write_atomically(note_of(path), json.dumps(note))


def _key_in(path: Path) -> str:
    """Return the key that a name holds; empty for the name of something else."""
    match = _NAME.fullmatch(path.name)
    return match[1] if match else ""


def _listed(pattern: str) -> list[Path]:
    try:
        return sorted(kept_folder().glob(pattern))
    except OSError:
        return []
