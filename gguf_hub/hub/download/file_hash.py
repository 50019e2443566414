"""The SHA-256 of a whole file while it comes, and an early look at its header.

One thread follows the segments in their order and reads each back while the system still has it in
memory. What an earlier run left is compared with its journal on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Sequence
from typing import Any

from gguf_hub.hub.download.partfile import PartFile
from gguf_hub.hub.download.segment_queue import SegmentQueue


class NotYetError(Exception):
    """More of the file is needed than is there."""


class Prefix:
    """The first bytes of a part, as a ``RangeSource`` that ends where they end for now."""

    def __init__(self, part: PartFile, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.ready_bytes = 0
        self._part = part

    def read(self, offset: int, n: int) -> bytes:
        """Return ``n`` bytes from ``offset``.

        Raises:
            NotYetError: They are not there yet.
        """
        if offset + n > self.ready_bytes:
            raise NotYetError
        data = bytearray(n)
        self._part.read(memoryview(data), offset)
        return bytes(data)


class FileHash:
    """Reads a part in order, as fast as it comes.

    Args:
        queue: What is there.
        part: The file.
        wanted: The segments that will be there, ascending; all when None.
        untrusted: Segments from an earlier run, to be compared with the hashes in the queue.
        forget: Called with the index of each that differs.
        check_start: Looks at the first bytes; raises when the file is of no use, and
            ``NotYetError`` when it needs to see more. None for no look.

    Attributes:
        sha256: Of the whole file, or of what is wanted of it, once ``run`` has read all of it;
            None when it was stopped.
    """

    def __init__(
        self,
        queue: SegmentQueue,
        part: PartFile,
        *,
        wanted: Sequence[int] | None = None,
        untrusted: Container[int],
        forget: Callable[[int], None],
        check_start: Callable[[Prefix], None] | None = None,
    ) -> None:
        self.sha256: str | None = None
        self._queue = queue
        self._part = part
        self._wanted = range(len(queue.segments)) if wanted is None else wanted
        self._untrusted = untrusted
        self._forget = forget
        self._check_start = check_start
        self._prefix = Prefix(part, queue.segments.size_bytes)

    def run(self) -> None:
        """Read to the end, then end the queue."""
        digest: Any = hashlib.sha256()
        for index in self._wanted:
            after = None
            while after is None:
                expected = self._queue.wait_for(index)
                if expected is None:
                    return
                after = self._hash_segment(digest, index, expected)
            digest = after
            self._look(self._queue.segments.stop(index))
        self.sha256 = digest.hexdigest()
        self._queue.end()

    def _hash_segment(self, digest: Any, index: int, expected: str) -> Any | None:
        """Return the hash after this segment; None when the segment is not what it was."""
        after, own = digest.copy(), hashlib.sha256()
        is_trusted = index not in self._untrusted
        start, stop = self._queue.segments.start(index), self._queue.segments.stop(index)
        for chunk in self._part.chunks(start, stop):
            if self._queue.stop_event.is_set():
                return after
            after.update(chunk)
            if not is_trusted:
                own.update(chunk)
        if is_trusted or own.hexdigest() == expected or self._queue.stop_event.is_set():
            return after
        self._forget(index)
        return None

    def _look(self, ready_bytes: int) -> None:
        self._prefix.ready_bytes = ready_bytes
        if self._check_start is not None:
            try:
                self._check_start(self._prefix)
            except NotYetError:
                return
            self._check_start = None
