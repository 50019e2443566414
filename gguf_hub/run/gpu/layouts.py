"""How weights lie on a GPU, and how they get there from the file.

The bytes of a matrix are moved, never changed: one field of all blocks becomes a *plane* of whole
elements, such as the 16 bytes that a thread loads at once. Eight neighbouring blocks of a row are
read by eight threads: where a plane has several elements for a block, the first ones of eight
blocks come first, then their second ones. Element j of m of block b of a row of ``nb`` blocks
lies at m * (nb * row + b // 8 * 8) + width * j + b % 8, where ``width`` is 8, or what is left of
the row. Take Q4_K, whose 128 bytes of quants are 8 elements, and block 9 of 20 of the first row:
element 2 is number 8 * 8 + 8 * 2 + 1 = 81 of the plane.

A buffer holds the tables of the type, if it has some, and then each matrix, plane after plane.
Planes begin at multiples of 16 bytes. Rows of floats are filled up with zeros to whole elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.gpu.kernels import WeightPart
from gguf_hub.run.kernels.generic import grids

_CHUNK_BYTES = 4 << 20  # what was freed is given out again, and the cache helps
_CACHED_BYTES = 1 << 18
"""Bytes of the file that are moved element by element while they are in the cache."""
_ROW_STEP = 16
"""Rows of a chunk are a multiple of this, so that each plane's share is of whole elements."""

T = QuantType


class Plane(NamedTuple):
    """One field of all blocks.

    Attributes:
        first: Byte of the block where the field begins.
        size: Its bytes.
        n_bytes: What it takes on the GPU, zeros behind it; a multiple of ``element``.
        element: Bytes that are moved as one.
    """

    first: int
    size: int
    n_bytes: int
    element: int


def _plane(first: int, size: int, element: int) -> Plane:
    return Plane(first, size, -(-size // element) * element, element)


def _natural(first: int, size: int) -> Plane:
    """Return a plane that has one element for each block."""
    return Plane(first, size, size, size)


def _words(type_: QuantType) -> tuple[Plane, ...]:
    return (_plane(0, type_.type_size, 4),)


PLANES: dict[QuantType, tuple[Plane, ...]] = {
    T.Q4_0: (_natural(2, 16), _natural(0, 2)),
    T.Q4_1: (_natural(4, 16), _natural(0, 4)),
    T.Q5_0: (_natural(6, 16), _natural(2, 4), _natural(0, 2)),
    T.Q5_1: (_natural(8, 16), _natural(4, 4), _natural(0, 4)),
    T.Q8_0: (_plane(2, 32, 16), _natural(0, 2)),
    T.Q2_K: (_plane(16, 64, 16), _natural(0, 16), _natural(80, 4)),
    T.Q3_K: (_plane(32, 64, 16), _plane(0, 32, 16), _plane(96, 14, 16)),
    T.Q4_K: (_plane(16, 128, 16), _natural(0, 16)),
    T.Q5_K: (_plane(48, 128, 16), _plane(16, 32, 16), _natural(0, 16)),
    T.Q6_K: (_plane(0, 128, 16), _plane(128, 64, 16), _natural(192, 16), _natural(208, 2)),
    T.IQ4_NL: (_natural(2, 16), _natural(0, 2)),
    T.IQ4_XS: (_plane(8, 128, 16), _natural(0, 8)),
    T.MXFP4: (_natural(1, 16), _natural(0, 1)),
    T.NVFP4: (_natural(4, 32), _natural(0, 4)),
    T.Q1_0: (_natural(2, 16), _natural(0, 2)),
    T.Q2_0: (_natural(2, 16), _natural(0, 2)),
    **{
        type_: _words(type_)
        for type_ in (
            T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S, T.TQ1_0, T.TQ2_0,
        )
    },
}  # fmt: skip
"""The planes of each type that has blocks."""

_FLOAT_ELEMENT = {T.F32: 32, T.F16: 16, T.BF16: 16}
"""Bytes of eight weights."""

TABLES: dict[QuantType, NDArray[np.uint32]] = {
    T.IQ1_S: grids.IQ1.view(np.uint32),
    T.IQ1_M: grids.IQ1.view(np.uint32),
    T.IQ2_XXS: grids.IQ2_XXS.view(np.uint32),
    T.IQ2_XS: grids.IQ2_XS.view(np.uint32),
    T.IQ2_S: grids.IQ2_S.view(np.uint32),
    T.IQ3_XXS: grids.IQ3_XXS.astype(np.uint32),
    T.IQ3_S: grids.IQ3_S.astype(np.uint32),
}
"""Words in front of the matrices, a multiple of four."""


def planes_of(part: WeightPart) -> tuple[Plane, ...]:
    """Return the planes of a part; a row of floats counts as one block."""
    if part.type in PLANES:
        return PLANES[part.type]
    n_bytes = part.type.row_bytes(part.n_in)
    element = _FLOAT_ELEMENT[part.type]
    padded = -(-n_bytes // element) * element
    return (Plane(0, n_bytes, padded, padded),)


def starts_of(part: WeightPart) -> tuple[int, ...]:
    """Return the byte of a matrix where each plane begins, and the bytes of all."""
    n_blocks = part.n_out * _blocks_of_row(part)
    starts = [0]
    for plane in planes_of(part):
        starts.append(starts[-1] + _up(plane.n_bytes * n_blocks))
    return tuple(starts)


def tables_bytes(type_: QuantType) -> int:
    """Return the bytes in front of the matrices."""
    return TABLES[type_].nbytes if type_ in TABLES else 0


def size_bytes(part: WeightPart) -> int:
    """Return the bytes of a part on a GPU."""
    return tables_bytes(part.type) + len(part.offsets) * starts_of(part)[-1]


def pack(part: WeightPart, file: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Yield (byte of the buffer, words to write there), some 4 MB at a time."""
    if part.type in TABLES:
        yield 0, TABLES[part.type]
    starts, planes = starts_of(part), planes_of(part)
    n_blocks, row_bytes = _blocks_of_row(part), part.type.row_bytes(part.n_in)
    step = max(_ROW_STEP, _CHUNK_BYTES // row_bytes // _ROW_STEP * _ROW_STEP)
    for i, offset in enumerate(part.offsets):
        base = tables_bytes(part.type) + starts[-1] * i
        for row in range(0, part.n_out, step):
            n_rows = min(step, part.n_out - row)
            first = offset + row_bytes * row
            blocks = file[first : first + row_bytes * n_rows].reshape(n_rows, n_blocks, -1)
            for plane, start in zip(planes, starts, strict=False):
                yield base + start + plane.n_bytes * n_blocks * row, _pack_plane(blocks, plane)


def _up(n: int) -> int:
    return -(-n // 16) * 16


def _blocks_of_row(part: WeightPart) -> int:
    return part.n_in // part.type.block_size if part.type in PLANES else 1


def _pack_plane(blocks: NDArray[np.uint8], plane: Plane) -> NDArray[np.uint32]:
    """Return one plane of some blocks, [rows, blocks, bytes], zeros behind it up to 16 bytes."""
    n_rows, n_blocks, block_bytes = blocks.shape
    n_bytes = n_rows * n_blocks * plane.n_bytes
    target = np.empty(_up(n_bytes), np.uint8)
    target[n_bytes:] = 0
    rows = target[:n_bytes].reshape(n_rows, -1)
    step = max(1, _CACHED_BYTES // (n_blocks * block_bytes))
    for row in range(0, n_rows, step):
        field = blocks[row : row + step, :, plane.first : plane.first + plane.size]
        if plane.n_bytes > plane.size:
            field = np.pad(field, ((0, 0), (0, 0), (0, plane.n_bytes - plane.size)))
        if plane.n_bytes == plane.element:
            _copy(rows[row : row + step].reshape(field.shape), field)
        else:
            _interleave(rows[row : row + step], field, plane.element)
    return target.view(np.uint32)


def _copy(target: NDArray[np.uint8], field: NDArray[np.uint8]) -> None:
    """Copy [rows, blocks, bytes], the first number of all blocks, then the second."""
    number = next(number for size, number in _NUMBERS.items() if field.shape[-1] % size == 0)
    to: NDArray[Any] = target.view(number)
    of: NDArray[Any] = field.view(number)
    if to.shape[-1] > 4:
        to[...] = of
        return
    for j in range(to.shape[-1]):
        to[..., j] = of[..., j]


def _interleave(rows: NDArray[np.uint8], field: NDArray[np.uint8], element: int) -> None:
    """Write [rows, bytes]: of eight blocks each their first elements, their second ones ..."""
    n_rows, n_blocks, n_bytes = field.shape
    full, m = n_blocks // 8 * 8, n_bytes // element
    for first, count, width in ((0, full // 8, 8), (full, 1, n_blocks - full)):
        if width * count == 0:
            continue
        end = first + width * count
        some: NDArray[Any] = field[:, first:end].view(_NUMBERS[element])
        place: NDArray[Any] = rows[:, first * n_bytes : end * n_bytes].view(_NUMBERS[element])
        some = some.reshape(n_rows, count, width, m)
        place = place.reshape(n_rows, count, m, width)
        for j in range(m):
            place[:, :, j] = some[..., j]


_NUMBERS: dict[int, Any] = {
    16: np.complex128, 8: np.uint64, 4: np.uint32, 2: np.uint16, 1: np.uint8,
}  # fmt: skip
"""Bytes -> a kind of number of this size; numpy copies it whole, whatever it means."""
