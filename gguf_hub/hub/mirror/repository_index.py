"""What the mirror offers: repositories of files that were verified and have not changed since.

A commit names one listing for ever, and huggingface_hub keeps each listing by its commit. The
mirror has only some files of a commit of the hub, and gets more; so every listing has a commit of
its own, made from what is in it. Single files are served under the hub's own commit as well.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from gguf_hub.hub.store import Store, StoredFile

LOCAL_REPO_ID = "local/models"
"""Repository of the files whose origin nobody knows: those that were made on this machine."""

BRANCH = "main"
_REMEMBERED = 1000


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository as they are offered together.

    Attributes:
        repo_id: Repository.
        commit: Name of exactly this listing, 40 hex digits.
        files: Path in the repository -> file, in the order of the paths.
    """

    repo_id: str
    commit: str
    files: Mapping[str, StoredFile]


@dataclass(frozen=True)
class OfferedFile:
    """One file, and the commit that it is served under."""

    entry: StoredFile
    commit: str


class RepositoryIndex:
    """The verified files of a record, by repository, revision and path.

    Only the listings that clients were sent are kept between calls, so that one who has read a
    listing gets its files although the record has grown meanwhile.

    Args:
        store: The record; asked anew each time. None to offer ``more`` alone.
        more: Files to offer that the record does not know: checked just now, of unknown origin.
    """

    def __init__(self, store: Store | None, more: Sequence[StoredFile] = ()) -> None:
        self._store = store
        self._more = tuple(more)
        self._snapshots: OrderedDict[tuple[str, str], Snapshot] = OrderedDict()
        self._lock = threading.Lock()

    def repo_ids(self) -> list[str]:
        """Return the repositories that have a file to offer, sorted."""
        return sorted({repo_of(entry) for entry in self._entries()})

    def has(self, repo_id: str) -> bool:
        """Return whether a repository has a file to offer."""
        return any(repo_of(entry) == repo_id for entry in self._entries())

    def snapshot(self, repo_id: str, revision: str = BRANCH) -> Snapshot | None:
        """Return a listing.

        Args:
            repo_id: Repository.
            revision: ``main`` for all files, newest first where two have one path; a commit of the
                hub for its files as far as they are here; or the commit of a listing.

        Returns:
            None where there is no such thing. A commit of the hub gives a listing with another
            commit: its own.
        """
        entries = self._in_repo(repo_id)
        if revision == BRANCH:
            return self._remember(repo_id, entries)
        snapshot = self._snapshots.get((repo_id, revision))
        if snapshot is not None:
            return self._still_there(snapshot)
        return self._remember(repo_id, [e for e in entries if e.commit == revision])

    def file(self, repo_id: str, revision: str, path: str) -> OfferedFile | None:
        """Return one file of a revision as ``snapshot`` understands it, or None."""
        snapshot = self._snapshots.get((repo_id, revision))
        listing = snapshot or self.snapshot(repo_id, revision)
        entry = listing.files.get(path) if listing else None
        if listing is None or entry is None or not entry.is_unchanged():
            return None
        # under a commit of the hub too: this one file is what that commit has
        return OfferedFile(entry, listing.commit if revision == BRANCH else revision)

    def _entries(self) -> list[StoredFile]:
        """Return the entries that hold now, newest first."""
        known = (*(self._store.entries() if self._store else ()), *self._more)
        entries = [entry for entry in known if entry.is_unchanged()]
        return sorted(entries, key=lambda entry: entry.verified_at, reverse=True)

    def _in_repo(self, repo_id: str) -> list[StoredFile]:
        return [entry for entry in self._entries() if repo_of(entry) == repo_id]

    def _remember(self, repo_id: str, entries: Iterable[StoredFile]) -> Snapshot | None:
        listing = _listing(repo_id, entries)
        if listing is None:
            return None
        with self._lock:
            self._snapshots[repo_id, listing.commit] = listing
            self._snapshots.move_to_end((repo_id, listing.commit))
            while len(self._snapshots) > _REMEMBERED:
                self._snapshots.popitem(last=False)
        return listing

    def _still_there(self, snapshot: Snapshot) -> Snapshot | None:
        """Return a listing as it was given, or None when a file of it has changed or gone.

        A listing that became shorter would no longer be what its commit names.
        """
        return snapshot if all(e.is_unchanged() for e in snapshot.files.values()) else None


def repo_of(entry: StoredFile) -> str:
    """Return the repository that an entry is offered in."""
    return entry.repo_id or LOCAL_REPO_ID


def open_unchanged(entry: StoredFile) -> BinaryIO | None:
    """Open a file if it is still the one that was verified; None when it is not.

    The open file is looked at, not its name, so that nothing can be put in its place in between.
    """
    try:
        file = entry.path.open("rb", buffering=0)
    except OSError:
        return None
    stat = os.fstat(file.fileno())
    if (stat.st_size, stat.st_mtime_ns) == (entry.size_bytes, entry.mtime_ns):
        return file
    file.close()
    return None


def _listing(repo_id: str, entries: Iterable[StoredFile]) -> Snapshot | None:
    """Put entries, newest first, under their paths and give the whole a commit."""
    files: dict[str, StoredFile] = {}
    for entry in entries:
        known = files.setdefault(entry.filename, entry)
        if known.sha256 != entry.sha256 and entry.repo_id is None:
            # made here under one name in two folders: both are offered
            files.setdefault(f"{entry.sha256[:8]}/{entry.filename}", entry)
    if not files:
        return None
    ordered = {path: files[path] for path in sorted(files)}
    text = "\n".join(f"{entry.sha256} {path}" for path, entry in ordered.items())
    # the shape of a git commit; it names content, it protects nothing
    digest = hashlib.sha1(f"{repo_id}\n{text}".encode(), usedforsecurity=False)
    return Snapshot(repo_id, digest.hexdigest(), ordered)
