"""Dot products of one row with one token, of types whose weights are codes.

As ``x256_rows`` and ``x512_rows``, whose definition of the sum holds here too; see ``CodedType``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gguf_hub.run.kernels.build.cpu import is_compiled_for
from gguf_hub.run.kernels.generic.coded import CodedType, table_of
from gguf_hub.run.kernels.matmul import grid_rows, x256_rows, x512_rows
from gguf_hub.run.kernels.matmul.grid_rows import GRID_TYPES
from gguf_hub.run.kernels.matmul.one_row import scales_of
from gguf_hub.run.kernels.matmul.row_ops import RowOps
from gguf_hub.run.kernels.simd import simd
from gguf_hub.run.kernels.simd.simd import (
    concat,
    f32x8_of,
    floats,
    fma,
    i8x32_of,
    splat_f32x8,
    splat_i32x8,
)
from gguf_hub.run.kernels.simd.simd512 import (
    bytes_of_eight,
    dpbusd,
    dpwssd,
    filled_to,
    halves_from,
    load_i8x64,
    load_i16x8_at,
    load_i16x16_at,
    maddubs,
    pairs_twice,
    permute,
    quarters_from,
    shift_in,
    splat_halves,
    sum_of,
    widened,
    with_zeros,
    zeros_i32x16,
)
from gguf_hub.run.kernels.simd.simd_lookup import by_pshufb
from gguf_hub.run.kernels.simd.simd_memory import get, load_i8x16, load_u32, strided_u8x8
from gguf_hub.run.kernels.simd.vectors import machine_code


def lanes_of(coded: CodedType, ops: RowOps) -> Callable:
    """Return the ``lanes`` of ``x256_rows`` for a type."""
    if coded.scale:
        return _super_256(coded, ops)
    if coded.nibbles is None:
        return _spanning(coded, ops)
    is_signed = coded.largest > 127
    if is_signed:
        coded = replace(coded, offset=0)
    thirty_two, products = _thirty_two_of(coded, ops), ops.signed if is_signed else ops.unsigned

    @machine_code
    def dot(w, p, q, at):
        """Return integers that add up to the 32 weights times the activations at ``q[at:]``."""
        return products(thirty_two(w, p, 0), q, at)

    scales = _scales_of_short(coded, strided_u8x8)
    return x256_rows.small(coded.type.type_size, dot, offset=coded.offset, scales=scales)


def lanes_512_of(coded: CodedType, ops: RowOps) -> Callable:
    """Return the ``lanes`` of ``x512_rows``; ``ops`` are those of AVX2, for types without."""
    if coded.scale:
        return _super_512(coded, ops)
    return lanes_of(coded, ops) if coded.nibbles is None else _small_512(coded, ops)


# -- weights and scales ----------------------------------------------------------------------------


def _thirty_two_of(coded: CodedType, ops: RowOps) -> Callable:
    """Return ``(w, p, k)``: weights 32 k ... 32 k + 31 of the block at ``p``, plus the offset."""
    eight = coded.eight
    if coded.table is None:

        @machine_code
        def thirty_two(w, p, k):
            """Return the weights as an i8x32: ``codes ^ flips``, plus one where flipped."""
            c0, f0 = eight(w, p, 4 * k)
            c1, f1 = eight(w, p, 4 * k + 1)
            c2, f2 = eight(w, p, 4 * k + 2)
            c3, f3 = eight(w, p, 4 * k + 3)
            flips = i8x32_of(f0, f1, f2, f3)
            return (i8x32_of(c0, c1, c2, c3) ^ flips) + (flips & 1)

        return thirty_two
    lookup, nibbles = ops.lookup(table_of(coded)), coded.nibbles or 0

    @machine_code
    def of_table(w, p, k):
        """Return the weights as an i8x32: nibbles, low ones first, looked up in the table."""
        packed = load_i8x16(w, p + nibbles + 16 * k)
        return lookup(concat(packed & 15, packed >> 4))

    return of_table


def _scales_of(coded: CodedType) -> Callable:
    """Return ``(w, p)``: the scales of a block of 256 as eight or sixteen int16."""
    scale = coded.scale

    @machine_code
    def eight(w, p, first):
        """Return scales ``first`` to ``first + 7`` as the bytes of an i8x8."""
        scales = np.uint64(0)
        for j in range(8):
            byte = np.uint64(np.int64(scale(w, p, first + j)) & 255)
            scales |= byte << np.uint64(8 * j)
        return simd.i8x8_of(scales)

    @machine_code
    def scales_8(w, p):
        """Return the scales of groups of 32 as an i16x8, sign-extended."""
        return simd.i16x8_from_i8(eight(w, p, 0))

    @machine_code
    def scales_16(w, p):
        """Return the scales of groups of 16 as an i16x16, sign-extended."""
        return simd.i16x16_from_i8(concat(eight(w, p, 0), eight(w, p, 8)))

    return scales_8 if coded.group == 32 else scales_16


def _scale_of(coded: CodedType) -> Callable | None:
    """Return ``(w, p)``: the factor of a block; None where it is the half at its beginning."""
    factor = coded.factor
    if coded.type.name == "IQ4_NL":
        return None

    @machine_code
    def scale(w, p):
        """Return the factor of the block at ``p``, float32, which its groups share."""
        return factor(w, p, 0)

    return scale


# -- blocks of 256 ---------------------------------------------------------------------------------


def _super_256(coded: CodedType, ops: RowOps) -> Callable:
    if coded.largest > 127:
        coded, add = replace(coded, offset=0), ops.add_scaled_signed
    else:
        add = ops.add_scaled if coded.group == 32 else ops.add_scaled_halves
    begin, thirty_two, scales = _reader_of(coded, ops)
    zeros, pairs, offset, is_wide = ops.zeros, ops.pairs, coded.offset, coded.group == 32
    scales_as = ops.scales

    if is_wide:

        @machine_code
        def surplus(scale, q, sums_16, sums_32):
            """Return integers that add up to each scale times the activations' sum of its 32."""
            return pairs(scale, load_i16x8_at(q, sums_32))

    else:

        @machine_code
        def surplus(scale, q, sums_16, sums_32):
            """Return integers that add up to each scale times the activations' sum of its 16."""
            return pairs(scale, load_i16x16_at(q, sums_16))

    @machine_code
    def block(w, p, q, at, sums_16, sums_32):
        """Return integers that add up to the products, the offset taken off; no minima."""
        scale, begun = scales(w, p), begin(w, p)
        total, factors = zeros(), scales_as(scale)
        for k in range(8):
            total = add(total, thirty_two(w, p, k, begun), q, at + 32 * k, factors, k)
        if offset:
            less = filled_to(total, surplus(scale, q, sums_16, sums_32))
            total = total - less * offset
        return total, splat_i32x8(0)

    return x256_rows.super_of(
        coded.type.type_size, 0, block, has_minima=False, factor=_scale_of(coded)
    )


def _reader_of(coded: CodedType, ops: RowOps) -> tuple[Callable, Callable, Callable]:
    """Return what reads a block of 256: what is read once, its weights by 32, its scales."""
    if coded.type in GRID_TYPES:
        grid = GRID_TYPES[coded.type]
        return grid.signs, grid_rows.thirty_two_of(coded.eight), grid.scales
    plain = _thirty_two_of(coded, ops)

    @machine_code
    def nothing(w, p):
        """Return None: there is nothing to read once for a block."""
        return None

    @machine_code
    def thirty_two(w, p, k, begun):
        """Return weights 32 k to 32 k + 31 of the block; ``begun`` is None."""
        return plain(w, p, k)

    return nothing, thirty_two, _scales_of(coded)


def _super_512(coded: CodedType, ops: RowOps) -> Callable:
    add, offset = _add_512(coded), coded.offset
    begin, weights_of, scales = _weights_512(coded, ops)
    is_wide = coded.group == 32

    @machine_code
    def block(w, p, q, at, sums_16, sums_32):
        """Return sixteen and eight integers, as ``x512_rows.super_of`` takes them for an offset."""
        scale, begun = scales(w, p), begin(w, p)
        total = zeros_i32x16()
        for i in range(4):
            total = add(total, weights_of(w, p, i, begun), load_i8x64(q, at + 64 * i), scale, i)
        if is_wide:
            return total, with_zeros(simd.madd(scale, load_i16x8_at(q, sums_32)))
        return total, simd.madd(scale, load_i16x16_at(q, sums_16))

    return x512_rows.super_of(
        coded.type.type_size, 0, block, offset=offset, factor=_scale_of(coded)
    )


def _weights_512(coded: CodedType, ops: RowOps) -> tuple[Callable, Callable, Callable]:
    """Return as ``_reader_of``, weights by 64."""
    if coded.type in GRID_TYPES and is_compiled_for("avx512vbmi"):
        grid = GRID_TYPES[coded.type]
        return grid.begin, grid_rows.sixty_four, grid.scales
    begin, thirty_two, scales = _reader_of(coded, ops)

    @machine_code
    def sixty_four(w, p, i, begun):
        """Return weights 64 i to 64 i + 63 of the block as an i8x64, joined of two i8x32."""
        return concat(thirty_two(w, p, 2 * i, begun), thirty_two(w, p, 2 * i + 1, begun))

    return begin, sixty_four, scales


def _add_512(coded: CodedType) -> Callable:
    """Return ``(total, weights, x, scale, i)``: add the products of 64 weights, times scales."""
    if coded.largest > 127:

        @machine_code
        def add_wide(total, weights, x, scale, i):
            """Add by ``vpdpbusd``: two products of bytes above 127 would not fit into 16 bits."""
            return total + dpbusd(zeros_i32x16(), weights, x) * splat_halves(scale, i)

        return add_wide
    is_wide = coded.group == 32

    @machine_code
    def add(total, weights, x, scale, i):
        """Add by ``vpmaddubsw`` to 16 bits, then ``vpdpwssd`` with its scale."""
        lanes = halves_from(2 * i) if is_wide else quarters_from(4 * i)
        return dpwssd(total, maddubs(weights, x), permute(widened(scale), lanes))

    return add


# -- short blocks ----------------------------------------------------------------------------------


def _scales_of_short(coded: CodedType, first_bytes: Callable) -> tuple[Callable, Callable] | None:
    """Return ``(w, p)`` of the factor of a block and of eight; None where they are halves.

    ``first_bytes`` makes of a block's size ``(w, p)``, which loads the first bytes of eight.
    """
    factor = _scale_of(coded)
    if factor is None or coded.type.name != "MXFP4":
        return factor and scales_of(coded.type.type_size, 0, factor)
    exponents = first_bytes(coded.type.type_size)

    @machine_code
    def eight(w, p):
        """As ``e8m0_half``, of eight bytes: exponents below 2 are of subnormal numbers."""
        e = exponents(w, p)
        is_small = splat_i32x8(0) - ((e - 2) >> 31)
        normal, small = (e - 1) << 23, (e + 1) << 21
        return f32x8_of(normal ^ ((normal ^ small) & is_small))

    return factor, eight


def _small_512(coded: CodedType, ops: RowOps) -> Callable:
    lookup = by_pshufb(64)(table_of(coded))
    thirty_two, nibble = _thirty_two_of(coded, ops), x512_rows.nibble

    @machine_code
    def one(w, p):
        """Return the 32 weights of the block at ``p`` as an i8x32, plus the offset."""
        return thirty_two(w, p, 0)

    def pair_of(load: Callable) -> Callable:
        """Return ``(w, p)``: the weights of two blocks; ``load`` is one of ``pairs_twice``."""

        @machine_code
        def pair(w, p):
            """Return two blocks' weights as an i8x64; of each block low nibbles come first."""
            return lookup(nibble(load(w, p), 0, 4, 0, 4))

        return pair

    type_size = coded.type.type_size
    pairs = [pair_of(load) for load in pairs_twice(type_size, coded.nibbles)]
    scales = _scales_of_short(coded, bytes_of_eight)
    return x512_rows.small(type_size, pairs, one, offset=coded.offset, scales=scales)


def _spanning(coded: CodedType, ops: RowOps) -> Callable:
    """Return the dot product of a type whose blocks span several of the activations'.

    Of 32 weights, one product goes to a lane, or two where groups of 16 have factors of their own.
    """
    type_size, parts, factor = coded.type.type_size, coded.type.block_size // 32, coded.factor
    groups = 32 // coded.group
    group_sum = _group_sum_of(coded, ops)

    @machine_code
    def lanes(w, o, q, a, f, x, n):
        """Return the eight sums; block b of the activations goes to lane b % 8."""
        blocks = n // 32
        total = splat_f32x8(0)
        for first in range(0, blocks, 8):
            for j in range(groups):
                d, sums = splat_f32x8(0), splat_i32x8(0)
                for b in range(first, min(first + 8, blocks)):
                    p, g = o + type_size * (b // parts), groups * (b % parts) + j
                    sums = shift_in(sums, group_sum(w, p, g, q, a + 32 * b, a + n + 4 * b))
                    d = shift_in(d, factor(w, p, g) * get(f, x + b))
                for _ in range(blocks, first + 8):
                    sums, d = shift_in(sums, np.int32(0)), shift_in(d, np.float32(0))
                total = fma(d, floats(sums), total)
        return total

    return lanes


def _group_sum_of(coded: CodedType, ops: RowOps) -> Callable:
    """Return ``(w, p, g, q, at, sums)``: the integer sum of group ``g`` of the block at ``p``."""
    if coded.group == 32:
        thirty_two, unsigned, offset = _thirty_two_of(coded, ops), ops.unsigned, coded.offset

        @machine_code
        def of_32(w, p, g, q, at, sums):
            """Return the sum of the 32 products, less the offset times the activations' sum."""
            products = sum_of(unsigned(thirty_two(w, p, g), q, at))
            return products - np.int32(load_u32(q, sums)) * np.int32(offset)

        return of_32
    lookup, signed, eight = ops.lookup(table_of(replace(coded, offset=0))), ops.signed, coded.eight

    @machine_code
    def of_16(w, p, g, q, at, sums):
        """Weights of the other half of the 32 are zeros: code 0 of a table of floats."""
        first, _ = eight(w, p, 2 * g)
        last, _ = eight(w, p, 2 * g + 1)
        none, is_last = np.uint64(0), g % 2 == 1
        codes = i8x32_of(
            none if is_last else first, none if is_last else last,
            first if is_last else none, last if is_last else none,
        )  # fmt: skip
        return sum_of(signed(lookup(codes), q, at))

    return of_16
