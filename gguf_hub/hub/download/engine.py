"""The bytes of one file over several connections at once, into a part that is always resumable.

Each worker thread fetches runs of neighbouring segments, one request a run, and hashes and writes
what comes where it belongs. What a broken connection brought of a segment is kept; the next one
goes on from there. One more thread follows with the hash of the whole file.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

from gguf_hub.errors import ChecksumError, HubUnreachableError, LinkRefusedError
from gguf_hub.hub.client import ByteStream, Hub
from gguf_hub.hub.client.retry import Backoff
from gguf_hub.hub.download.file_hash import FileHash, Prefix
from gguf_hub.hub.download.journal import Journal
from gguf_hub.hub.download.limits import RateLimit
from gguf_hub.hub.download.link import Link, ResolvedLink, Source, content_changed
from gguf_hub.hub.download.partfile import PartFile
from gguf_hub.hub.download.segment_queue import SegmentQueue
from gguf_hub.hub.download.segments import Segments, SegmentState
from gguf_hub.progress import Progress, Task
from gguf_hub.units import KIB, MIB, format_size

CONNECTIONS = 8
WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)
_STALL_BYTES = 16 * KIB
_NOTE_EVERY_S = 3.0
_POLL_S = 0.1
_STOP_WITHIN_S = 1.0
_GATHER_BYTES = 1 * MIB
_GATHER_S = 0.2


@dataclass(frozen=True)
class Settings:
    """How hard to try.

    Attributes:
        connections: How many at once for one file.
        waits_s: Longest pauses between tries that bring nothing; after the last one it gives up.
        limit: A rate that all transfers share.
        stall_s: A connection that brings next to nothing for so long is given up.
        sync_every_s: How often what came is brought to the disk for sure.
        segment_bytes: Size of a segment; chosen by the file's size when None.
    """

    connections: int = CONNECTIONS
    waits_s: tuple[float, ...] = WAITS_S
    limit: RateLimit | None = None
    stall_s: float = 30.0
    sync_every_s: float = 5.0
    segment_bytes: int | None = None

    def cut(self, size_bytes: int) -> Segments:
        """Return how a file of this size is cut."""
        if self.segment_bytes:
            return Segments(size_bytes, self.segment_bytes)
        return Segments.of_size(size_bytes)


@dataclass(frozen=True)
class TransferState:
    """Where a transfer begins.

    Attributes:
        segments: How the file is cut.
        done: SHA-256 of the segments that are there.
        todo: The others, some of them begun.
        expected: What the SHA-256 of segments must be, as far as that is known.
        is_hashed: Whether the segments that are there were hashed just now.
        wanted: The segments to have in the end, ascending; all when None.
        max_damaged: How often a segment may come damaged before the transfer fails; None for as
            often as tries are worth it.
    """

    segments: Segments
    done: Mapping[int, str]
    todo: tuple[SegmentState, ...]
    expected: Mapping[int, str] = field(default_factory=dict)
    is_hashed: bool = False
    wanted: tuple[int, ...] | None = None
    max_damaged: int | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes that are there in the end."""
        if self.wanted is None:
            return self.segments.size_bytes
        return sum(map(self.segments.length, self.wanted))

    @property
    def have_bytes(self) -> int:
        """How many bytes are there."""
        begun = sum(segment.at - self.segments.start(segment.index) for segment in self.todo)
        return begun + sum(self.segments.length(index) for index in self.done)


class Transfer:
    """One file on its way.

    Args:
        hub: Where it comes from.
        source: The file.
        part: Where it goes.
        initial: What is there of it.
        journal: Records every segment; None for a transfer that is never resumed.
        settings: How hard to try.
        progress: Where to report bytes and notes.
        cancel: Ends the transfer when set.
        check_start: Looks at the first bytes; raises when the file is of no use.
        link: Where the bytes are, when that has been asked already.
    """

    def __init__(
        self,
        hub: Hub,
        source: Source,
        part: PartFile,
        initial: TransferState,
        *,
        journal: Journal | None,
        settings: Settings,
        progress: Progress,
        cancel: threading.Event,
        check_start: Callable[[Prefix], None] | None = None,
        link: Link | None = None,
    ) -> None:
        self._hub = hub
        self._source = source
        self._part = part
        self._initial = initial
        self._journal = journal
        self._settings = settings
        self._progress = progress
        self._cancel = cancel
        self._noted_at = 0.0
        self._link = link or Link(hub, source)
        segments, done = initial.segments, initial.done
        self._have_bytes = initial.have_bytes  # now: segments that were begun grow
        self.queue = SegmentQueue(
            segments, done, initial.todo, settings.connections, initial.expected
        )
        untrusted = frozenset() if initial.is_hashed else frozenset(done)
        self._file_hash = FileHash(
            self.queue,
            part,
            wanted=initial.wanted,
            untrusted=untrusted,
            forget=self._forget,
            check_start=check_start,
        )

    def run(self) -> str:
        """Fetch what is missing; return the SHA-256 of the whole file, or of what is wanted of it.

        Raises:
            HubError: The hub refuses, or stays away for too long; what came is in the journal.
            OSError: The part or the journal cannot be written.
            CancelledError: ``cancel`` was set.
        """
        n_workers = min(self._settings.connections, len(self._initial.todo)) or 1
        threads = [self._thread(self._file_hash.run)]
        threads += [self._thread(self._work, k) for k in range(n_workers)]
        if self._journal:
            threads.append(self._thread(self._sync))
        for thread in threads:
            thread.start()
        try:
            self._watch()
        finally:
            self._stop_threads(threads)
        assert self._file_hash.sha256 is not None
        return self._file_hash.sha256

    def _watch(self) -> None:
        """Report progress until all is there or something is wrong."""
        label = f"download {self._source.file.path.rpartition('/')[2]}"
        reported_bytes, size_bytes = 0, self._initial.size_bytes
        with self._progress.task(label, size_bytes, done=self._have_bytes) as task:
            while not self.queue.stop_event.wait(_POLL_S):
                reported_bytes = self._report_bytes(task, reported_bytes)
                if self._cancel.is_set():
                    raise CancelledError
            self._report_bytes(task, reported_bytes)
            if self.queue.error:
                raise self.queue.error

    def _report_bytes(self, task: Task, reported_bytes: int) -> int:
        n = self.queue.n_received
        if n > reported_bytes:
            task.advance(n - reported_bytes)
        return n

    def _stop_threads(self, threads: list[threading.Thread]) -> None:
        """End all threads and write down the segments that are half there."""
        self.queue.end()
        until = time.monotonic() + _STOP_WITHIN_S
        for thread in threads:
            # one that waits for a silent server is left behind: it will not write any more
            thread.join(max(until - time.monotonic(), 0.0))
        self.queue.seal()
        if self._journal:
            with contextlib.suppress(OSError):
                for segment in self.queue.begun():
                    n_bytes = segment.at - self.queue.segments.start(segment.index)
                    self._journal.add_start(segment.index, n_bytes, segment.hasher.hexdigest())

    # --- in threads

    def _thread(self, work: Callable[..., None], *args: int) -> threading.Thread:
        return threading.Thread(target=self._run_guarded, args=(work, *args), daemon=True)

    def _run_guarded(self, work: Callable[..., None], *args: int) -> None:
        try:
            work(*args)
        except BaseException as error:
            self.queue.end(error)

    def _sync(self) -> None:
        """Bring to the disk what came, every now and then, so that a loss of power costs little."""
        assert self._journal
        while not self.queue.stop_event.wait(self._settings.sync_every_s):
            self._journal.sync(self._part.fd)

    def _forget(self, index: int) -> None:
        at = format_size(self.queue.segments.start(index))
        self._progress.note(f"bytes of an earlier run at {at} are damaged; fetching them again")
        if self._journal:
            self._journal.forget(index)
        self.queue.forget(index)

    def _work(self, worker: int) -> None:
        """Fetch one run after the other, with a pause after each that broke."""
        backoff, n_intact = Backoff(self._settings.waits_s), 0
        while run := self.queue.claim(worker):
            sink = _Sink(self.queue, self._part, self._journal, run, self._initial.max_damaged)
            link = None
            try:
                link = self._link.current()
                self._fetch(link, run, sink, worker)
                backoff.n_failures = 0
            except HubUnreachableError as error:
                if backoff.n_failures == 0 or sink.n_new:
                    n_intact = self.queue.n_intact
                backoff.count(has_progress=sink.n_new > 0)
                # others may do well: only when nobody gets anything there is no sense in going on
                is_hopeless = self.queue.n_intact == n_intact
                # the link first: whoever takes over what is given back must have a new one
                self._drop_bad(link, error, backoff.n_failures)
                sink.give_back()
                self._wait(error, backoff.wait_s(error, is_hopeless=is_hopeless))
            finally:
                sink.give_back()

    def _drop_bad(
        self, link: ResolvedLink | None, error: HubUnreachableError, failures: int
    ) -> None:
        """Have a new link asked for where this one is refused, or fails again and again."""
        is_refused = isinstance(error, LinkRefusedError)
        if link and (is_refused or failures > 1):
            is_first = self._link.drop(link)
            if is_first and link.is_young and is_refused:
                # it cannot have expired: the host wants fewer connections on it
                self.queue.shrink()

    def _wait(self, error: HubUnreachableError, wait_s: float) -> None:
        if error.retry_after_s:
            self.queue.pause(error.retry_after_s)
        self._note_failure(error)
        self.queue.stop_event.wait(wait_s)

    def _note_failure(self, error: HubUnreachableError) -> None:
        """Report a failure, but not each one of eight connections that fail together."""
        now = time.monotonic()
        if now - self._noted_at > _NOTE_EVERY_S:
            self._noted_at = now
            have = format_size(self._have_bytes + self.queue.n_received)
            self._progress.note(f"{error.message}; resuming at {have}")

    def _fetch(self, link: ResolvedLink, run: list[SegmentState], sink: _Sink, worker: int) -> None:
        """Open the bytes of a run and pour them."""
        start, stop = run[0].at, self.queue.segments.stop(run[-1].index)
        limit = self._settings.limit
        window = limit.window_bytes(self._settings.connections) if limit else None
        with self._hub.open_range(
            link.metadata, start, stop, if_range=link.etag, window_bytes=window
        ) as stream:
            if not self._link.is_same(link, stream):
                self._link.drop(link)
                raise content_changed(self._source, link, stream)
            if stream.is_whole:
                self.queue.leave_to(worker)
                if self.queue.is_left_to_other(worker):
                    return
                # the stream passes all segments: it brings whatever nobody else is at
                sink.take_all()
            self._pour(stream, sink)
        if not sink.is_complete and not self.queue.stop_event.is_set():
            raise _ended_early(self._source, sink)

    def _pour(self, stream: ByteStream, sink: _Sink) -> None:
        limit, stop_event = self._settings.limit, self.queue.stop_event
        stall = _Stall(self._source, self._settings)
        with _Gather(sink, stream.start, self.queue) as gather:
            for chunk in stream.chunks:
                if limit:
                    limit.take(len(chunk), stop_event)
                if stop_event.is_set():
                    return
                gather.add(chunk)
                stall.count(len(chunk))
                if sink.is_complete:
                    # the end of the body must be seen, or the connection is not used again
                    next(stream.chunks, None)
                    return


class _Gather:
    """Puts the small chunks of a stream together before a sink takes them.

    Hashing and writing give the interpreter's lock away and want it back, each time: for chunks of
    64 KiB on eight connections that is a tenth of all the work. What has gathered when a connection
    breaks, or all is over, is not lost.
    """

    def __init__(self, sink: _Sink, at: int, queue: SegmentQueue) -> None:
        self._sink = sink
        self._at = at
        self._queue = queue
        self._chunks: list[bytes] = []
        self._n_bytes = 0
        self._since = time.monotonic()

    def add(self, chunk: bytes) -> None:
        """Take a chunk; hand on what has gathered if it is much or has waited long."""
        self._chunks.append(chunk)
        self._n_bytes += len(chunk)
        if self._n_bytes >= _GATHER_BYTES or time.monotonic() - self._since > _GATHER_S:
            self.hand_on()

    def hand_on(self) -> None:
        """Give the sink what has gathered."""
        chunks, self._chunks, self._n_bytes = self._chunks, [], 0
        self._since = time.monotonic()
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._at = self._sink.feed(self._at, memoryview(data))

    def __enter__(self) -> _Gather:
        return self

    def __exit__(self, *error: object) -> None:
        if self._chunks:
            self._queue.while_open(self.hand_on)


class _Sink:
    """Takes bytes in the order of a file and puts them where they are missing.

    Args:
        queue: Counts bytes and finished segments.
        part: Where bytes are written.
        journal: Records finished segments.
        run: The segments to fill.
        max_damaged: See ``TransferState``.
    """

    def __init__(
        self,
        queue: SegmentQueue,
        part: PartFile,
        journal: Journal | None,
        run: list[SegmentState],
        max_damaged: int | None,
    ) -> None:
        self.n_new = 0
        self._max_damaged = max_damaged
        self._queue = queue
        self._part = part
        self._journal = journal
        self._run = {segment.index: segment for segment in run}
        self._takes_all = False
        self._at = -1

    @property
    def is_complete(self) -> bool:
        """Whether everything has come that was to come."""
        if self._takes_all:
            return self._at >= self._queue.segments.size_bytes
        return not self._run

    def take_all(self) -> None:
        """Fill from now on any segment that comes by and that nobody else has taken."""
        self._takes_all = True

    def give_back(self) -> None:
        """Return what is not finished."""
        self._queue.give_back(self._run.values())
        self._run = {}

    def feed(self, at: int, data: memoryview) -> int:
        """Take the bytes at offset ``at``; return the offset after them."""
        segments = self._queue.segments
        data = data[: segments.size_bytes - at]
        while data:
            index = segments.index_at(at)
            n = min(len(data), segments.stop(index) - at)
            segment = self._piece_at(index)
            if segment is not None and at <= segment.at < at + n:
                self._write(segment, data[segment.at - at : n])
            data, at = data[n:], at + n
        self._at = at
        return at

    def _piece_at(self, index: int) -> SegmentState | None:
        segment = self._run.get(index)
        if segment is None and self._takes_all:
            segment = self._queue.claim_at(index)
            if segment is not None:
                self._run[index] = segment
        return segment

    def _write(self, segment: SegmentState, data: memoryview) -> None:
        segment.hasher.update(data)
        self._part.write(data, segment.at)
        segment.at += len(data)
        self.n_new += len(data)
        self._queue.count_received(len(data))
        if segment.at == self._queue.segments.stop(segment.index):
            self._finish(segment)

    def _finish(self, segment: SegmentState) -> None:
        del self._run[segment.index]
        sha256 = self._queue.accept(segment)
        if sha256 is None:
            n_damaged = self._queue.refuse(segment)
            self.n_new = 0
            raise self._damage(self._queue.segments.label(segment.index), n_damaged)
        if self._journal:
            self._journal.add(segment.index, sha256)
        self._queue.finish(segment.index, sha256)

    def _damage(self, label: str, n_damaged: int) -> Exception:
        if self._max_damaged is not None and n_damaged > self._max_damaged:
            return ChecksumError(f"{label} arrived damaged {n_damaged} times")
        return HubUnreachableError(
            f"{label} arrived damaged",
            retry_after_s=0.0,
            hint="something between here and the hub alters bytes: try another network",
        )


class _Stall:
    """Notices a connection that is not silent, yet brings nothing to speak of."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self._source = source
        self._stall_s = 0.0 if settings.limit else settings.stall_s
        self._since, self._n_bytes = time.monotonic(), 0

    def count(self, n_bytes: int) -> None:
        """Count bytes.

        Raises:
            HubUnreachableError: There were too few for too long.
        """
        self._n_bytes += n_bytes
        now = time.monotonic()
        if not self._stall_s or now - self._since < self._stall_s:
            return
        if self._n_bytes < _STALL_BYTES:
            raise HubUnreachableError(
                f"`{self._source.file.path}`: a connection received only {self._n_bytes} bytes "
                f"in {self._stall_s:.0f} s",
                repo_id=self._source.repo_id,
                retry_after_s=0.0,
                hint="repeat the command; it resumes the download",
            )
        self._since, self._n_bytes = now, 0


def _ended_early(source: Source, sink: _Sink) -> HubUnreachableError:
    return HubUnreachableError(
        f"`{source.file.path}`: the server closed the connection too early",
        repo_id=source.repo_id,
        retry_after_s=0.0,
        hint="repeat the command; it resumes the download",
    )
