"""Dot products of one quantised row with one activation row, 32 weights at a time.

``lanes(w, o, q, a, f, x, n)`` multiplies the ``n`` weights at byte ``o`` of the file with the
activation row at ``q[a:]`` and ``f[x:]`` (formats: ``activations``) and returns eight floats to add
up: what ``x512_rows`` returns, to the last bit, as both follow one definition of the sum.

``ops`` are the operations of the CPU (see ``row_ops``). What an unsigned weight is too large
by (8, 16, 32 ...) is taken off by the sums that the activation row carries.

Block layouts: ggml-common.h at ggml c2cdd2b2; the arithmetic is ours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gguf_hub.run.kernels.matmul.one_row import scales_of, small_of, sums_by_pairs
from gguf_hub.run.kernels.matmul.row_ops import RowOps
from gguf_hub.run.kernels.simd import simd
from gguf_hub.run.kernels.simd.simd import (
    concat,
    floats,
    fma,
    high_bits_of_two,
    low_bits_of_two,
    madd,
    maddubs,
    splat_f32x8,
    splat_i16x16,
    splat_i32x8,
)
from gguf_hub.run.kernels.simd.simd512 import load_i16x8_at, load_i16x16_at, shift_in, sum_of
from gguf_hub.run.kernels.simd.simd_memory import (
    get,
    load_f16,
    load_f32x8,
    load_i8x16,
    load_i8x32,
    load_strided_f16x8,
    load_u32,
    load_u64,
    prefetch_ahead,
)
from gguf_hub.run.kernels.simd.simd_sums import (
    add_neighbours_i32x8,
    alternate,
    high_halves,
    low_halves,
    packed_sums,
    shift_in_four,
    sums_of_four,
)
from gguf_hub.run.kernels.simd.vectors import machine_code

# -- blocks of 32 ---------------------------------------------------------------------------------


def small(
    type_size: int, dot, *, offset: int = 0, has_minimum: bool = False, scales=None, eight_sums=None
):  # fmt: skip
    """Return the dot product of a type with blocks of 32.

    Args:
        type_size: Bytes of a block, whose first half is the scale, the second perhaps the minimum.
        dot: ``(w, p, q, at)``: integers that add up to the weights of the block at ``p`` times the
            activations at ``at``.
        offset: What a weight is too large by.
        has_minimum: Whether a minimum follows the scale.
        scales: ``(w, p)`` of the scale of the block at ``p`` and of those of the eight there, where
            they are no halves at the beginning.
        eight_sums: ``(w, p, q, at)``: such sums of the eight blocks at ``p``, where they are found
            faster than by ``dot``.
    """

    def pair_of(k: int):
        """Return the products of blocks ``2 k`` and ``2 k + 1`` of eight."""

        @machine_code
        def pair(w, p, q, at):
            """Return the products of two blocks with 64 activations, side by side."""
            first = p + 2 * type_size * k
            return concat(dot(w, first, q, at), dot(w, first + type_size, q, at + 32))

        return pair

    def halves_at(at: int):
        """Return ``(w, p)``: the half at byte ``at`` of eight blocks, as an f32x8."""

        @machine_code
        def halves(w, p):
            """Return eight halves, ``type_size`` bytes apart, as an f32x8."""
            return load_strided_f16x8(w, p + at, type_size)

        return halves

    @machine_code
    def block_sum(w, p, q, at):
        """Return the sum of the block's 32 products, int32."""
        return sum_of(dot(w, p, q, at))

    scale, eight_scales = scales or (load_f16, halves_at(0))

    return small_of(
        type_size, eight_sums or sums_by_pairs(*map(pair_of, range(4))), block_sum,
        eight_scales, halves_at(2), offset=offset, has_minimum=has_minimum, scale=scale,
    )  # fmt: skip


def _q8_0(ops: RowOps):
    signed = ops.signed

    @machine_code
    def dot(w, p, q, at):
        """Multiply the 32 signed bytes behind the half."""
        return signed(load_i8x32(w, p + 2), q, at)

    return small(34, dot)


def _nibbles(type_size: int, *, offset: int = 0, has_minimum: bool = False, fifth_bits: int = 0):
    """Return the dot product, given ops, of a type whose blocks end in sixteen bytes of nibbles.

    All low nibbles come before all high ones. A block may have 32 fifth bits at ``fifth_bits``.
    """

    def lanes(ops: RowOps):
        """Return the dot product for a CPU's operations."""
        unsigned, bits = ops.unsigned, ops.bits

        @machine_code
        def dot(w, p, q, at):
            """Multiply nibbles, low ones as weights 0-15, plus 16 where their fifth bit is set."""
            packed = load_i8x16(w, p + type_size - 16)
            weights = concat(packed, packed >> 4) & 15
            if fifth_bits:
                weights = weights | bits(load_u32(w, p + fifth_bits), 16)
            return unsigned(weights, q, at)

        eight = _eight_by_16_bits(type_size, fifth_bits) if ops.adds_in_16_bits else None
        return small(type_size, dot, offset=offset, has_minimum=has_minimum, eight_sums=eight)

    return lanes


def _eight_by_16_bits(type_size: int, fifth_bits: int):
    """Return the sums of eight blocks of nibbles, perhaps with a fifth bit, as ``small`` takes it.

    A vector holds the low nibbles of two blocks, another the high ones. Their products are added as
    long as 16 bits surely hold the sums: of sixteen weights with four bits (16 x 15 x 127 =
    30,480), of eight with five.
    """

    @machine_code
    def pair(w, p, q, at):
        """Return 16-bit sums of two blocks: the first block's in the lower half of an i16x16."""
        first, second = p + type_size - 16, p + 2 * type_size - 16
        packed = concat(load_i8x16(w, first), load_i8x16(w, second))
        low, high = packed & 15, (packed >> 4) & 15
        if fifth_bits:
            a, b = load_u32(w, p + fifth_bits), load_u32(w, p + type_size + fifth_bits)
            low, high = low | low_bits_of_two(a, b, 16), high | high_bits_of_two(a, b, 16)
        x, y = load_i8x32(q, at), load_i8x32(q, at + 32)
        return maddubs(low, low_halves(x, y)) + maddubs(high, high_halves(x, y))

    @machine_code
    def eight(w, p, q, at):
        """Return block k's sum in lane k of an i32x8."""
        ones = splat_i16x16(1)
        ab, cd = pair(w, p, q, at), pair(w, p + 2 * type_size, q, at + 64)
        ef = pair(w, p + 4 * type_size, q, at + 128)
        gh = pair(w, p + 6 * type_size, q, at + 192)
        # of each vector, the first half belongs to blocks 0, 2, 4, 6
        first, last = packed_sums(ab, cd), packed_sums(ef, gh)
        if fifth_bits:
            return alternate(add_neighbours_i32x8(madd(first, ones), madd(last, ones)))
        return alternate(madd(packed_sums(first, last), ones))

    return eight


# -- blocks of 256 --------------------------------------------------------------------------------


# Scales in whole numbers, which are computed beside the vectors: as vectors, as x512_rows has them,
# they cost Q4_K a sixth of its speed.


@machine_code
def scales_mins_k4(w, p):
    """Return the eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K, a byte each.

    Twelve bytes at ``p``: the first four hold scales 0-3 in their low six bits, the next four
    minima 0-3; the last four hold the low nibbles of scales 4-7 and, above, of minima 4-7, whose
    two high bits are the two high bits of the first eight bytes.
    """
    a = np.uint64(load_u32(w, p))
    b = np.uint64(load_u32(w, p + 4))
    c = np.uint64(load_u32(w, p + 8))
    six, four, two = np.uint64(0x3F3F3F3F), np.uint64(0x0F0F0F0F), np.uint64(0x30303030)
    shift2, shift4, shift32 = np.uint64(2), np.uint64(4), np.uint64(32)
    scales = (a & six) | (((c & four) | ((a >> shift2) & two)) << shift32)
    mins = (b & six) | ((((c >> shift4) & four) | ((b >> shift2) & two)) << shift32)
    return scales, mins


@machine_code
def scales_q3(w, p):
    """Return the sixteen 6-bit scales of Q3_K, less 32, as i8x16.

    Twelve bytes: low nibbles of scales 0-7 below, of 8-15 above, in the first eight bytes; byte
    8 + j % 4 holds two more bits for each of the scales j, j + 4, j + 8, j + 12.
    """
    low = load_u64(w, p)
    top = np.uint64(load_u32(w, p + 8))
    four, two = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x03030303)
    shift2, shift4, shift32 = np.uint64(2), np.uint64(4), np.uint64(32)
    top_first = (top & two) | (((top >> shift2) & two) << shift32)
    top >>= shift4
    top_last = (top & two) | (((top >> shift2) & two) << shift32)
    first = (low & four) | (top_first << shift4)
    last = ((low >> shift4) & four) | (top_last << shift4)
    return concat(simd.i8x8_of(first), simd.i8x8_of(last)) - 32


def super_of(type_size: int, d_at: int, block, has_minima: bool, factor=None):
    """Return the dot product of a type with blocks of 256.

    Args:
        type_size: Bytes of a block.
        d_at: Byte of the block where its scale lies; that of the minima follows.
        block: ``(w, p, q, at, sums_16, sums_32)``: what adds up to the integer sum of the block at
            ``p``, and to that of its minima; the last two are where the activation block's sums of
            16 lie, and where its sums of 32 do.
        has_minima: Whether there are minima.
        factor: ``(w, p)``: the scale of the block at ``p``, where it is not the half at ``d_at``.
    """
    prefetch = prefetch_ahead(type_size)
    scale_of, eight_scales = scales_of(type_size, d_at, factor)

    @machine_code
    def block_of(w, o, q, a, n, b):
        """Prefetch ahead of the b-th block of a row; return its sums and those of its minima."""
        prefetch(w, o + type_size * b)
        sums_16 = a + n + 32 * b
        sums_32 = a + n + n // 8 + 16 * b
        return block(w, o + type_size * b, q, a + 256 * b, sums_16, sums_32)

    @machine_code
    def tail(w, o, q, a, f, x, n, total):
        """Add the last blocks, fewer than eight, to the first lanes."""
        blocks = n // 256
        d = low = splat_f32x8(0)
        sums = minima = splat_i32x8(0)
        first = blocks // 8 * 8
        for b in range(first, blocks):
            block_sum, block_minima = block_of(w, o, q, a, n, b)
            sums = shift_in(sums, sum_of(block_sum))
            d = shift_in(d, scale_of(w, o + type_size * b) * get(f, x + b))
            if has_minima:
                minima = shift_in(minima, sum_of(block_minima))
                scale = -load_f16(w, o + type_size * b + d_at + 2) * get(f, x + b)
                low = shift_in(low, scale)
        for _ in range(blocks, first + 8):
            sums, d = shift_in(sums, np.int32(0)), shift_in(d, np.float32(0))
            minima, low = shift_in(minima, np.int32(0)), shift_in(low, np.float32(0))
        if has_minima:
            total = fma(low, floats(minima), total)
        return fma(d, floats(sums), total)

    @machine_code
    def lanes(w, o, q, a, f, x, n):
        """Return the eight sums: block b goes to lane b % 8, minima before products."""
        blocks = n // 256
        total = splat_f32x8(0)
        for g in range(blocks // 8):
            sums = minima = splat_i32x8(0)
            for half in range(2):
                b = 8 * g + 4 * half
                s0, m0 = block_of(w, o, q, a, n, b)
                s1, m1 = block_of(w, o, q, a, n, b + 1)
                s2, m2 = block_of(w, o, q, a, n, b + 2)
                s3, m3 = block_of(w, o, q, a, n, b + 3)
                sums = shift_in_four(sums, sums_of_four(s0, s1, s2, s3))
                if has_minima:
                    minima = shift_in_four(minima, sums_of_four(m0, m1, m2, m3))
            p = o + 8 * type_size * g + d_at
            scale = load_f32x8(f, x + 8 * g)
            if has_minima:
                low = splat_f32x8(-1) * load_strided_f16x8(w, p + 2, type_size)
                total = fma(low * scale, floats(minima), total)
            total = fma(eight_scales(w, p - d_at) * scale, floats(sums), total)
        return tail(w, o, q, a, f, x, n, total) if blocks % 8 else total

    return lanes


def _q4_or_q5(ops: RowOps, type_size: int, has_fifth_bit: bool):
    zeros, add_scaled, pairs = ops.zeros, ops.add_scaled, ops.pairs
    nibbles = type_size - 128

    @machine_code
    def block(w, p, q, at, sums_16, sums_32):
        """Return integers that add up to scales x products, and to minima x sums of 32."""
        scales, mins = scales_mins_k4(w, p + 4)
        scale = simd.i16x8_from_u8(simd.i8x8_of(scales))
        total = zeros()
        if has_fifth_bit:
            fifth = load_i8x32(w, p + 16)
        for c in range(4):
            packed = load_i8x32(w, p + nibbles + 32 * c)
            even, odd = packed & 15, (packed >> 4) & 15
            if has_fifth_bit:
                even = even | (((fifth >> (2 * c)) & 1) << 4)
                odd = odd | (((fifth >> (2 * c + 1)) & 1) << 4)
            x = at + 64 * c
            total = add_scaled(total, even, q, x, scale, 2 * c)
            total = add_scaled(total, odd, q, x + 32, scale, 2 * c + 1)
        minima = pairs(simd.i16x8_from_u8(simd.i8x8_of(mins)), load_i16x8_at(q, sums_32))
        return total, minima

    return super_of(type_size, 0, block, has_minima=True)


def _less_offset_of(ops: RowOps, bits: int):
    """Return a function that takes off what weights are too large by, 2**bits.

    Its arguments are the sums of scale times weight times activation, the sixteen scales and where
    the activations' sums of sixteen lie.
    """
    pairs = ops.pairs

    @machine_code
    def less_offset(products, scale, q, sums_16):
        """Return ``products`` less ``2**bits`` times scale x the activations' sum of sixteen."""
        return products - (pairs(scale, load_i16x16_at(q, sums_16)) << bits)

    return less_offset


def _q6_k(ops: RowOps):
    zeros, add_halves, less_offset = ops.zeros, ops.add_scaled_halves, _less_offset_of(ops, 5)
    scales_as = ops.scales

    @machine_code
    def block(w, p, q, at, sums_16, sums_32):
        """Return integers that add up to the products, of four bits and two above; no minima."""
        scale = simd.i16x16_from_i8(load_i8x16(w, p + 192))
        scales = scales_as(scale)
        total = zeros()
        for half in range(2):
            first = load_i8x32(w, p + 64 * half)
            second = load_i8x32(w, p + 64 * half + 32)
            top = load_i8x32(w, p + 128 + 32 * half)
            x, k = at + 128 * half, 4 * half
            u = (first & 15) | ((top << 4) & 48)
            total = add_halves(total, u, q, x, scales, k)
            u = (second & 15) | ((top << 2) & 48)
            total = add_halves(total, u, q, x + 32, scales, k + 1)
            u = (first >> 4) | (top & 48)
            total = add_halves(total, u, q, x + 64, scales, k + 2)
            u = (second >> 4) | ((top >> 2) & 48)
            total = add_halves(total, u, q, x + 96, scales, k + 3)
        return less_offset(total, scale, q, sums_16), splat_i32x8(0)

    return super_of(210, 208, block, has_minima=False)


def _q3_k(ops: RowOps):
    zeros, add_halves, less_offset = ops.zeros, ops.add_scaled_halves, _less_offset_of(ops, 2)
    scales_as = ops.scales

    @machine_code
    def block(w, p, q, at, sums_16, sums_32):
        """Return integers that add up to the products, of two bits and a third above; no minima."""
        scale = simd.i16x16_from_i8(scales_q3(w, p + 96))
        scales = scales_as(scale)
        third = load_i8x32(w, p)
        total = zeros()
        for half in range(2):
            packed = load_i8x32(w, p + 32 + 32 * half)
            for j in range(4):
                k = 4 * half + j
                u = ((packed >> (2 * j)) & 3) | (((third >> k) & 1) << 2)
                total = add_halves(total, u, q, at + 32 * k, scales, k)
        return less_offset(total, scale, q, sums_16), splat_i32x8(0)

    return super_of(110, 108, block, has_minima=False)


def _q2_k(ops: RowOps):
    zeros, add_halves, pairs, scales_as = ops.zeros, ops.add_scaled_halves, ops.pairs, ops.scales

    @machine_code
    def block(w, p, q, at, sums_16, sums_32):
        """Return integers that add up to scales x products, and to minima x sums of 16."""
        factors = load_i8x16(w, p)
        scales = scales_as(simd.i16x16_from_i8(factors & 15))
        total = zeros()
        for half in range(2):
            packed = load_i8x32(w, p + 16 + 32 * half)
            for j in range(4):
                k = 4 * half + j
                u = (packed >> (2 * j)) & 3
                total = add_halves(total, u, q, at + 32 * k, scales, k)
        minima = pairs(simd.i16x16_from_i8(factors >> 4), load_i16x16_at(q, sums_16))
        return total, minima

    return super_of(84, 80, block, has_minima=True)


LANES_OF: dict[str, Callable[[RowOps], Callable]] = {
    "Q8_0": _q8_0,
    "Q4_0": _nibbles(18, offset=8),
    "Q4_1": _nibbles(20, has_minimum=True),
    "Q5_0": _nibbles(22, offset=16, fifth_bits=2),
    "Q5_1": _nibbles(24, has_minimum=True, fifth_bits=4),
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": lambda ops: _q4_or_q5(ops, 144, has_fifth_bit=False),
    "Q5_K": lambda ops: _q4_or_q5(ops, 176, has_fifth_bit=True),
    "Q6_K": _q6_k,
}
