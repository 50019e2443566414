"""Where the bytes of a header come from: memory, a map, a file object, ranges of a server.

Knows how to see more of a file, and nothing about GGUF.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol, runtime_checkable

from gguf_hub.gguf.format import MAX_HEADER_BYTES

FIRST_BYTES = 1 << 20
SECOND_END = 2_000_000
"""A remote header is asked for in two steps that end here; a Mixtral's needs one (0.8 MB)."""


@runtime_checkable
class RangeSource(Protocol):
    """Something that gives ranges of a file."""

    @property
    def size_bytes(self) -> int:
        """Length of the whole file."""
        ...

    def read(self, offset: int, n: int) -> bytes:
        """Return exactly ``n`` bytes from ``offset``; the caller stays inside the file."""
        ...


class FileObjectSource:
    """A seekable binary file object as a ``RangeSource``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = file.seek(0, os.SEEK_END)

    def read(self, offset: int, n: int) -> bytes:
        """Return ``n`` bytes from ``offset``."""
        self._file.seek(offset)
        return self._file.read(n)


class MemorySource:
    """Bytes in memory as a ``RangeSource``, for headers that keep copies of what they read."""

    def __init__(self, data: Any) -> None:
        self._data = memoryview(data)
        self.size_bytes = self._data.nbytes

    def read(self, offset: int, n: int) -> bytes:
        """Return ``n`` bytes from ``offset``."""
        return bytes(self._data[offset : offset + n])


class JoinedSource:
    """Several sources, one after another, as one ``RangeSource``."""

    def __init__(self, sources: Sequence[RangeSource]) -> None:
        self._sources = tuple(sources)
        self.size_bytes = sum(source.size_bytes for source in sources)

    def read(self, offset: int, n: int) -> bytes:
        """Return ``n`` bytes from ``offset``."""
        pieces = []
        for source in self._sources:
            take = min(n, source.size_bytes - offset)
            if take > 0:
                pieces.append(source.read(offset, take))
                n -= take
            offset = max(0, offset - source.size_bytes)
        return b"".join(pieces)


class Window:
    """The start of a file, as far as it has been seen.

    Args:
        source: All bytes at once (bytes, memory map), a file object, or a ``RangeSource``.

    Attributes:
        buffer: What has been seen so far; replaced, never changed, when more is needed.
        size_bytes: Length of the whole file.
    """

    def __init__(self, source: Any) -> None:
        if isinstance(source, io.IOBase):
            source = FileObjectSource(source)  # type: ignore[arg-type]
        self._source: RangeSource | None = source if isinstance(source, RangeSource) else None
        self.buffer: Any = source if self._source is None else b""
        self.size_bytes = len(source) if self._source is None else self._source.size_bytes
        if self._source is not None:
            self.see(min(self.size_bytes, FIRST_BYTES))

    def see(self, end: int) -> bool:
        """See the file up to ``end`` at least; False where it ends before, or the bound is met."""
        if end > min(self.size_bytes, MAX_HEADER_BYTES):
            return False
        if self._source is None or end <= len(self.buffer):
            return True
        n_seen = len(self.buffer)
        step = FIRST_BYTES if not n_seen else SECOND_END if n_seen <= FIRST_BYTES else 2 * n_seen
        end = min(max(end, step), self.size_bytes, MAX_HEADER_BYTES)
        more = self._source.read(n_seen, end - n_seen)
        self.buffer += more
        return len(self.buffer) >= end
