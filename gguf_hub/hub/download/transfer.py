"""From a hub to a part file, going on with whatever an earlier run left there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gguf_hub.errors import GgufError, HubError, HubUnreachableError
from gguf_hub.files import is_named, set_aside
from gguf_hub.hub.client import Hub
from gguf_hub.hub.download.engine import Settings, Transfer, TransferState
from gguf_hub.hub.download.file_hash import Prefix
from gguf_hub.hub.download.journal import (
    Journal,
    ResumeState,
    Start,
    journal_of,
    read_journal,
    remove_part,
)
from gguf_hub.hub.download.link import Link, Source
from gguf_hub.hub.download.names import is_gguf
from gguf_hub.hub.download.partfile import PartFile, require_named
from gguf_hub.hub.download.segments import SegmentHashes, Segments, SegmentState
from gguf_hub.progress import Progress
from gguf_hub.units import MB, format_size

WORTH_STOPPING_BYTES = 64 * MB
"""A smaller file comes so fast that an early look at its header saves nothing."""


@dataclass(frozen=True)
class TransferResult:
    """What came: the SHA-256 of the part, and of its segments, as far as they were computed."""

    sha256: str | None = None
    hashes: SegmentHashes | None = None


class TransferBackend(Protocol):
    """Whatever fills a part file."""

    def __call__(
        self,
        hub: Hub,
        source: Source,
        part: Path,
        *,
        progress: Progress,
        cancel: threading.Event,
    ) -> TransferResult:
        """Make ``part`` the whole file, going on with what is there of it.

        Args:
            hub: Where to ask.
            source: What to fetch.
            part: File to fill.
            progress: Where to report bytes and notes.
            cancel: Ends the work when set.

        Raises:
            HubError: The hub refuses, or stays away for too long; ``part`` keeps what came.
            DownloadError: ``part`` was removed or replaced meanwhile.
            OSError: ``part`` cannot be written.
            CancelledError: ``cancel`` was set.
        """
        ...


@dataclass(frozen=True)
class RangeBackend:
    """Moves bytes over several connections, resumable and hashed.

    Args:
        settings: How hard to try.
        is_forced: Fetch even what cannot work.
        worth_stopping_bytes: From this size on the header is looked at while the rest comes.
    """

    settings: Settings = field(default_factory=Settings)
    is_forced: bool = False
    worth_stopping_bytes: int = WORTH_STOPPING_BYTES

    def __call__(
        self,
        hub: Hub,
        source: Source,
        part: Path,
        *,
        progress: Progress,
        cancel: threading.Event,
    ) -> TransferResult:
        """Fill ``part``; see ``TransferBackend``."""
        is_second_pass = False
        while True:
            state = self._resume_state(source, part, progress)
            attempt = _Attempt(hub, source, part, state, self, progress, cancel, is_second_pass)
            result = attempt.run()
            if source.file.sha256 in (None, result.sha256) or is_second_pass:
                return result
            is_second_pass = self._distrust(source, part, progress)

    def _resume_state(self, source: Source, part: Path, progress: Progress) -> ResumeState:
        file = source.file
        state = read_journal(part, file.etag, file.size_bytes)
        size_bytes = part.stat().st_size if part.exists() else 0
        if state and size_bytes == file.size_bytes:
            return state
        journal = journal_of(part)
        if os.path.lexists(journal):
            # of another file, or of a part that is gone: nothing of it may be mixed in
            set_aside(journal, journal.with_name(f"{journal.name}.aside"))
            progress.note(
                f"the journal of an earlier run of `{file.path}` does not match: set aside"
            )
        if size_bytes > file.size_bytes:
            part.unlink()  # more than the file has can only be another file's
        return adopt(part, self.settings.cut(file.size_bytes))

    def _distrust(self, source: Source, part: Path, progress: Progress) -> bool:
        """Have those segments fetched again that may be bad; return whether that is all of them.

        Nobody knows which: those that were found and not fetched are tried first.
        """
        file = source.file
        state = read_journal(part, file.etag, file.size_bytes)
        if state and state.adopted:
            progress.note(f"`{file.path}`: existing bytes are damaged; fetching them again")
            for index in state.adopted:
                del state.done[index]
            state.adopted.clear()
            Journal(part, file.etag, state).close()
            return False
        progress.note(f"`{file.path}` arrived damaged; looking for the bytes that differ")
        segments = state.segments if state else self.settings.cut(file.size_bytes)
        Journal(part, file.etag, ResumeState(segments)).close()
        return True


@dataclass(frozen=True)
class _Attempt:
    """One go at a part."""

    hub: Hub
    source: Source
    part: Path
    state: ResumeState
    backend: RangeBackend
    progress: Progress
    cancel: threading.Event
    is_second_pass: bool

    def run(self) -> TransferResult:
        link = Link(self.hub, self.source)
        if self.state.have_bytes < self.source.file.size_bytes:
            # before space is set aside: a file that we may not have takes none
            with contextlib.suppress(HubUnreachableError):  # the transfer waits for a busy hub
                link.current()
        status = None
        try:
            with PartFile(
                self.part, self.source.file.size_bytes, is_compare=self.is_second_pass
            ) as part:
                status = os.fstat(part.fd)
                result = self._transfer(part, link)
                require_named(status, self.part)
                return result
        except HubError:
            if status and is_named(status, self.part):
                self._drop_empty()
            raise

    def _drop_empty(self) -> None:
        """Remove a part that is only space set aside: nothing has come."""
        state = read_journal(self.part, self.source.file.etag, self.source.file.size_bytes)
        if state and not state.have_bytes:
            remove_part(self.part)

    def _transfer(self, part: PartFile, link: Link) -> TransferResult:
        journal = Journal(self.part, self.source.file.etag, self.state)
        try:
            transfer = Transfer(
                self.hub,
                self.source,
                part,
                initial_state(part, self.state),
                journal=journal,
                settings=self.backend.settings,
                progress=self.progress,
                cancel=self.cancel,
                check_start=self._check_start if self._is_worth_checking() else None,
                link=link,
            )
            sha256 = transfer.run()
            journal.sync(part.fd)
        finally:
            journal.close()
        done = transfer.queue.done
        hashes = tuple(done[index] for index in range(len(self.state.segments)))
        return TransferResult(sha256, SegmentHashes(self.state.segments, hashes))

    def _is_worth_checking(self) -> bool:
        file = self.source.file
        is_large = file.size_bytes >= self.backend.worth_stopping_bytes
        return is_large and is_gguf(file.path) and not self.backend.is_forced

    def _check_start(self, prefix: Prefix) -> None:
        """Stop a file that cannot work before the rest of it comes.

        Raises:
            GgufError: Its header is wrong, or promises more than the file holds.
            NotYetError: The header is not all there.
        """
        from gguf_hub.gguf.issues import Severity
        from gguf_hub.gguf.validate import validate_source

        file = self.source.file
        report = validate_source(prefix, file.path)
        if report.is_sound:
            return
        errors = [str(issue) for issue in report.issues if issue.severity is Severity.ERROR]
        raise GgufError(
            f"`{file.path}` of `{self.source.repo_id}` cannot work: {errors[0]}; stopped after "
            f"{format_size(prefix.ready_bytes)} of {format_size(file.size_bytes)}",
            path=file.path,
            issues=errors,
            hint="choose another file; --force downloads this one anyway",
        )


def initial_state(part: PartFile, state: ResumeState) -> TransferState:
    """Return where to start: a begun segment resumes if its bytes are those of the journal."""
    segments, todo = state.segments, []
    for index in range(len(segments)):
        if index in state.done:
            continue
        segment = SegmentState(index, segments.start(index))
        if start := state.starts.get(index):
            known = SegmentState(index, segment.at)
            for chunk in part.chunks(segment.at, segment.at + start.n_bytes):
                known.hasher.update(chunk)
                known.at += len(chunk)
            segment = known if known.hasher.hexdigest() == start.sha256 else segment
        todo.append(segment)
    return TransferState(segments, state.done, tuple(todo))


def adopt(part: Path, segments: Segments) -> ResumeState:
    """Take up what another program, or an older version, left: whatever is not empty.

    Whether it is right shows in the end; until then it is remembered as found, not fetched.

    Args:
        part: A file whose bytes, as far as they go, are in their places; may be missing.
        segments: How the file is cut.
    """
    state = ResumeState(segments)
    if not part.exists():
        return state
    with part.open("rb") as file:
        for index in range(len(segments)):
            data = file.read(segments.length(index))
            if data.count(0) == len(data):
                continue  # a hole: space that was set aside and never written
            sha256 = hashlib.sha256(data).hexdigest()
            if len(data) < segments.length(index):
                state.starts[index] = Start(len(data), sha256)
                continue
            state.done[index] = sha256
            state.adopted.add(index)
    return state
