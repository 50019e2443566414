"""Byte ranges of a request.

Source: RFC 9110 sections 13.1.5 (If-Range) and 14.2 (Range).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class ByteRange:
    """Bytes from ``start`` to before ``stop`` of a file of ``size_bytes``."""

    start: int
    stop: int
    size_bytes: int

    @property
    def content_range(self) -> str:
        """The header that says what is sent, or that nothing can be."""
        if self.start >= self.size_bytes:
            return f"bytes */{self.size_bytes}"
        return f"bytes {self.start}-{self.stop - 1}/{self.size_bytes}"


def parse_range(
    text: str | None, size_bytes: int, *, if_range: str | None = None, etag: str = ""
) -> ByteRange | None:
    """Return the range that a request asks for.

    Args:
        text: The ``Range`` header.
        size_bytes: Size of the file.
        if_range: The ``If-Range`` header: a range is wanted only of the file with this ``etag``.
        etag: The file's strong validator, with quotes.

    Returns:
        None for the whole file: no range, several of them (which may be answered so), or one that
        cannot be read. A range that starts at the end of the file or after cannot be served.
    """
    match = _ONE_RANGE.fullmatch(text or "")
    if match is None or if_range not in (None, etag):
        return None
    first, last = match[1], match[2]
    if not first:
        if not last:
            return None
        n = min(int(last), size_bytes)  # the last n bytes
        return ByteRange(size_bytes - n, size_bytes, size_bytes)
    start, stop = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
    if last and int(last) < start:
        return None
    return ByteRange(start, stop, size_bytes)
