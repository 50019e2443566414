"""Bodies that clients have compressed."""

from __future__ import annotations

import zlib

from starlette.exceptions import HTTPException

ENCODINGS = ("gzip", "x-gzip")
"""Values of ``Content-Encoding`` that are read; the second is the first one's old name."""

_GZIP_BITS = 16 + zlib.MAX_WBITS


class Unpacker:
    """Unpacks a gzip stream that comes in parts.

    Args:
        max_bytes: The most bytes that are unpacked, and one more by which this is seen.
    """

    def __init__(self, max_bytes: int) -> None:
        self._stream = zlib.decompressobj(_GZIP_BITS)
        self._n_left = max_bytes + 1

    def feed(self, data: bytes, *, is_last: bool) -> bytes:
        """Return what a part unpacks to.

        Raises:
            HTTPException: The stream is damaged, or ends too early or too late.
        """
        try:
            unpacked = self._stream.decompress(data, self._n_left) if self._n_left else b""
        except zlib.error as exc:
            raise _damaged("it cannot be unpacked") from exc
        self._n_left -= len(unpacked)
        if self._stream.unused_data:
            raise _damaged("something follows its end")
        if is_last and self._n_left and not self._stream.eof:
            raise _damaged("it breaks off")
        return unpacked


def _damaged(what: str) -> HTTPException:
    return HTTPException(400, f"the body is no gzip stream as `Content-Encoding` says: {what}")
