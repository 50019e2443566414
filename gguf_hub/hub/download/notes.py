"""The notes by which huggingface_hub knows the files of a folder: three lines beside each.

``<folder>/.cache/huggingface/download/<file>.metadata`` holds commit, etag and time of writing;
``<file>.lock`` beside it is held by whoever fetches the file.

Source: huggingface_hub 2.4.0, _local_folder.py.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf_hub.files import write_atomically
from gguf_hub.hub.download.cachedir import SHA256
from gguf_hub.paths import absolute

_SUFFIX = ".metadata"


def own_folder(root: Path) -> Path:
    """Return where everything but the files themselves is kept in a folder."""
    return root / ".cache" / "huggingface"


@dataclass(frozen=True)
class Note:
    """What a file of a folder is.

    Attributes:
        root: The folder.
        filename: Path in it, which is that in the repository.
        commit: Commit of the repository; nobody notes which repository.
        etag: SHA-256 of the content, or git's id of a small file.
    """

    root: Path
    filename: str
    commit: str
    etag: str

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / self.filename

    @property
    def note(self) -> Path:
        """The note itself."""
        return note_of(self.root, self.filename)

    @property
    def lock(self) -> Path:
        """The lock of the file."""
        return lock_of(self.root, self.filename)

    @property
    def sha256(self) -> str | None:
        """SHA-256 that the file should have; None for small files that git keeps."""
        return self.etag if SHA256.fullmatch(self.etag) else None

    @classmethod
    def read(cls, root: Path, filename: str) -> Note | None:
        """Return the note of a file, or None when there is none that makes sense."""
        try:
            text = note_of(root, filename).read_text(encoding="utf-8")
            commit, etag = text.split()[:2]
        except (OSError, ValueError):
            return None
        return cls(root, filename, commit, etag)

    @classmethod
    def find(cls, path: Path) -> Note | None:
        """Return the note of the file at ``path``, looked for in every folder above it."""
        path = absolute(path)
        for root in path.parents:
            if note := cls.read(root, path.relative_to(root).as_posix()):
                return note
        return None

    def write(self) -> None:
        """Write the note.

        It is believed as long as the file is not newer; a clock that was set back meanwhile must
        not make it so.

        Raises:
            OSError: It cannot be written.
        """
        written_at = max(time.time(), self.path.stat().st_mtime)
        write_atomically(self.note, f"{self.commit}\n{self.etag}\n{written_at}\n")


def note_of(root: Path, filename: str) -> Path:
    """Return where the note of a file is."""
    return own_folder(root) / "download" / f"{filename}{_SUFFIX}"


def lock_of(root: Path, filename: str) -> Path:
    """Return the lock of a file."""
    return own_folder(root) / "download" / f"{filename}.lock"


def notes_of(root: Path) -> Iterator[Note]:
    """Yield the notes of a folder."""
    base = own_folder(root) / "download"
    for path in sorted(base.rglob(f"*{_SUFFIX}")):
        filename = path.relative_to(base).as_posix().removesuffix(_SUFFIX)
        if note := Note.read(root, filename):
            yield note


def refresh_note(path: Path) -> None:
    """Have a file in a folder, which was just written with the right bytes, believed in again."""
    note = Note.find(path)
    if note:
        with contextlib.suppress(OSError):
            note.write()
