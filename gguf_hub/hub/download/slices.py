"""Slices of models: the tensors that a machine computes in a cluster, and no others.

A slice grows: what another stage needs of the same model is added to it. It lies in a folder named
after the model's content, beside a journal as downloads have, and is checked as those are: each
segment has a SHA-256 from the manifest, and what comes damaged is fetched once more.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gguf_hub.errors import ChecksumError, ClusterError, DiskFullError, HubError
from gguf_hub.files import write_atomically
from gguf_hub.gguf.manifest import FileManifest, Manifest
from gguf_hub.gguf.slices import SLICE_SUFFIX, slice_name
from gguf_hub.hub.client import Hub, RemoteFile
from gguf_hub.hub.download.cachedir import SHA256
from gguf_hub.hub.download.diskerrors import translate_disk_errors
from gguf_hub.hub.download.engine import Settings, Transfer, TransferState
from gguf_hub.hub.download.fetch import RESERVE_BYTES, free_bytes
from gguf_hub.hub.download.journal import Journal, ResumeState, journal_of, read_journal
from gguf_hub.hub.download.link import Source
from gguf_hub.hub.download.locking import download_lock
from gguf_hub.hub.download.partfile import PartFile
from gguf_hub.hub.download.segments import CutSegments
from gguf_hub.hub.download.transfer import initial_state
from gguf_hub.progress import Progress
from gguf_hub.units import format_gb

_IMPATIENT = Settings(waits_s=(0.5, 1.0))
"""Where the bytes are to be had elsewhere, too."""
_MAX_DAMAGED = 1


@dataclass(frozen=True)
class Origin:
    """Where the files of a model are served, as a hub serves them.

    Attributes:
        name: What messages call it.
        endpoint: Address; None for the hub of whoever fetches, or the mirror set as that.
        token: Of that server; None for the user's own.
        repo_id: Repository.
        commit: Commit there.
        paths: Path of each file there.
        etags: What each is known by there.
    """

    name: str
    endpoint: str | None
    token: str | None
    repo_id: str
    commit: str
    paths: tuple[str, ...]
    etags: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it for ``from_json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Origin:
        """Return what ``to_json`` was called on."""
        return cls(**{**row, "paths": tuple(row["paths"]), "etags": tuple(row["etags"])})

    def source(self, number: int, size_bytes: int) -> Source:
        """Return where one of the files is."""
        etag = self.etags[number]
        sha256 = etag if SHA256.fullmatch(etag) else None
        remote = RemoteFile(self.paths[number], size_bytes, sha256, etag)
        return Source(self.repo_id, self.commit, remote)


@dataclass(frozen=True)
class FetchedSlice:
    """Files that have what was wanted, and how many bytes came for it."""

    paths: tuple[Path, ...]
    received_bytes: int


class SliceStore:
    """The slices of this machine.

    Args:
        folder: The data folder.
        settings: How hard to try the last of several origins.
    """

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self._folder = folder / "slices"
        self._settings = settings or Settings()

    def contents(self) -> list[Path]:
        """Return the slices, sorted."""
        return sorted(self._folder.glob(f"*/*{SLICE_SUFFIX}"))

    def fetch(
        self,
        content_id: str,
        manifest: Manifest,
        origins: Sequence[tuple[Origin, Callable[[], Hub]]],
        *,
        progress: Progress,
        cancel: threading.Event,
    ) -> FetchedSlice:
        """Have all tensors here whose hashes the manifest has.

        Args:
            content_id: 64 hex digits for the bytes of the whole model.
            manifest: Where tensors lie, and the hashes of those that are wanted.
            origins: Where they are to be had, the best first.
            progress: Where to report bytes and notes.
            cancel: Ends the transfer when set.

        Raises:
            ChecksumError: A tensor came damaged twice; it is named, and where it came from.
            ClusterError: Nobody has the bytes, or nobody can be reached; what came is kept.
            DiskFullError: There is no room for them.
            DownloadError: The folder cannot be written.
            CancelledError: ``cancel`` was set.
        """
        if not SHA256.fullmatch(content_id):
            raise ClusterError("a slice of a model without a name: the driver has another version")
        folder = self._folder / content_id[:16]
        paths = tuple(folder / slice_name(Path(file.name).name) for file in manifest.files)
        received = 0
        with translate_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with download_lock(lock_of_slice(paths[0]), paths[0].name, folder, progress=progress,
                               cancel=cancel):  # fmt: skip
                for number, (file, path) in enumerate(zip(manifest.files, paths, strict=True)):
                    one = _Slice(path, file, content_id, progress, cancel)
                    received += self._complete(one, number, origins)
        return FetchedSlice(paths, received)

    def _complete(
        self, one: _Slice, number: int, origins: Sequence[tuple[Origin, Callable[[], Hub]]]
    ) -> int:
        """Fetch what one file lacks from the first origin that has it; return how much came."""
        if one.is_whole:
            return 0
        one.require_space()
        problems = []
        for i, (origin, connect) in enumerate(origins):
            settings = _IMPATIENT if i + 1 < len(origins) else self._settings
            try:
                one.fetch(connect(), origin.source(number, one.file.size_bytes), settings)
                return one.received_bytes
            except ChecksumError as error:
                raise ChecksumError(
                    f"{error.message} from {origin.name}: not the bytes of `{one.file.name}`",
                    path=one.path,
                    hint="`gguf-hub verify` on the machine that serves it shows whether its file "
                    "is whole",
                ) from error
            except HubError as error:
                problems.append(f"{origin.name}: {error.message}")
                if i + 1 < len(origins):
                    one.note(f"{problems[-1]}; asking {origins[i + 1][0].name}")
        one.drop_empty()
        raise ClusterError(
            f"`{one.file.name}` cannot be fetched: {'; '.join(problems) or 'nobody serves it'}",
            hint="copy the file to this machine, or let it reach the machine that has it; what has "
            "come is kept",
        )


class _Slice:
    """One file of a slice: what of it is there, and what is wanted."""

    def __init__(
        self, path: Path, file: FileManifest, content_id: str, progress: Progress,
        cancel: threading.Event,
    ) -> None:  # fmt: skip
        self.path, self.file = path, file
        self.received_bytes = 0
        self._etag, self._progress, self._cancel = content_id, progress, cancel
        self._segments, self._expected = cut_by(file)
        self._state = self._read()

    @property
    def is_whole(self) -> bool:
        """Whether all that is wanted is there and has not changed since it was checked."""
        return not self._missing and is_checked(self.path)

    @property
    def _missing(self) -> list[int]:
        return [i for i, sha256 in self._expected.items() if self._state.done.get(i) != sha256]

    def note(self, text: str) -> None:
        """Show a line about the file."""
        self._progress.note(f"`{self.file.name}`: {text}")

    def require_space(self) -> None:
        """Raise ``DiskFullError`` unless the disk has room for what is missing."""
        begun = sum(start.n_bytes for start in self._state.starts.values())
        need = max(0, sum(map(self._segments.length, self._missing)) - begun)
        free = free_bytes(self.path.parent)
        if need and need + RESERVE_BYTES > free:
            raise DiskFullError(
                f"not enough space for the layers of this machine in `{self.path.parent}`: "
                f"{format_gb(need)} needed (plus {format_gb(RESERVE_BYTES)} to spare), "
                f"{format_gb(free)} free",
                path=self.path.parent,
                hint="`gguf-hub gc` shows what can be removed there; GGUF_HUB_HOME moves it",
            )

    def fetch(self, hub: Hub, source: Source, settings: Settings) -> None:
        """Fetch what is missing, and check what is there unless that was done before.

        Raises:
            ChecksumError: A tensor came damaged twice.
            HubError: It is not to be had there; what came is kept.
        """
        was_checked = is_checked(self.path)
        with PartFile(self.path, self.file.size_bytes, is_sparse=True) as part:
            self._state = self._read()
            for index in set(self._missing) & self._state.done.keys():
                del self._state.done[index]  # of other weights
            journal = Journal(self.path, self._etag, self._state)
            transfer = Transfer(
                hub, source, part, self._initial(part, is_hashed=was_checked), journal=journal,
                settings=settings, progress=self._progress, cancel=self._cancel,
            )  # fmt: skip
            try:
                transfer.run()
                journal.sync(part.fd)
            finally:
                journal.close()
                self.received_bytes += transfer.queue.n_received
        note_checked(self.path)

    def drop_empty(self) -> None:
        """Remove the file if nothing has come."""
        state = self._read()
        if not state.done and not state.starts:
            remove_slice(self.path)

    def _initial(self, part: PartFile, *, is_hashed: bool) -> TransferState:
        begun = initial_state(part, self._state)
        return TransferState(
            self._segments,
            {i: sha256 for i, sha256 in self._state.done.items() if i in self._expected},
            tuple(segment for segment in begun.todo if segment.index in self._expected),
            expected=self._expected,
            is_hashed=is_hashed,
            wanted=tuple(self._expected),
            max_damaged=_MAX_DAMAGED,
        )

    def _read(self) -> ResumeState:
        size_bytes = self.file.size_bytes
        is_there = self.path.is_file() and self.path.stat().st_size == size_bytes
        state = (
            read_journal(self.path, self._etag, size_bytes, self._segments) if is_there else None
        )
        return state or ResumeState(self._segments)


def cut_by(file: FileManifest) -> tuple[CutSegments, dict[int, str]]:
    """Return a file cut at its tensors, and what the hashes of segments must be, where known.

    What lies between tensors is a segment of its own that nobody wants.
    """
    starts: dict[int, str | None] = {}
    hashes: dict[int, str] = {}
    for tensor in file.tensors:
        for i, (start, stop) in enumerate(tensor.blocks()):
            starts[start] = tensor.label
            starts.setdefault(stop, None)
            if tensor.hashes:
                hashes[start] = tensor.hashes[i]
    segments = CutSegments.of_starts(file.size_bytes, starts)
    return segments, {segments.index_at(start): hashes[start] for start in sorted(hashes)}


# -- what was checked ------------------------------------------------------------------------------


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.checked")


def note_checked(path: Path) -> None:
    """Note that all that the journal of a slice names was checked, as the file is now."""
    write_atomically(_note_of(path), json.dumps({"mtime_ns": path.stat().st_mtime_ns}))


def is_checked(path: Path) -> bool:
    """Return whether a slice was checked and has not changed since."""
    try:
        mtime_ns = json.loads(_note_of(path).read_text(encoding="utf-8"))["mtime_ns"]
        return bool(path.stat().st_mtime_ns == mtime_ns)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def lock_of_slice(path: Path) -> Path:
    """Return the lock that whoever writes a slice holds."""
    return path.with_name(".lock")


def remove_slice(path: Path) -> None:
    """Remove a slice, and what lies beside it."""
    for each in (path, journal_of(path), _note_of(path)):
        each.unlink(missing_ok=True)
