"""How a file is cut for its way: segments that are fetched, hashed and remembered one by one.

Pure arithmetic and data; nothing here sees a disk or a network.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf_hub.units import MIB

SMALLEST_BYTES = 1 * MIB
LARGEST_BYTES = 16 * MIB
_AT_LEAST = 64


@dataclass(frozen=True)
class Segments:
    """A file of ``size_bytes`` in segments of ``segment_bytes``; the last one may be shorter."""

    size_bytes: int
    segment_bytes: int

    @classmethod
    def of_size(cls, size_bytes: int) -> Segments:
        """Cut a file of this size: 16 MiB a segment, less for files that make few of those.

        Small segments lose little when a process is killed; large ones need few requests.
        """
        segment_bytes = LARGEST_BYTES
        while segment_bytes > SMALLEST_BYTES and size_bytes < _AT_LEAST * segment_bytes:
            segment_bytes //= 2
        return cls(size_bytes, segment_bytes)

    def __len__(self) -> int:
        return -(-self.size_bytes // self.segment_bytes)

    def start(self, index: int) -> int:
        """Return the offset of a segment's first byte."""
        return index * self.segment_bytes

    def stop(self, index: int) -> int:
        """Return the offset after a segment's last byte."""
        return min(self.start(index) + self.segment_bytes, self.size_bytes)

    def length(self, index: int) -> int:
        """Return how many bytes a segment has."""
        return self.stop(index) - self.start(index)

    def index_at(self, offset: int) -> int:
        """Return the segment that holds the byte at ``offset``."""
        return offset // self.segment_bytes

    def label(self, index: int) -> str:
        """Return what messages call the bytes of a segment."""
        return f"the bytes from {self.start(index):,}"


@dataclass(frozen=True)
class CutSegments(Segments):
    """A file cut where somebody says; ``segment_bytes`` is that of the longest segment.

    Attributes:
        starts: First byte of each segment, ascending from 0.
        labels: What messages call segments, where their offset says less.
    """

    starts: tuple[int, ...] = (0,)
    labels: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of_starts(cls, size_bytes: int, starts: Mapping[int, str | None]) -> CutSegments:
        """Cut a file.

        Args:
            size_bytes: Its length, at least one byte.
            starts: First byte of each segment, 0 among them, and what to call it; None for its
                offset.
        """
        ordered = sorted(start for start in starts if start < size_bytes)
        ends = [*ordered[1:], size_bytes]
        longest = max(end - start for start, end in zip(ordered, ends, strict=True))
        labels = {i: label for i, start in enumerate(ordered) if (label := starts[start])}
        return cls(size_bytes, longest, tuple(ordered), labels)

    def __len__(self) -> int:
        return len(self.starts)

    def start(self, index: int) -> int:
        """Return the offset of a segment's first byte."""
        return self.starts[index]

    def stop(self, index: int) -> int:
        """Return the offset after a segment's last byte."""
        return self.starts[index + 1] if index + 1 < len(self.starts) else self.size_bytes

    def index_at(self, offset: int) -> int:
        """Return the segment that holds the byte at ``offset``."""
        return bisect_right(self.starts, offset) - 1

    def label(self, index: int) -> str:
        """Return what messages call the bytes of a segment."""
        return self.labels.get(index) or super().label(index)


@dataclass(frozen=True)
class SegmentHashes:
    """SHA-256 of every segment of a whole file, in order."""

    segments: Segments
    hashes: tuple[str, ...]


@dataclass
class SegmentState:
    """A segment under way.

    Attributes:
        index: Which one.
        at: Offset in the file of the next byte that is missing.
        hasher: SHA-256 of the bytes before ``at``.
    """

    index: int
    at: int
    hasher: Any = field(default_factory=hashlib.sha256)


def merge_ranges(segments: Segments, indices: list[int]) -> list[tuple[int, int]]:
    """Return the byte ranges that segments cover, neighbours joined.

    For segments of 10 bytes, ``[0, 1, 5]`` gives ``[(0, 20), (50, 60)]``.
    """
    ranges: list[tuple[int, int]] = []
    for index in sorted(indices):
        start, stop = segments.start(index), segments.stop(index)
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
    return ranges
