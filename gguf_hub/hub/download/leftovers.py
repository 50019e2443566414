"""What nobody needs any more: unfinished downloads, bytes without a name, notes about nothing.

Looking changes nothing; what another process is at work on is left alone when it is cleared.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gguf_hub.conversions import kept_conversions, lone_notes, superseded
from gguf_hub.errors import LockedError
from gguf_hub.gguf.format import MAGIC
from gguf_hub.hub.download.cachedir import (
    COMMIT,
    SHA256,
    all_files_of,
    is_inside,
    is_own_blob,
    repo_id_of,
    repos_of,
)
from gguf_hub.hub.download.destinations import PART_SUFFIX
from gguf_hub.hub.download.diskerrors import translate_disk_errors
from gguf_hub.hub.download.inventory import Roots
from gguf_hub.hub.download.locking import download_lock
from gguf_hub.hub.download.manifests import ManifestStore
from gguf_hub.hub.download.names import holds_gguf
from gguf_hub.hub.download.notes import notes_of, own_folder
from gguf_hub.hub.download.removal import lock_of_blob, locks_of_folder, remove, remove_blob
from gguf_hub.hub.download.segment_hashes import SegmentHashStore
from gguf_hub.hub.download.slices import SliceStore, lock_of_slice, remove_slice
from gguf_hub.hub.store import Store

_BLOCK_BYTES = 512  # what st_blocks counts, whatever the file system's own blocks are


class Kind(str, Enum):
    """What a leftover is."""

    PART = "unfinished download"
    JOURNAL = "journal of a download"
    INCOMPLETE = "unfinished download of another program"
    BLOB = "bytes without a name"
    LINK = "name without bytes"
    NOTE = "note of a file that is gone"
    RECORD = "record of a file that is gone"
    HASHES = "hashes of a file that is gone"
    SLICE = "layers of a model for a cluster"
    CONVERSION = "conversion of a checkpoint that has changed since"


@dataclass(frozen=True)
class Leftover:
    """Something that may go.

    Attributes:
        kind: What it is.
        path: Where it is; for a record, the file that is gone.
        size_bytes: What it takes on the disk.
        locks: Held by whoever is at work on it.
    """

    kind: Kind
    path: Path
    size_bytes: int
    locks: tuple[Path, ...] = ()


def find_leftovers(store: Store, roots: Roots) -> list[Leftover]:
    """Return what may go.

    Args:
        store: The record.
        roots: Caches and folders to look into. In caches, other programs' leftovers count only in
            repositories of the record, with GGUF files or called so, or where they begin as one.
    """
    leftovers = [leftover for cache in roots.caches for leftover in _in_cache(cache, store)]
    leftovers += [leftover for folder in roots.folders for leftover in _in_folder(folder)]
    leftovers += _on_record(store)
    return [*leftovers, *(_among_conversions(store) if roots.has_conversions else ())]


def clear(leftovers: Sequence[Leftover], store: Store) -> tuple[list[Leftover], list[Leftover]]:
    """Remove leftovers.

    Returns:
        Those that went, and those that another process is at work on.

    Raises:
        DownloadError: One of the places cannot be written.
    """
    removed, busy = [], []
    for leftover in leftovers:
        try:
            with translate_disk_errors(leftover.path):
                _clear_one(leftover, store)
            removed.append(leftover)
        except LockedError:
            busy.append(leftover)
    return removed, busy


def _clear_one(leftover: Leftover, store: Store) -> None:
    with contextlib.ExitStack() as locks:
        for lock in leftover.locks:
            locks.enter_context(download_lock(lock, leftover.path.name, leftover.path.parent))
        if leftover.kind is Kind.RECORD:
            store.remove(leftover.path)
        elif leftover.kind is Kind.BLOB:
            remove_blob(leftover.path)
        elif leftover.kind is Kind.SLICE:
            remove_slice(leftover.path)
        elif leftover.kind is Kind.CONVERSION:
            remove(leftover.path, store)
        else:
            leftover.path.unlink(missing_ok=True)


def _in_cache(cache: Path, store: Store) -> Iterator[Leftover]:
    recorded = {entry.repo_id for entry in store.entries()}
    for repo in repos_of(cache):
        files = all_files_of(repo)
        repo_id = repo_id_of(repo) or ""
        is_ours = repo_id in recorded or any(holds_gguf(file.filename) for file in files)
        is_ours |= "gguf" in repo_id.lower()  # also where the first download was interrupted
        named = {file.blob for file in files}
        for blob in sorted((repo / "blobs").glob("*")):
            blob = Path(os.path.realpath(blob.parent), blob.name)
            if not is_own_blob(blob, repo):
                break  # the folder is a link that leads out of the cache
            kind = _kind(blob.name) or (Kind.BLOB if _is_blob(blob) else None)
            is_own_kind = kind in (Kind.PART, Kind.JOURNAL) or _is_begun_gguf(kind, blob)
            if kind is None or blob in named or not (is_ours or is_own_kind):
                continue
            yield Leftover(kind, blob, _disk_bytes(blob), (lock_of_blob(blob),))
        if is_ours:
            here = (file for file in files if is_inside(file.path.parent, repo / "snapshots"))
            dead = (file for file in here if not file.path.exists())
            yield from (
                Leftover(Kind.LINK, file.path, 0, (lock_of_blob(file.blob),)) for file in dead
            )


def _is_begun_gguf(kind: Kind | None, blob: Path) -> bool:
    if kind is not Kind.INCOMPLETE:
        return False
    try:
        with blob.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _is_blob(path: Path) -> bool:
    return bool(SHA256.fullmatch(path.name) or COMMIT.fullmatch(path.name))


def _in_folder(root: Path) -> Iterator[Leftover]:
    if not is_inside(own_folder(root) / "download", Path(os.path.realpath(root))):
        return
    # the name of a part does not contain that of its file: any lock's holder may be using it
    locks = tuple(locks_of_folder(root))
    for path in sorted((own_folder(root) / "download").rglob("*")):
        if (kind := _kind(path.name)) and path.is_file():
            yield Leftover(kind, path, _disk_bytes(path), locks)
    for note in notes_of(root):
        if not os.path.lexists(note.path):
            yield Leftover(Kind.NOTE, note.note, _disk_bytes(note.note), (note.lock,))


def _kind(name: str) -> Kind | None:
    """Return what a name says that a file is, or None for one that is to stay."""
    if name.endswith(PART_SUFFIX):
        return Kind.PART
    if f"{PART_SUFFIX}.journal" in name:
        return Kind.JOURNAL
    return Kind.INCOMPLETE if name.endswith(".incomplete") else None


def _on_record(store: Store) -> Iterator[Leftover]:
    entries = store.entries()
    # Path.exists raises where a folder may not be entered
    missing = [entry for entry in entries if not os.path.exists(entry.path)]  # noqa: PTH110
    yield from (Leftover(Kind.RECORD, entry.path, 0) for entry in missing)
    needed = {entry.sha256 for entry in entries if entry not in missing}
    for sha256, path in sorted(SegmentHashStore(store.folder).contents().items()):
        if sha256 not in needed:
            yield Leftover(Kind.HASHES, path, _disk_bytes(path))
    for path in ManifestStore(store.folder).of_missing():
        yield Leftover(Kind.HASHES, path, _disk_bytes(path))
    for path in SliceStore(store.folder).contents():
        yield Leftover(Kind.SLICE, path, _disk_bytes(path), (lock_of_slice(path),))


def _among_conversions(store: Store) -> Iterator[Leftover]:
    for kept in superseded(kept_conversions()):
        if store.find(kept.path) is None:  # an edited one is the user's
            yield Leftover(Kind.CONVERSION, kept.path, _disk_bytes(kept.path))
    for note in lone_notes():
        yield Leftover(Kind.NOTE, note, _disk_bytes(note))


def _disk_bytes(path: Path) -> int:
    """Return what a file takes on the disk: of an unfinished one, also what is set aside."""
    try:
        stat = path.stat()
    except OSError:
        return 0
    return int(getattr(stat, "st_blocks", -(-stat.st_size // _BLOCK_BYTES))) * _BLOCK_BYTES
