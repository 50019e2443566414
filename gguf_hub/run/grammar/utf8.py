"""Character ranges as ranges of UTF-8 bytes.

Source: the method of RE2 and of utf8-ranges: split a range where the encoded length changes, then
where the bytes after the first do not run from 80 to BF.
"""

from __future__ import annotations

from gguf_hub.run.grammar.gbnf import Ranges

ByteRanges = tuple[tuple[int, int], ...]
"""One (from, to) for each byte of a character."""


def byte_sequences(ranges: Ranges) -> list[ByteRanges]:
    """Return sequences of byte ranges that match the UTF-8 of exactly these code points.

    For example U+0061..U+00FF gives ``[61-7F]`` and ``[C2-C3][80-BF]``.
    """
    out: list[ByteRanges] = []
    for low, high in ranges:
        _split(low, high, out)
    return out


def _split(low: int, high: int, out: list[ByteRanges]) -> None:
    # 1) where the length changes, and around surrogates, which have no UTF-8
    for last in (0x7F, 0x7FF, 0xD7FF, 0xFFFF):
        if low <= last < high:
            _split(low, last, out)
            _split(last + 1, high, out)
            return
    if 0xD800 <= low <= 0xDFFF:
        if high > 0xDFFF:
            _split(0xE000, high, out)
        return
    # 2) where the last bytes do not run over all their values
    first, last_bytes = chr(low).encode(), chr(high).encode()
    for i in range(1, len(first)):
        tail = (1 << (6 * (len(first) - i))) - 1
        if (low & ~tail) != (high & ~tail):
            if low & tail:
                _split(low, low | tail, out)
                _split((low | tail) + 1, high, out)
                return
            if (high & tail) != tail:
                _split(low, (high & ~tail) - 1, out)
                _split(high & ~tail, high, out)
                return
    out.append(tuple(zip(first, last_bytes, strict=True)))
