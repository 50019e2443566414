"""Removing model files, with everything that exists for their sake alone.

A name in a Hugging Face cache goes with its blob unless another name needs that; a file of a folder
goes with its note, as a conversion does. Then the record forgets it, and the hashes of its
segments. Where a name is a link that leads out of the cache, only the link goes: the file there is
somebody's.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from gguf_hub.conversions import find_conversion, note_of
from gguf_hub.errors import DownloadError
from gguf_hub.files import remove_if
from gguf_hub.hub.download.cachedir import (
    COMMIT,
    CachedFile,
    all_files_of,
    commits_of,
    find_file,
    is_inside,
    is_own_blob,
    repo_id_of,
    repos_of,
    shared_blob_of,
)
from gguf_hub.hub.download.diskerrors import translate_disk_errors
from gguf_hub.hub.download.locking import download_lock
from gguf_hub.hub.download.names import holds_gguf
from gguf_hub.hub.download.notes import Note, own_folder
from gguf_hub.hub.download.segment_hashes import SegmentHashStore
from gguf_hub.hub.store import Store
from gguf_hub.paths import absolute

_REF_BYTES = 256


def freed_bytes(paths: Collection[Path]) -> int:
    """Return how many bytes are free once all of ``paths`` are removed.

    Bytes that keep another name, in another commit of the cache or in the folder of another
    program, are not freed.
    """
    going = {absolute(path) for path in paths}
    sizes: dict[str, int] = {}
    for path in going:
        if remaining_file(path):
            continue
        cached = find_file(path)
        is_kept = cached and any(absolute(other.path) not in going for other in _others(cached))
        with contextlib.suppress(OSError):
            status = path.stat()
            is_kept = is_kept or status.st_nlink > 1  # another program has it by a hard link
            sizes[os.path.realpath(path)] = 0 if is_kept else status.st_size
    return sum(sizes.values())


def remaining_file(path: Path) -> Path | None:
    """Return the file that stays when a name is removed: what a link leads to, out of the cache."""
    cached, real = find_file(path), Path(os.path.realpath(path))
    if cached is None:
        return real if path.is_symlink() else None
    if cached.blob == cached.path:
        return None
    is_blob = is_own_blob(cached.blob, cached.repo)
    is_there = is_blob and (not cached.blob.is_symlink() or shared_blob_of(cached.blob))
    return None if is_there else real


def remove(path: Path, store: Store) -> None:
    """Remove a file, and what exists for it alone.

    Args:
        path: A file of the record, of a cache or of a folder; may be gone already.
        store: The record.

    Raises:
        LockedError: Another process fetches this very file.
        DownloadError: The place cannot be written, or a folder of it leads out of the cache.
    """
    cached, note = find_file(path), Note.find(path)
    with translate_disk_errors(path), contextlib.ExitStack() as locks:
        if cached:
            _lock_cached(cached, locks)
            _remove_cached(cached)
        else:
            if note:
                locks.enter_context(download_lock(note.lock, path.name, note.root))
            _remove_plain(path, note)
    _forget(path, store, is_alone=cached is None)


def left_in_caches(paths: Iterable[Path]) -> Iterator[tuple[str, list[str]]]:
    """Yield each repository whose last model file is gone, with the names of files that it keeps.

    Args:
        paths: Names in caches that were removed; others are passed over.
    """
    repos = {cached.repo for path in paths if (cached := find_file(path))}
    for repo in sorted(repos):
        names = sorted({file.filename for file in all_files_of(repo)})
        if names and not any(holds_gguf(name) for name in names):
            yield repo_id_of(repo) or repo.name, names


def lock_of_blob(blob: Path) -> Path:
    """Return the lock that is held by whoever fetches a blob."""
    repo = blob.parent.parent
    return repo.parent / ".locks" / repo.name / f"{blob.name.partition('.')[0]}.lock"


def locks_of_folder(root: Path) -> Iterable[Path]:
    """Return the locks of a folder that there are."""
    return sorted((own_folder(root) / "download").rglob("*.lock"))


def remove_blob(blob: Path) -> None:
    """Remove a blob; what it shares with other repositories goes when none needs it.

    Raises:
        OSError: The cache cannot be written.
    """
    shared = shared_blob_of(blob)
    blob.unlink(missing_ok=True)
    if shared is None:
        return
    with download_lock(shared.with_name(f"{shared.name}.lock"), shared.name, shared.parent):
        cache = shared.parent.parent.parent
        links = (link for repo in repos_of(cache) for link in (repo / "blobs").glob("*"))
        if not any(shared_blob_of(link) == shared for link in links):
            shared.unlink(missing_ok=True)
            shared.with_name(f"{shared.name}.refs").unlink(missing_ok=True)


def _others(cached: CachedFile) -> Iterator[CachedFile]:
    for other in all_files_of(cached.repo):
        if other.blob == cached.blob and not _is_same(other, cached):
            yield other


def _is_same(a: CachedFile, b: CachedFile) -> bool:
    return (a.commit, a.filename) == (b.commit, b.filename)


def _lock_cached(cached: CachedFile, locks: contextlib.ExitStack) -> None:
    if cached.etag and is_own_blob(cached.blob, cached.repo):
        lock = lock_of_blob(cached.blob)
        locks.enter_context(download_lock(lock, cached.filename, cached.repo.parent))


def _remove_cached(cached: CachedFile) -> None:
    snapshots = cached.repo / "snapshots"
    if not is_inside(cached.path.parent, snapshots):
        raise DownloadError(
            f"`{cached.path.parent}` is a link that leads out of `{snapshots}`: nothing there is "
            "removed",
            path=cached.path,
            hint="remove the link itself",
        )
    is_needed = any(True for _ in _others(cached))
    cached.path.unlink(missing_ok=True)
    _remove_empty(cached.path.parent, until=snapshots)
    if not is_needed and is_own_blob(cached.blob, cached.repo):
        remove_blob(cached.blob)
        _remove_lock(_repair_lock(cached.blob))
    if not (cached.repo / "snapshots" / cached.commit).exists():
        _remove_refs(cached.repo, cached.commit)
    if not commits_of(cached.repo) and not any((cached.repo / "blobs").glob("*")):
        _remove_repo(cached.repo)


def _remove_repo(repo: Path) -> None:
    """Remove the folder of a repository that has no files; what is not a cache's stays in it."""
    _remove_refs(repo, None)
    absent = repo / ".no_exist"  # huggingface_hub's empty files, each named as what a hub lacks
    for path in sorted(absent.rglob("*"), reverse=True):
        if is_inside(path.parent, absent):
            _remove_lock(path)
            _remove_empty(path, until=repo)
    trees = repo / "trees"  # huggingface_hub's listings, each named as its commit
    for path in trees.glob("*.json"):
        if COMMIT.fullmatch(path.stem) and is_inside(trees, repo) and not path.is_symlink():
            path.unlink(missing_ok=True)
    for name in ("refs", ".no_exist", "blobs", "snapshots", "trees"):
        _remove_empty(repo / name, until=repo)
    _remove_empty(repo, until=repo.parent)


def _remove_refs(repo: Path, commit: str | None) -> None:
    """Remove the branches and tags that lead to a commit which is gone; to any, with None."""
    for ref in sorted((repo / "refs").rglob("*")):
        if not is_inside(ref.parent, repo / "refs") or ref.is_symlink() or not ref.is_file():
            continue
        with ref.open("rb") as file:
            target = file.read(_REF_BYTES).decode(errors="replace").strip()
        if target == commit or (commit is None and COMMIT.fullmatch(target)):
            ref.unlink(missing_ok=True)
            _remove_empty(ref.parent, until=repo / "refs")


def _remove_lock(path: Path) -> None:
    """Remove a file that holds nothing, as locks do; anything else of that name stays."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and not status.st_size:
            remove_if(path, status)


def _remove_plain(path: Path, note: Note | None) -> None:
    is_conversion = find_conversion(absolute(path)) is not None
    path.unlink(missing_ok=True)
    _remove_lock(_repair_lock(path))
    if is_conversion:
        note_of(path).unlink(missing_ok=True)
    if note:
        note.note.unlink(missing_ok=True)
        _remove_empty(path.parent, until=note.root)


def _forget(path: Path, store: Store, *, is_alone: bool) -> None:
    """Take a file out of the record, and the hashes of its segments if nobody else needs them."""
    entry = store.find(path)
    # of several names in a cache only this one goes; elsewhere a link stands for the file itself
    if entry and (is_alone or absolute(entry.path) == absolute(path)):
        store.remove(entry.path)
        if all(other.sha256 != entry.sha256 for other in store.entries()):
            SegmentHashStore(store.folder).remove(entry.sha256)


def _remove_empty(folder: Path, *, until: Path) -> None:
    """Remove a folder and those above it, as long as they are empty, up to but not ``until``."""
    while folder != until and until in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _repair_lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.repair.lock")
