"""Verified files on disk: what is there already, what is missing, and getting it.

Nothing takes its final name before its bytes are those that the hub announces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from gguf_hub.errors import (
    ChecksumError,
    DiskFullError,
    DownloadError,
    FileChangedError,
)
from gguf_hub.hub.client import Hub, RemoteFile, RepoListing
from gguf_hub.hub.download.cachedir import find_file, repos_of
from gguf_hub.hub.download.destinations import PART_SUFFIX, Destination
from gguf_hub.hub.download.digest import matches, sha256_file
from gguf_hub.hub.download.diskerrors import translate_disk_errors
from gguf_hub.hub.download.edited import edit_of, require_unedited
from gguf_hub.hub.download.journal import journal_of, read_journal, remove_part
from gguf_hub.hub.download.known_folders import KnownFolders
from gguf_hub.hub.download.link import Source
from gguf_hub.hub.download.locking import download_lock
from gguf_hub.hub.download.names import is_gguf
from gguf_hub.hub.download.partfile import copy_file, hold_open, require_named
from gguf_hub.hub.download.segment_hashes import SegmentHashStore
from gguf_hub.hub.download.total import with_total
from gguf_hub.hub.download.transfer import RangeBackend, TransferBackend, TransferResult
from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.progress import SILENT, Progress
from gguf_hub.units import MB, format_gb

RESERVE_BYTES = 64 * MB


class State(str, Enum):
    """What is known about a file before anything is done."""

    VERIFIED = "verified"  # there, and recorded as whole
    UNCHECKED = "unchecked"  # there with the right size; must be hashed
    ELSEWHERE = "elsewhere"  # a verified copy lies in another place of this machine
    PARTIAL = "partial"  # the first bytes of it are there
    DIFFERENT = "different"  # another file has its name, and would be replaced
    MISSING = "missing"


class Status(str, Enum):
    """What was done for a file."""

    PRESENT = "present"  # was there and recorded: nothing read, nothing fetched
    CHECKED = "checked"  # was there: hashed
    COPIED = "copied"  # from another place of this machine
    DOWNLOADED = "downloaded"
    UNVERIFIED = "unverified"  # was there; nobody could say what it should be


@dataclass(frozen=True)
class PlannedFile:
    """One file, where it goes, and how many of its bytes must still come from the hub."""

    file: RemoteFile
    path: Path
    state: State
    fetch_bytes: int

    @property
    def is_here(self) -> bool:
        """Whether no byte must come, judged without reading the file."""
        return self.state in (State.VERIFIED, State.UNCHECKED, State.ELSEWHERE)


@dataclass(frozen=True)
class Plan:
    """What a download would do."""

    listing: RepoListing
    files: tuple[PlannedFile, ...]

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(planned.file.size_bytes for planned in self.files)

    @property
    def fetch_bytes(self) -> int:
        """Bytes still to come from the hub."""
        return sum(planned.fetch_bytes for planned in self.files)


@dataclass(frozen=True)
class FetchedFile:
    """A file that is there and whole.

    Attributes:
        path: Where users find it.
        file: What the hub announces.
        sha256: SHA-256 of its bytes.
        status: What it took.
        gguf_problem: Why the file, although it is what the hub has, is not a usable GGUF.
    """

    path: Path
    file: RemoteFile
    sha256: str
    status: Status
    gguf_problem: str | None = None

    @property
    def is_verified(self) -> bool:
        """Whether the bytes are known to be those of the hub."""
        return self.status is not Status.UNVERIFIED


def free_bytes(folder: Path) -> int:
    """Return the free space where ``folder`` is or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class Fetcher:
    """Copies or downloads files of one hub to one destination.

    Args:
        hub: Where they come from.
        destination: Where they go.
        store: The record of verified files.
        progress: Where to report bytes and notes.
        free_bytes: How much space a folder has left.
        backend: What moves the bytes.
        is_forced: Go on where there seems to be too little space, or over files of somebody's.
        max_workers: How many files at once.
        caches: Hugging Face caches whose bytes are copied rather than fetched again.
    """

    hub: Hub
    destination: Destination
    store: Store
    progress: Progress = SILENT
    free_bytes: Callable[[Path], int] = free_bytes
    backend: TransferBackend = field(default_factory=RangeBackend)
    is_forced: bool = False
    max_workers: int = 1
    caches: tuple[Path, ...] = ()

    def plan(self, listing: RepoListing, files: Sequence[RemoteFile]) -> Plan:
        """Return what fetching would do; touches nothing.

        Raises:
            DownloadError: A file would lead out of the place.
        """
        return Plan(listing, tuple(self._survey(listing, file) for file in files))

    def fetch(self, listing: RepoListing, files: Sequence[RemoteFile]) -> list[FetchedFile]:
        """Copy or download files that are not there yet; verify each one.

        Args:
            listing: The repository at one commit.
            files: Files of it.

        Raises:
            DiskFullError: Not enough space for all of them; found out before the first byte.
            ChecksumError: The bytes are not those that the hub announces; none are kept.
            LockedError: Something that is no lock has the name of one.
            DownloadError: The place cannot be written.
            HubError: The hub refuses or stays away; what came is kept for the next run.
        """
        plan = self.plan(listing, files)
        if not self.is_forced:
            self._require_space(plan)
        self._record_folder()
        if len(files) == 1 or not plan.fetch_bytes:
            return self._fetch_all(listing, files)
        with with_total(self.progress, plan.fetch_bytes) as progress:
            return replace(self, progress=progress)._fetch_all(listing, files)

    def _fetch_all(self, listing: RepoListing, files: Sequence[RemoteFile]) -> list[FetchedFile]:
        cancel = threading.Event()
        if min(self.max_workers, len(files)) <= 1:
            return [self._fetch_one(listing, file, cancel) for file in files]
        with ThreadPoolExecutor(self.max_workers) as pool:
            futures = [pool.submit(self._fetch_one, listing, file, cancel) for file in files]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                return [future.result() for future in _failed_first(futures)]
            except BaseException:
                cancel.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _survey(self, listing: RepoListing, file: RemoteFile) -> PlannedFile:
        self.destination.check(listing, file)
        path = self.destination.path_of(listing, file)
        content = self.destination.content_of(listing, file)
        recorded = self.store.find_verified(content)
        size_bytes, have_bytes = _size(content), self._have_bytes(listing, file)
        if recorded and recorded.sha256 == file.sha256:
            state = State.VERIFIED
        elif size_bytes == file.size_bytes:
            state = State.UNCHECKED
        elif self._copies_of(file):
            state = State.ELSEWHERE
        elif have_bytes:
            state = State.PARTIAL
        else:
            state = State.MISSING if size_bytes is None else State.DIFFERENT
        planned = PlannedFile(file, path, state, max(file.size_bytes - have_bytes, 0))
        return replace(planned, fetch_bytes=0) if planned.is_here else planned

    def _have_bytes(self, listing: RepoListing, file: RemoteFile) -> int:
        """Return how much an earlier run, or another client, has left of a file."""
        part = self.destination.part_of(listing, file)
        state = read_journal(part, file.etag, file.size_bytes)
        if state:
            return state.have_bytes
        sizes = [_size(path) or 0 for path in (part, *self.destination.leftovers_of(listing, file))]
        return min(max(sizes), file.size_bytes)

    def copy_of(self, file: RemoteFile) -> StoredFile | None:
        """Return a verified file of this machine with the same content, or None."""
        return next(iter(self.store.copies_of(file.sha256)), None) if file.sha256 else None

    def _copies_of(self, file: RemoteFile) -> list[Path]:
        """Return where the same content lies: verified copies, then what caches have of it."""
        if not file.etag:
            return []
        blobs = (repo / "blobs" / file.etag for cache in self.caches for repo in repos_of(cache))
        # small files are known by git's id, which the record does not keep
        copies = [e.path for e in self.store.copies_of(file.sha256)] if file.sha256 else []
        return [*copies, *(blob for blob in blobs if _size(blob) == file.size_bytes)]

    def _require_space(self, plan: Plan) -> None:
        copied = [p.file.size_bytes for p in plan.files if p.state is State.ELSEWHERE]
        needed_bytes = plan.fetch_bytes + sum(copied)
        free = self.free_bytes(self.destination.root)
        if needed_bytes and needed_bytes + RESERVE_BYTES > free:
            raise DiskFullError(
                f"not enough space at `{self.destination.root}`: {format_gb(needed_bytes)} needed "
                f"(plus {format_gb(RESERVE_BYTES)} to spare), {format_gb(free)} free",
                path=self.destination.root,
                hint="free some space, choose another disk with --local-dir or --cache-dir, "
                "or a smaller quant (`gguf-hub pick`); --force tries anyway",
            )

    def _fetch_one(
        self, listing: RepoListing, file: RemoteFile, cancel: threading.Event
    ) -> FetchedFile:
        with translate_disk_errors(self.destination.path_of(listing, file)):
            try:
                return self._use_or_get(listing, file, cancel)
            except FileChangedError as error:
                newer = self.hub.list_files(listing.repo_id, listing.revision)
                changed = newer.find(file.path)
                if changed is None or changed.etag == file.etag:
                    raise
                self.progress.note(
                    f"{error.message}: it was replaced; starting over with the new file"
                )
                return self._use_or_get(newer, changed, cancel)

    def _use_or_get(
        self, listing: RepoListing, file: RemoteFile, cancel: threading.Event
    ) -> FetchedFile:
        """Use a file that is whole as it is, without a lock: its place may be read-only."""
        self.destination.check(listing, file)
        before = _identity(self.destination.content_of(listing, file))
        if done := self._use_existing(listing, file):
            return done
        lock = self.destination.lock_of(listing, file)
        with download_lock(
            lock, file.path, self.destination.root, progress=self.progress, cancel=cancel
        ):
            # another process may just have done it
            is_new = _identity(self.destination.content_of(listing, file)) != before
            if is_new and (done := self._use_existing(listing, file)):
                return done
            self._require_replaceable(listing, file)
            return self._copy(listing, file) or self._download(listing, file, cancel)

    def _use_existing(self, listing: RepoListing, file: RemoteFile) -> FetchedFile | None:
        path = self.destination.path_of(listing, file)
        is_same = os.path.realpath(path) == os.path.realpath(
            self.destination.content_of(listing, file)
        )
        if not is_same and not self.is_forced:  # a name of other bytes would be made one of these
            require_unedited(path, path, self.store)
        return self._reuse_recorded(listing, file) or self._verify_existing(listing, file)

    def _reuse_recorded(self, listing: RepoListing, file: RemoteFile) -> FetchedFile | None:
        """Use the file as it is when the record has these very bytes, under whatever name."""
        content = self.destination.content_of(listing, file)
        known = self.store.find_verified(content)
        if known is None or known.sha256 != file.sha256:
            return None
        path = self.destination.accept(listing, file, content)
        if (known.path, known.commit) != (path, _commit_at(path, listing)):
            self._record(listing, file, path, known.sha256)
        return FetchedFile(path, file, known.sha256, Status.PRESENT)

    def _verify_existing(self, listing: RepoListing, file: RemoteFile) -> FetchedFile | None:
        content = self.destination.content_of(listing, file)
        if _size(content) != file.size_bytes:
            return None
        sha256 = sha256_file(content, progress=self.progress)
        if matches(content, file, sha256):
            return self._accept(listing, file, content, sha256, Status.CHECKED)
        if not edit_of(content, self.store):
            self.progress.note(f"`{content}` is damaged: its hash is not the expected one")
        return None

    def _require_replaceable(self, listing: RepoListing, file: RemoteFile) -> None:
        """Refuse to replace what somebody made: no download, or one that was edited.

        Raises:
            DownloadError: It would be replaced.
        """
        path = self.destination.path_of(listing, file)
        if not self.is_forced:
            require_unedited(self.destination.content_of(listing, file), path, self.store)
        if not os.path.lexists(path) or self.destination.is_own(path, file):
            return
        known = self.store.find(path)
        if (known and known.repo_id) or self.is_forced:
            self.progress.note(f"`{path}` is replaced: it differs from the hub")
            return
        raise DownloadError(
            f"`{path}` is another file than that of `{listing.repo_id}`, and was not downloaded: "
            "it is not replaced",
            path=path,
            hint="move it elsewhere, or choose another folder with --local-dir; --force replaces "
            "it",
        )

    def _copy(self, listing: RepoListing, file: RemoteFile) -> FetchedFile | None:
        """Take the bytes from a copy on this machine, if there is one that is whole."""
        for copy in self._copies_of(file):
            part = self.destination.part_of(listing, file)
            # a name of its own: what was fetched so far must outlive a copy that is damaged
            new = part.with_name(f"{file.etag}.copy{PART_SUFFIX}")
            new.parent.mkdir(parents=True, exist_ok=True)
            copy_file(copy, new)
            with hold_open(new) as status:
                sha256 = sha256_file(new, progress=self.progress, label=f"check {file.path}")
                require_named(status, new)
                if matches(new, file, sha256):
                    remove_part(part)
                    return self._accept(
                        listing, file, new, sha256, Status.COPIED, part_status=status
                    )
            new.unlink()
            self.store.remove(copy)
            self.progress.note(f"`{copy}` is damaged: its SHA-256 is not the expected one")
        return None

    def _download(
        self, listing: RepoListing, file: RemoteFile, cancel: threading.Event
    ) -> FetchedFile:
        part = self.destination.part_of(listing, file)
        part.parent.mkdir(parents=True, exist_ok=True)
        self._adopt_leftover(listing, file, part)
        source = Source(listing.repo_id, listing.commit, file)
        result = self.backend(self.hub, source, part, progress=self.progress, cancel=cancel)
        label = f"check {file.path}"
        with hold_open(part) as status:
            sha256 = result.sha256 or sha256_file(part, progress=self.progress, label=label)
            require_named(status, part)
            if matches(part, file, sha256):
                self._store_hashes(sha256, result)
                done = self._accept(
                    listing, file, part, sha256, Status.DOWNLOADED, part_status=status
                )
                journal_of(part).unlink(missing_ok=True)
                return done
        remove_part(part)
        raise _wrong_bytes(listing, file, sha256)

    def _adopt_leftover(self, listing: RepoListing, file: RemoteFile, part: Path) -> None:
        """Go on with what another client left when it was stopped, if that is more than ours."""
        leftovers = [
            path for path in self.destination.leftovers_of(listing, file) if _has_one_name(path)
        ]
        if not leftovers or os.path.lexists(part):
            return
        largest = max(leftovers, key=lambda path: _size(path) or 0)
        self.progress.note(f"resuming from `{largest.name}`, left by another program")
        largest.replace(part)

    def _record_folder(self) -> None:
        """Record the folder, so that ``gc`` finds what an interrupted download leaves there."""
        with contextlib.suppress(OSError):  # useful, not necessary
            KnownFolders(self.store.folder).add(self.destination.root)

    def _store_hashes(self, sha256: str, result: TransferResult) -> None:
        """Keep the hashes of segments: with them a damaged file can be repaired."""
        if result.hashes and len(result.hashes.hashes) > 1:
            with contextlib.suppress(OSError):  # useful, not necessary
                SegmentHashStore(self.store.folder).add(sha256, result.hashes)

    def _accept(
        self,
        listing: RepoListing,
        file: RemoteFile,
        content: Path,
        sha256: str,
        status: Status,
        *,
        part_status: os.stat_result | None = None,
    ) -> FetchedFile:
        """Look whether verified bytes make a GGUF, give them their name, and record them.

        A part (``part_status``) gets its name only if it still is the file whose bytes were hashed.
        """
        from gguf_hub.gguf.reader import gguf_problem

        problem = gguf_problem(content) if is_gguf(file.path) else None
        if part_status:
            self._require_replaceable(listing, file)  # hours may have passed since it was asked
            require_named(part_status, content)
        path = self.destination.accept(listing, file, content)
        self._record(listing, file, path, sha256)
        if problem:
            self.progress.note(f"`{path}` matches the hub, but is not a valid GGUF: {problem}")
        return FetchedFile(path, file, sha256, status, problem)

    def _record(self, listing: RepoListing, file: RemoteFile, path: Path, sha256: str) -> None:
        entry = StoredFile.of(
            path,
            sha256,
            repo_id=listing.repo_id,
            commit=_commit_at(path, listing),
            filename=file.path,
        )
        self.store.add(entry)


def _failed_first(futures: Sequence[Future[FetchedFile]]) -> list[Future[FetchedFile]]:
    """Return the futures, or only one that failed: the others then wait in vain."""
    failed = [f for f in futures if f.done() and f.exception() is not None]
    return failed[:1] or list(futures)


def _has_one_name(path: Path) -> bool:
    """Return whether a leftover is a file that has no other name, and so is nobody else's."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is replaced or written; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _commit_at(path: Path, listing: RepoListing) -> str:
    """Return the commit whose name a file has: in a read-only cache maybe another one's."""
    cached = find_file(path)
    return cached.commit if cached else listing.commit


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _wrong_bytes(listing: RepoListing, file: RemoteFile, sha256: str) -> ChecksumError:
    expected = f"SHA-256 {file.sha256}" if file.sha256 else f"git id {file.blob_id}"
    return ChecksumError(
        f"`{file.path}` of `{listing.repo_id}` arrived damaged: expected {expected}, "
        f"found SHA-256 {sha256}; nothing was kept",
        path=file.path,
        hint="repeat the command; if it persists, something between here and the hub alters bytes",
    )
