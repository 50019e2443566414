"""What weight tiles are, and those that several types share; see ``weight_tiles``.

A weight tile holds one *lane* of 32 weight rows: blocks lane, lane + 8, lane + 16 ... of each row.
For each block and each sixteen of the rows it has a record: the weights as bytes, [4 weights][row]
[4 bytes], then what goes with them, vectors with an element for each row.

Sums are those of ``x512_rows`` and ``x256_rows``, to the last bit: the integer sum of a block is
exact, and each block adds to its lane's float sum by one ``fma``, in ascending order. ``ops`` are
the operations of the CPU (see ``tile_ops``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gguf_hub.gguf.memory.scratch import COLUMN_BYTES, LANES
from gguf_hub.run.kernels.matmul.tile_ops import TileOps
from gguf_hub.run.kernels.simd.simd_columns import (
    load_halves,
    load_words,
    low_halves,
    splat_i32x16,
)
from gguf_hub.run.kernels.simd.simd_memory import prefetch
from gguf_hub.run.kernels.simd.simd_tiles import add_floats, add_minima, store_packed
from gguf_hub.run.kernels.simd.vectors import machine_code


@dataclass(frozen=True)
class WeightTileType:
    """How the weight tile of a type is laid out, filled and multiplied.

    Attributes:
        block: Weights of a block.
        type_size: Bytes of a block in the file.
        record: Bytes of a block of sixteen rows in a weight tile.
        unpack: ``(w, o, row_bytes, q, p)``: write the record at ``q[p:]`` of the block at byte
            ``o`` and of those in the fifteen rows after it.
        multiply: ``(total, q, p, qs, f, fs, b, blocks)``: add the block of both records at
            ``q[p:]`` times block ``b`` of ``blocks`` of each token to the tile ``total``.
        parts: How many such blocks, which activations have, a block in the file spans; which of
            them is meant ``unpack`` then takes as its last argument.
    """

    block: int
    type_size: int
    record: int
    unpack: Callable
    multiply: Callable
    parts: int = 1


def lanes_of(tile_type: WeightTileType, ops: TileOps) -> tuple[Callable, Callable]:
    """Return the unpacking of one lane of 32 rows, and its product with a tuple of tokens."""
    zeros_f32 = ops.zeros_f32
    block, type_size, record = tile_type.block, tile_type.type_size, tile_type.record
    assert 2 * record <= COLUMN_BYTES * block
    unpack_part, multiply_block, parts = tile_type.unpack, tile_type.multiply, tile_type.parts
    if parts == 1:
        unpack_whole = tile_type.unpack

        @machine_code
        def unpack_part(w, o, row_bytes, q, p, part):
            """Write a whole block: it has but one part."""
            unpack_whole(w, o, row_bytes, q, p)

    @machine_code
    def prefetch_next(w, ahead, lines, i):
        """Prefetch some cache lines of the next tile's rows, at each block."""
        for line in range(lines):
            prefetch(w, ahead + 64 * (lines * i + line))

    @machine_code
    def unpack(w, o, row_bytes, n, lane, q, packed, ahead, lines):
        """Write blocks lane, lane + 8 ... of 32 rows of ``n`` weights to ``q[packed:]``."""
        for i in range((n // block - lane + LANES - 1) // LANES):
            prefetch_next(w, ahead, lines, i)
            b = lane + LANES * i
            at = o + type_size * (b // parts)
            p = packed + 2 * record * i
            unpack_part(w, at, row_bytes, q, p, b % parts)
            unpack_part(w, at + 16 * row_bytes, row_bytes, q, p + record, b % parts)

    @machine_code
    def multiply(n, lane, q, packed, qs, f, fs, w, ahead, lines):
        """Return the products of the lane with a tuple of tokens, a tile that begins at zero."""
        total = zeros_f32(qs)
        blocks = n // block
        for i in range((blocks - lane + LANES - 1) // LANES):
            prefetch_next(w, ahead, lines, i)
            p = packed + 2 * record * i
            total = multiply_block(total, q, p, qs, f, fs, lane + LANES * i, blocks)
        return total

    return unpack, multiply


def small(
    ops: TileOps, type_size: int, unpack_weights: Callable, multiply_32: Callable,
    *, offset: int = 0, has_minimum: bool = False, load_scales: Callable = load_halves,
) -> WeightTileType:  # fmt: skip
    """Return the weight tile of a type with blocks of 32.

    Args:
        ops: See ``tile_ops``.
        type_size: Bytes of a block, whose first half is the scale, the second perhaps the minimum.
        unpack_weights: ``(w, o, row_bytes, q, p)``: write the bytes.
        multiply_32: ``(total, q, p, record, qs, at)``: add their products with activations.
        offset: What a byte is too large by.
        has_minimum: Whether a minimum follows the scale.
        load_scales: ``(w, o, row_bytes)``: the scales of sixteen rows, where there is no minimum.
    """
    d = 512
    record = d + 64 + 64 * has_minimum
    splat_sums, zeros_i32 = ops.splat_sums, ops.zeros_i32

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        """Write a block of sixteen rows: bytes, then scales and perhaps minima as float32."""
        unpack_weights(w, o, row_bytes, q, p)
        if has_minimum:
            halves = load_words(w, o, row_bytes)
            store_packed(q, p + d, low_halves(halves))
            store_packed(q, p + d + 64, low_halves(halves >> 16))
        else:
            store_packed(q, p + d, load_scales(w, o, row_bytes))

    @machine_code
    def multiply(total, q, p, qs, f, fs, b, blocks):
        """Add a block's integer sums times both scales to ``total``, then minima times sums."""
        sums = splat_sums(q, qs, 32 * blocks + 4 * b, -offset) if offset else zeros_i32(qs)
        sums = multiply_32(sums, q, p, record, qs, 32 * b)
        total = add_floats(total, sums, q, p + d, record, f, fs, b)
        if has_minimum:
            total = add_minima(total, q, p + d + 64, record, f, fs, blocks + b)
        return total

    return WeightTileType(32, type_size, record, unpack, multiply)


@machine_code
def store_pair(q, p, first, second):
    """Write the low 16 bits of two vectors as pairs."""
    store_packed(q, p, (first & 0xFFFF) | (second << 16))


def by_groups(
    ops: TileOps, type_size: int, unpack_weights: Callable, multiply_groups: Callable,
    *, group: int, offset: int,
) -> WeightTileType:  # fmt: skip
    """Return the weight tile of a type whose groups have signed scales and no minima.

    Args:
        ops: See ``tile_ops``.
        type_size: Bytes of a block.
        unpack_weights: ``(w, o, row_bytes, q, p, store_four)``: write the bytes and return d.
        multiply_groups: Adds products times their groups' scales (``TileOps.scaled``).
        group: Weights of a group, 16 or 32.
        offset: What a byte is too large by.
    """
    groups = 256 // group
    zeros_i32, multiply_pairs, scale_of = ops.zeros_i32, ops.pairs(groups // 2), ops.scale
    pairs = 4096 + 64 * groups
    d = pairs + 32 * groups
    record = d + 64
    sums_of = 0 if group == 16 else 32  # sums of 32 lie behind those of 16

    @machine_code
    def store_four(q, p, j, scales):
        """Write the scales of groups 4 j to 4 j + 3, and offsets times them."""
        for i in range(4):
            store_packed(q, p + 4096 + 256 * j + 64 * i, scale_of(scales[i]))
        less = splat_i32x16(-offset)
        for i in range(2):
            at = p + pairs + 128 * j + 64 * i
            store_pair(q, at, scales[2 * i] * less, scales[2 * i + 1] * less)

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        """Write a block of sixteen rows: bytes, scales, offsets x scales, then d as float32."""
        store_packed(q, p + d, unpack_weights(w, o, row_bytes, q, p, store_four))

    @machine_code
    def multiply(total, q, p, qs, f, fs, b, blocks):
        """Add d times the sum of scale x products, the offset taken off in integers before."""
        sums = zeros_i32(qs)
        if offset:
            sums_at = 256 * blocks + sums_of * blocks + 2 * groups * b
            sums = multiply_pairs(sums, q, p + pairs, record, qs, sums_at)
        sums = multiply_groups(sums, q, p, p + 4096, record, qs, 256 * b)
        return add_floats(total, sums, q, p + d, record, f, fs, b)

    return WeightTileType(256, type_size, record, unpack, multiply)
