"""Turning big-endian tensor data into little-endian, block by block.

Bytes stay bytes; only what ggml keeps in words of two or more bytes is turned round.

Source: the block structures in ggml/src/ggml-common.h at ggml commit c2cdd2b2. ``qh`` of Q5_0 and
Q5_1 is declared as four bytes, but written from one 32-bit word.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gguf_hub.gguf.copying import FileRange
from gguf_hub.gguf.types import QuantType

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_BYTES = 4 << 20

_PLAIN = {
    QuantType.I8: 1, QuantType.I16: 2, QuantType.F16: 2, QuantType.BF16: 2, QuantType.I32: 4,
    QuantType.F32: 4, QuantType.I64: 8, QuantType.F64: 8, QuantType.MXFP4: 1,
}  # fmt: skip
# offset in the block, bytes of a word, number of words
WORDS: dict[QuantType, tuple[tuple[int, int, int], ...]] = {
    **{type: ((0, width, type.type_size // width),) for type, width in _PLAIN.items() if width > 1},
    QuantType.I8: (),
    QuantType.MXFP4: (),
    QuantType.Q4_0: ((0, 2, 1),),
    QuantType.Q4_1: ((0, 2, 2),),
    QuantType.Q5_0: ((0, 2, 1), (2, 4, 1)),
    QuantType.Q5_1: ((0, 2, 2), (4, 4, 1)),
    QuantType.Q8_0: ((0, 2, 1),),
    QuantType.Q8_1: ((0, 2, 2),),
    QuantType.Q2_K: ((80, 2, 2),),
    QuantType.Q3_K: ((108, 2, 1),),
    QuantType.Q4_K: ((0, 2, 2),),
    QuantType.Q5_K: ((0, 2, 2),),
    QuantType.Q6_K: ((208, 2, 1),),
    QuantType.Q8_K: ((0, 4, 1), (260, 2, 16)),
}


def swap_blocks(raw: NDArray[np.uint8], type: QuantType) -> None:
    """Turn round the words of whole blocks, in place.

    Args:
        raw: ``uint8[n * type_size]``, writable.
        type: A type in ``WORDS``.
    """
    n = len(raw) // type.type_size
    for offset, width, count in WORDS[type]:
        strides = (type.type_size, width)
        words = np.ndarray((n, count), f"u{width}", raw, offset, strides)
        words[...] = words.byteswap()


def swap_ranges(ranges: tuple[FileRange, ...], type: QuantType) -> Iterator[NDArray[np.uint8]]:
    """Yield ranges of a file with their words turned round, always in the same buffer."""
    buffer = np.empty(CHUNK_BYTES // type.type_size * type.type_size, np.uint8)
    for file_range in ranges:
        for part in _read(file_range.path, file_range.offset, file_range.size_bytes, buffer):
            swap_blocks(part, type)
            yield part


def _read(
    path: Path, offset: int, size_bytes: int, buffer: NDArray[np.uint8]
) -> Iterator[NDArray[np.uint8]]:
    """Yield a range in chunks of the buffer's length; a file that ends early ends it."""
    with path.open("rb") as file:
        file.seek(offset)
        while size_bytes:
            part = buffer[: min(size_bytes, len(buffer))]
            if file.readinto(part.data) < len(part):
                return
            yield part
            size_bytes -= len(part)
