"""The record of model files that were verified, wherever they lie.

An entry stands for "these bytes had this SHA-256 at that time"; it holds as long as the file's size
and modification time are those that were recorded. Losing the record costs nothing but another
check of each file.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gguf_hub.files import set_aside, write_atomically
from gguf_hub.locks import try_lock
from gguf_hub.oserrors import reason_of
from gguf_hub.paths import absolute, data_dir
from gguf_hub.progress import SILENT, Progress

VERSION = 1
LOCK_TIMEOUT_S = 10.0
_LOCK_POLL_S = 0.05


@dataclass(frozen=True)
class StoredFile:
    """A file that was found to be whole.

    Attributes:
        path: Absolute path.
        repo_id: Repository it came from; None when nobody knows.
        commit: Commit in that repository; None likewise.
        filename: Path inside the repository, or the file's own name.
        size_bytes: Size when it was verified.
        sha256: SHA-256 of its bytes in hex.
        mtime_ns: Modification time when it was verified.
        verified_at: That moment in UTC, ISO 8601.
        edited_at: When ``gguf-hub edit`` changed it since then, likewise; None if it did not.
    """

    path: Path
    repo_id: str | None
    commit: str | None
    filename: str
    size_bytes: int
    sha256: str
    mtime_ns: int
    verified_at: str
    edited_at: str | None = None

    @classmethod
    def of(
        cls,
        path: Path,
        sha256: str,
        *,
        repo_id: str | None = None,
        commit: str | None = None,
        filename: str | None = None,
    ) -> StoredFile:
        """Describe the file at ``path`` as it is now, just verified to have ``sha256``."""
        stat = path.stat()
        return cls(
            path=absolute(path),
            repo_id=repo_id,
            commit=commit,
            filename=filename or path.name,
            size_bytes=stat.st_size,
            sha256=sha256,
            mtime_ns=stat.st_mtime_ns,
            verified_at=utc_now(),
        )

    def is_unchanged(self) -> bool:
        """Return whether the file is there with the size and time that were recorded."""
        try:
            stat = self.path.stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size_bytes, self.mtime_ns)

    @property
    def change(self) -> str:
        """What happened to the file since it was verified, in words; empty for nothing."""
        if self.is_unchanged() or not self.path.exists():
            return ""
        if self.edited_at:
            return f"was changed by `gguf-hub edit` on {self.edited_at[:10]}"
        return f"has changed since it was verified on {self.verified_at[:10]}"


def utc_now() -> str:
    """Return this moment in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Store:
    """The record, kept as one JSON file that several processes may use at once.

    Args:
        folder: Where it lies; the data folder of gguf-hub when None.
        progress: Where to note that the record cannot be read or written.
    """

    def __init__(self, folder: Path | None = None, *, progress: Progress = SILENT) -> None:
        self.folder = folder or data_dir()
        self._path = self.folder / "files.json"
        self._progress = progress

    def entries(self) -> list[StoredFile]:
        """Return all entries, also of files that have changed or gone since."""
        return list(self._read().values())

    def find(self, path: Path) -> StoredFile | None:
        """Return the entry of the file at ``path``, following links, or None."""
        known = self._read()
        entry = known.get(str(absolute(path)))
        if entry is None:
            real = os.path.realpath(path)
            entry = next((e for e in known.values() if os.path.realpath(e.path) == real), None)
        return entry

    def find_verified(self, path: Path) -> StoredFile | None:
        """Return the entry of the file at ``path`` if it still holds, else None."""
        entry = self.find(path)
        return entry if entry and entry.is_unchanged() else None

    def copies_of(self, sha256: str) -> list[StoredFile]:
        """Return the entries that still hold for files with this content."""
        return [e for e in self.entries() if e.sha256 == sha256 and e.is_unchanged()]

    def in_repo(self, repo_id: str) -> list[StoredFile]:
        """Return the files of a repository that are as verified, or edited; newest first."""
        entries = [
            entry
            for entry in self.entries()
            if entry.repo_id == repo_id
            and (entry.is_unchanged() or (entry.edited_at and entry.path.exists()))
        ]
        return sorted(entries, key=lambda e: e.verified_at, reverse=True)

    def add(self, entry: StoredFile) -> None:
        """Record a verified file; a record that cannot be written is noted, not raised."""
        self._change(lambda known: known.update({str(entry.path): entry}))

    def remove(self, path: Path) -> None:
        """Forget the file at ``path``; nothing happens to the file."""
        self._change(lambda known: known.pop(str(absolute(path)), None))

    def distrust(self, path: Path) -> None:
        """Keep what is known of the file at ``path``, but no longer take it for whole."""
        entry = self.find_verified(path)
        if entry is not None:
            self.add(replace(entry, mtime_ns=0))

    def _change(self, edit: Callable[[dict[str, StoredFile]], object]) -> None:
        """Read, edit and write the entries while no other process does."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                known = self._read()
                edit(known)
                self._write(known)
        except OSError as exc:
            self._progress.note(
                f"note: cannot write the record of files `{self._path}`: {reason_of(exc)}; "
                "files will be checked again when they are used"
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the record; raises ``TimeoutError`` when it is not had in time."""
        path, until = Path(f"{self._path}.lock"), time.monotonic() + LOCK_TIMEOUT_S
        while (lock := try_lock(path, self._progress.note)) is None:
            if time.monotonic() > until:
                raise TimeoutError("another process holds it")
            time.sleep(_LOCK_POLL_S)
        try:
            yield
        finally:
            lock.release()

    def _read(self) -> dict[str, StoredFile]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, UnicodeDecodeError) as exc:
            return self._set_aside(str(exc))
        try:
            return _parse(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            return self._set_aside(str(exc))

    def _set_aside(self, reason: str) -> dict[str, StoredFile]:
        """Move an unreadable record out of the way, so that nothing of it is overwritten."""
        aside = self._path
        with contextlib.suppress(OSError):
            aside = set_aside(self._path, self._path.with_name("files.unreadable.json"))
        self._progress.note(
            f"note: the record of files was unreadable ({reason}) and lies now at `{aside}`; "
            "files will be checked again when they are used"
        )
        return {}

    def _write(self, known: dict[str, StoredFile]) -> None:
        rows = [asdict(entry) | {"path": str(entry.path)} for entry in known.values()]
        text = json.dumps({"version": VERSION, "files": rows}, indent=1)
        write_atomically(self._path, text)


def _parse(data: dict[str, Any]) -> dict[str, StoredFile]:
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']}, this program knows {VERSION}")
    names = {field.name for field in fields(StoredFile)}
    entries = []
    for row in data["files"]:
        if not names - {"edited_at"} <= set(row) <= names or not isinstance(row["size_bytes"], int):
            raise ValueError(f"an entry with fields {sorted(row)}")
        entries.append(StoredFile(**row | {"path": Path(row["path"])}))
    return {str(entry.path): entry for entry in entries}
