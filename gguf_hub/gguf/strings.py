"""String arrays of GGUF metadata, found in one pass and decoded only when somebody asks.

A vocabulary holds 32,000 strings or more, and most commands never look at them.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from gguf_hub.printable import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray


_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def decode(raw: bytes) -> str:
    """Return bytes as text; bytes that are not UTF-8 survive as surrogates (see ``encode``)."""
    return raw.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """Return the bytes that ``decode`` made the text from."""
    return text.encode("utf-8", "surrogateescape")


def valid(text: str) -> str:
    """Return text with U+FFFD for the bytes that are not UTF-8."""
    return text if text.isascii() else encode(text).decode("utf-8", "replace")


def is_utf8(text: str) -> bool:
    """Return whether text that ``decode`` made came from valid UTF-8."""
    return text.isascii() or not _NOT_UTF8.search(text)


def shown(text: str) -> str:
    """Return text for a message: short, and nothing that moves a terminal's cursor."""
    return printable(text[:80]) + ("..." if len(text) > 80 else "")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


_FAR = 2**64 - 1
"""Past the end of any file, and the most that ``array("Q")`` holds."""


class StringArray(Sequence[str]):
    """A read-only array of strings that lies in a buffer.

    Args:
        buffer: Holds the strings, each behind its length prefix.
        starts: Position of each prefix and, last, the end of the array.
        prefix: A length prefix: ``<Q``; ``>Q`` in big-endian files, four bytes in GGUF v1.
    """

    __slots__ = ("_buffer", "_prefix", "_prefix_bytes", "_starts")

    def __init__(self, buffer: Any, starts: Sequence[int], prefix: struct.Struct) -> None:
        self._buffer = buffer
        self._starts = starts
        self._prefix = prefix
        self._prefix_bytes = prefix.size

    @classmethod
    def of(cls, texts: Iterable[str]) -> StringArray:
        """Return an array of its own for some texts."""
        parts, starts, at = [], array("Q", [0]), 0
        for text in texts:
            raw = encode(text)
            parts += [len(raw).to_bytes(8, "little"), raw]
            at += 8 + len(raw)
            starts.append(at)
        return cls(b"".join(parts), starts, struct.Struct("<Q"))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Decode one string, or a list of them."""
        if isinstance(index, slice):
            return [decode(self.bytes_at(i)) for i in range(*index.indices(len(self)))]
        return decode(self.bytes_at(index))

    def bytes_at(self, index: int) -> bytes:
        """Return the bytes of one string."""
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"string {index} of {n}")
        index %= n
        return bytes(
            self._buffer[self._starts[index] + self._prefix_bytes : self._starts[index + 1]]
        )

    def first(self, n: int) -> StringArray:
        """Return the first strings, in the same buffer."""
        return StringArray(self._buffer, self._starts[: n + 1], self._prefix)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts_at_once() or [decode(raw) for raw in self.iter_bytes()])

    def _texts_at_once(self) -> list[str]:
        """Return all strings, decoded in one go: three times as fast; none where that cannot be.

        Each prefix becomes one NUL, at which the whole is cut, unless a string holds one itself.
        """
        starts = np.frombuffer(array("Q", self._starts), np.uint64).astype(np.int64)
        prefixes = starts[:-1] - starts[0]
        region = np.frombuffer(bytes(self._buffer[starts[0] : starts[-1]]), np.uint8).copy()
        is_kept = np.ones(len(region), bool)
        for i in range(1, self._prefix_bytes):
            is_kept[prefixes + i] = False
        region[prefixes] = 0
        texts = decode(region[is_kept].tobytes()).split("\0")[1:]
        return texts if len(texts) == len(self) else []

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield the bytes of each string."""
        first, last = self._starts[0], self._starts[-1]
        # one copy of the whole region is a small fraction of 32,000 slices of a memory map
        region = bytes(self._buffer[first:last])
        begin = first - self._prefix_bytes
        starts = iter(self._starts)
        low = next(starts)
        for high in starts:
            yield region[low - begin : high - first]
            low = high

    def lengths(self) -> NDArray[np.int64]:
        """Return the bytes of each string as an array ``[n]``."""
        starts = np.frombuffer(array("Q", self._starts), np.uint64).astype(np.int64)
        return np.diff(starts) - self._prefix_bytes

    def copy(self) -> StringArray:
        """Return an array with a buffer of its own."""
        first, last = self._starts[0], self._starts[-1]
        starts = array("Q")
        starts.frombytes((np.array(self._starts, np.uint64) - np.uint64(first)).tobytes())
        return StringArray(bytes(self._buffer[first:last]), starts, self._prefix)

    def packed(self, prefix: struct.Struct) -> bytes | None:
        """Return the array as it stands in a file, or None where the file's prefixes differ."""
        if prefix.format != self._prefix.format:
            return None
        return bytes(self._buffer[self._starts[0] : self._starts[-1]])

    def not_utf8(self) -> list[int]:
        """Return the indices of the strings that are not UTF-8."""
        region = bytes(self._buffer[self._starts[0] : self._starts[-1]])
        lengths = self.lengths()
        # a length below 128 reads as ASCII, so the whole region is text when every string is
        if not lengths.size or (lengths.max() < 128 and _is_utf8(region)):
            return []
        return [i for i, raw in enumerate(self.iter_bytes()) if not _is_utf8(raw)]

    def __eq__(self, other: object) -> bool:
        """Compare with any sequence of str."""
        if isinstance(other, StringArray):
            packed = other.packed(self._prefix)
            if packed is not None:
                return len(self) == len(other) and self.packed(self._prefix) == packed
            return len(self) == len(other) and all(
                a == b for a, b in zip(self.iter_bytes(), other.iter_bytes(), strict=True)
            )
        if isinstance(other, (list, tuple)):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"StringArray([{shown}{', ...' if len(self) > 3 else ''}], n={len(self)})"


def walk(
    buffer: Any, at: int, count: int, unpack: Callable[[Any, int], tuple[Any, ...]], prefix: int
) -> array[int]:
    """Find where each of ``count`` strings starts; stops early where the buffer ends.

    Args:
        buffer: Holds the array from ``at`` on.
        at: Position of the first length prefix.
        count: How many strings the file announces.
        unpack: ``struct.Struct(...).unpack_from`` for a length prefix.
        prefix: Bytes of a length prefix.

    Returns:
        Positions of the prefixes and the end: ``count + 1`` numbers, fewer when a prefix lies
        outside of the buffer; the last one may then lie anywhere.
    """
    starts = array("Q", [at])
    append = starts.append
    try:
        for _ in range(count):
            at += prefix + unpack(buffer, at)[0]
            append(at)
    except struct.error:
        # no room for a prefix where the last string ends
        pass
    except OverflowError:
        # a length near 2**64: its string ends beyond any file, and so the last start must lie
        if at > _FAR:
            append(_FAR)
    return starts
