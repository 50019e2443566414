"""Downloads that ``gguf-hub edit`` changed: no download replaces them unasked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gguf_hub.errors import DownloadError
from gguf_hub.hub.download.inventory import find_local_file
from gguf_hub.hub.store import Store, StoredFile, utc_now
from gguf_hub.paths import absolute


def record_edit(path: Path, store: Store) -> None:
    """Note in the record that ``gguf-hub edit`` changed a file, if it was somebody's download."""
    if file := find_local_file(path, store):
        entry = store.find(path) or StoredFile(
            absolute(path), file.repo_id, file.commit, file.filename, file.size_bytes,
            file.sha256 or "", 0, file.verified_at or "",
        )  # fmt: skip
        store.add(replace(entry, edited_at=utc_now()))


def edit_of(path: Path, store: Store) -> str:
    """Return in words when a file was edited; empty where it was not."""
    known = store.find(path)
    return known.change if known and known.edited_at else ""


def require_unedited(content: Path, path: Path, store: Store) -> None:
    """Refuse to replace a file that was edited.

    Args:
        content: Its bytes.
        path: Its name for users.
        store: The record.

    Raises:
        DownloadError: It was edited.
    """
    if edit := edit_of(content, store):
        raise DownloadError(
            f"`{path}` {edit}: it is not replaced",
            path=path,
            hint="move it elsewhere, or choose another folder with --local-dir; --force replaces "
            "it",
        )
