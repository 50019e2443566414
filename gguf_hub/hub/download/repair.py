"""Making a damaged file whole again by fetching only what is bad of it.

The hashes that were stored with the download say which segments are bad. Without them the
whole file is read from the hub a second time, next to the one on disk, and only what differs is
written.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from gguf_hub.errors import ChecksumError, DownloadError
from gguf_hub.hub.client import Hub
from gguf_hub.hub.download.diskerrors import translate_disk_errors
from gguf_hub.hub.download.engine import Settings, Transfer, TransferState
from gguf_hub.hub.download.expected import ExpectedFile
from gguf_hub.hub.download.link import Source
from gguf_hub.hub.download.locking import download_lock
from gguf_hub.hub.download.notes import refresh_note
from gguf_hub.hub.download.partfile import PartFile
from gguf_hub.hub.download.segment_hashes import SegmentHashStore
from gguf_hub.hub.download.segments import SegmentHashes, Segments, SegmentState, merge_ranges
from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.progress import SILENT, Progress


@dataclass(frozen=True)
class Damage:
    """What is wrong with a file.

    Attributes:
        segments: How it is cut.
        good: SHA-256 of the segments that are right.
        expected: SHA-256 that all segments must have; empty when nobody kept them.
    """

    segments: Segments
    good: dict[int, str]
    expected: dict[int, str] = field(default_factory=dict)

    @property
    def bad(self) -> list[int]:
        """The segments that are wrong, or of which nobody knows."""
        return [index for index in range(len(self.segments)) if index not in self.good]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The byte ranges of these, neighbours joined."""
        return merge_ranges(self.segments, self.bad)


@dataclass(frozen=True)
class RepairResult:
    """What a repair took: bytes that came from the hub, and bytes that were written."""

    fetched_bytes: int
    changed_bytes: int


def find_damage(path: Path, hashes: SegmentHashes, *, progress: Progress = SILENT) -> Damage:
    """Compare the segments of a file with the hashes that were kept of it.

    Args:
        path: The file; may be too short or too long.
        hashes: What its segments should be.
        progress: Where to report bytes.

    Raises:
        OSError: The file cannot be read.
    """
    segments, good = hashes.segments, {}
    buffer = memoryview(bytearray(segments.segment_bytes))
    with (
        path.open("rb", buffering=0) as file,
        progress.task(f"compare {path.name}", segments.size_bytes) as task,
    ):
        for index, expected in enumerate(hashes.hashes):
            file.seek(segments.start(index))
            data = buffer[: segments.length(index)]
            n = file.readinto(data)
            if n == len(data) and hashlib.sha256(data).hexdigest() == expected:
                good[index] = expected
            task.advance(len(data))
    return Damage(segments, good, dict(enumerate(hashes.hashes)))


def source_of(
    path: Path, expected: ExpectedFile | None, known: ExpectedFile | None, hub: Hub
) -> Source:
    """Return where the right bytes of a file are to be had.

    Args:
        path: The file.
        expected: What it should be.
        known: The same, or another's word that names the repository too.
        hub: Asked whether it has them still.

    Raises:
        DownloadError: Nobody knows where the file came from, or the hub has other bytes by now.
        HubError: As the hub says.
    """
    if not (expected and known and known.repo_id and known.filename):
        raise DownloadError(
            f"`{path}` cannot be repaired: its repository is not known",
            path=path,
            hint="download it again with `gguf-hub download ORG/REPO FILE`: that records where "
            "it came from",
        )
    listing = hub.list_files(known.repo_id, known.commit or "main")
    file = listing.find(known.filename)
    if file is None or file.sha256 != expected.sha256:
        raise DownloadError(
            f"`{path}` cannot be repaired: `{known.repo_id}` has other bytes as "
            f"`{known.filename}`, or none",
            path=path,
            hint=f"`gguf-hub download {quote(known.repo_id)} {quote(str(known.filename))}` fetches "
            "what it has",
        )
    return Source(known.repo_id, listing.commit, file)


def repair(
    path: Path,
    source: Source,
    *,
    hub: Hub,
    store: Store,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> RepairResult:
    """Make a file what the hub has, in place.

    Args:
        path: The file.
        source: What it should be, with its SHA-256.
        hub: Where to ask.
        store: The record; updated when the file is whole.
        settings: How hard to try.
        progress: Where to report bytes and notes.

    Raises:
        ChecksumError: The file is still not what it should be.
        LockedError: Another process repairs it.
        HubError: The hub refuses or stays away; what was right before still is.
        DownloadError: The file cannot be written.
    """
    file, real = source.file, Path(os.path.realpath(path))
    assert file.sha256, "only files with a SHA-256 can be repaired"
    settings = settings or Settings()
    with (
        translate_disk_errors(path),
        download_lock(real.with_name(f".{real.name}.repair.lock"), file.path, real.parent),
    ):
        store.distrust(path)
        hashes = SegmentHashStore(store.folder).find(file.sha256)
        if hashes:
            damage = find_damage(real, hashes, progress=progress)
        else:
            progress.note(
                f"no segment hashes of `{file.path}`: reading the whole file from the hub and "
                "writing what differs"
            )
            damage = Damage(settings.cut(file.size_bytes), {})
        done = _fetch(real, source, damage, hub, settings, progress)
        _record(path, source, store)
    return done


def _fetch(
    path: Path, source: Source, damage: Damage, hub: Hub, settings: Settings, progress: Progress
) -> RepairResult:
    segments = damage.segments
    todo = tuple(SegmentState(index, segments.start(index)) for index in damage.bad)
    initial = TransferState(segments, damage.good, todo, damage.expected, is_hashed=True)
    with PartFile(path, segments.size_bytes, is_compare=True, is_part=False) as part:
        transfer = Transfer(
            hub,
            source,
            part,
            initial,
            journal=None,
            settings=settings,
            progress=progress,
            cancel=threading.Event(),
        )
        sha256 = transfer.run()
        os.fsync(part.fd)
        changed_bytes = part.n_changed_bytes
    if sha256 != source.file.sha256:
        raise ChecksumError(
            f"`{path}` could not be repaired: expected SHA-256 {source.file.sha256}, "
            f"found {sha256}",
            path=path,
            hint=f"`gguf-hub download {quote(source.repo_id)} {quote(source.file.path)}` "
            "downloads it again",
        )
    return RepairResult(transfer.queue.n_received, changed_bytes)


def _record(path: Path, source: Source, store: Store) -> None:
    assert source.file.sha256
    refresh_note(path)
    store.add(
        StoredFile.of(
            path,
            source.file.sha256,
            repo_id=source.repo_id,
            commit=source.commit,
            filename=source.file.path,
        )
    )
