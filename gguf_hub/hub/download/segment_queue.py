"""Who fetches what: the segments that are missing, under way and done, for many threads at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from gguf_hub.hub.download.segments import Segments, SegmentState

LONGEST_RUN = 4
_LOOK_AGAIN_S = 1.0


class SegmentQueue:
    """The segments of one file.

    Args:
        segments: How the file is cut.
        done: SHA-256 of those that are there.
        todo: The others, some of them begun.
        n_connections: How many may be fetched at once.
        expected: What their SHA-256 must be, as far as that is known.

    Attributes:
        stop_event: Set when nothing more shall be fetched: all is there, or something is wrong.
        error: What is wrong.
        done: SHA-256 of every segment that is there.
        n_received: Bytes that came and were missing before.
        n_intact: Those of them that were not damaged on the way.
    """

    def __init__(
        self,
        segments: Segments,
        done: Mapping[int, str],
        states: Iterable[SegmentState],
        n_connections: int,
        expected: Mapping[int, str] | None = None,
    ) -> None:
        self.segments = segments
        self.done = dict(done)
        self.stop_event = threading.Event()
        self.error: BaseException | None = None
        self.n_connections = n_connections
        self.n_received = 0
        self.n_intact = 0
        self._todo = {segment.index: segment for segment in states}
        self._expected = expected or {}
        self._n_refused: Counter[int] = Counter()
        self._only: int | None = None
        self._not_before = 0.0
        self._is_sealed = False
        self._changed = threading.Condition(threading.RLock())

    # --- for whoever fetches

    def claim(self, worker: int) -> list[SegmentState]:
        """Return neighbouring segments to fetch in one go, waiting for some to turn up.

        Args:
            worker: Its number, from 0.

        Returns:
            The segments; empty when this worker is no longer needed.
        """
        with self._changed:
            while not self.stop_event.is_set() and self._is_needed(worker):
                pause_s = self._not_before - time.monotonic()
                if self._todo and pause_s <= 0:
                    return self._take_run()
                self._changed.wait(min(pause_s, _LOOK_AGAIN_S) if pause_s > 0 else _LOOK_AGAIN_S)
        return []

    def claim_at(self, index: int) -> SegmentState | None:
        """Return this segment if nobody has it, else None."""
        with self._changed:
            return self._todo.pop(index, None)

    def give_back(self, states: Iterable[SegmentState]) -> None:
        """Put segments back, with what has come of them."""
        with self._changed:
            self._todo.update((segment.index, segment) for segment in states)
            self._changed.notify_all()

    def count_received(self, n_bytes: int) -> None:
        """Count bytes that were missing before."""
        with self._changed:
            self.n_received += n_bytes
            self.n_intact += n_bytes

    def refuse(self, segment: SegmentState) -> int:
        """Have a finished segment fetched again, and its bytes not counted: it is damaged.

        Returns:
            How often this segment came damaged.
        """
        with self._changed:
            self.n_intact -= self.segments.length(segment.index)
            self._n_refused[segment.index] += 1
            self.forget(segment.index)
            return self._n_refused[segment.index]

    def accept(self, segment: SegmentState) -> str | None:
        """Return the SHA-256 of a finished segment; None when it is not what it must be."""
        sha256: str = segment.hasher.hexdigest()
        return sha256 if self._expected.get(segment.index, sha256) == sha256 else None

    def finish(self, index: int, sha256: str) -> None:
        """Note that a segment is there."""
        with self._changed:
            self.done[index] = sha256
            self._changed.notify_all()

    def pause(self, wait_s: float) -> None:
        """Let nobody start anything for so long: the server asks for it."""
        with self._changed:
            self._not_before = max(self._not_before, time.monotonic() + wait_s)

    def shrink(self) -> None:
        """Go on with half of the connections, at least one."""
        with self._changed:
            self.n_connections = max(self.n_connections // 2, 1)

    def leave_to(self, worker: int) -> None:
        """Let only this worker go on: the server sends nothing but the whole file."""
        with self._changed:
            if self._only is None:
                self._only = worker

    def is_left_to_other(self, worker: int) -> bool:
        """Return whether another worker receives the whole file."""
        return self._only not in (None, worker)

    # --- for whoever reads what is there

    def wait_for(self, index: int) -> str | None:
        """Return a segment's SHA-256 as soon as it is there; None when it will not come."""
        with self._changed:
            while index not in self.done and not self.stop_event.is_set():
                self._changed.wait(_LOOK_AGAIN_S)
            return None if self.stop_event.is_set() else self.done[index]

    def forget(self, index: int) -> None:
        """Have a segment fetched again: what is there of it is wrong."""
        with self._changed:
            self.done.pop(index, None)
            self._todo[index] = SegmentState(index, self.segments.start(index))
            self._changed.notify_all()

    # --- for everybody

    def end(self, error: BaseException | None = None) -> None:
        """Stop everything: all is there, or ``error``; the first one counts."""
        with self._changed:
            if not self.stop_event.is_set():
                self.error = error
                self.stop_event.set()
            self._changed.notify_all()

    def seal(self) -> None:
        """Let no thread write any more: the file is about to be closed."""
        with self._changed:
            self._is_sealed = True

    def while_open(self, write: Callable[[], None]) -> None:
        """Let a thread that ends write what it still holds, unless it is too late for that."""
        with self._changed:
            if not self._is_sealed:
                write()

    def begun(self) -> list[SegmentState]:
        """Return the unfinished segments of which the first bytes are there."""
        with self._changed:
            todo = self._todo.values()
            return [segment for segment in todo if segment.at > self.segments.start(segment.index)]

    def _is_needed(self, worker: int) -> bool:
        return worker < self.n_connections and not self.is_left_to_other(worker)

    def _take_run(self) -> list[SegmentState]:
        """Take the first missing segment, and its neighbours while there is plenty for all."""
        most = min(max(len(self._todo) // (2 * self.n_connections), 1), LONGEST_RUN)
        index = min(self._todo)
        run = [self._todo.pop(index)]
        while len(run) < most and self._is_fresh(index + 1):
            index += 1
            run.append(self._todo.pop(index))
        return run

    def _is_fresh(self, index: int) -> bool:
        segment = self._todo.get(index)
        return segment is not None and segment.at == self.segments.start(index)
