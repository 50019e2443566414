"""Dot products of one quantised row with one activation row, for AVX512-VNNI.

``lanes(w, o, q, a, f, x, n)`` multiplies the ``n`` weights at byte ``o`` of the file with the
activation row at ``q[a:]`` and ``f[x:]`` (formats: ``activations``) and returns eight floats to add
up. What they are is what every path of this instruction set computes, to the last bit:

* the integer sum of a block's products is exact (with minima and offsets of the weights, where the
  type has them, as integer sums of their own);
* block b goes to lane b % 8, in ascending order, by ``lane = fma(d_w * d_x, integer sum, lane)``;
  minima before (blocks of 256) or after (blocks of 32) that by an ``fma`` of their own;
* the lanes are added one after another.

Block layouts: ggml-common.h at ggml c2cdd2b2; the arithmetic is ours.
"""

from __future__ import annotations

import numpy as np

from gguf_hub.kernels import simd
from gguf_hub.kernels.simd import concat, floats, fma, splat_i32x8
from gguf_hub.kernels.simd512 import (
    add_lanes,
    bits_i8x64,
    dpbusd,
    dpwssd,
    first_half,
    halves_added,
    halves_from,
    load_i8x64,
    load_i16x8_at,
    load_i16x16_at,
    load_i32x8_at,
    madd_i16x8,
    maddubs,
    permute,
    quarters_from,
    right,
    shift_in,
    sum_of,
    sums_of_eight,
    twice,
    widened,
    zeros_i32x16,
)
from gguf_hub.kernels.simd_memory import (
    get,
    load_f16,
    load_f32x8,
    load_i8x16,
    load_i8x32,
    load_strided_f16x8,
    load_u32,
)
from gguf_hub.kernels.vectors import machine_code
from gguf_hub.kernels.x86 import scales_mins_k4, scales_q3


def products_of(weight_type: str):
    """Return the dot product of one type as ``steps`` wants it: the result goes to ``f[place]``."""
    lanes = LANES_OF[weight_type]

    @machine_code
    def products(w, o, q, qs, f, fs, n, places, is_added):
        start = f[places[0]] if is_added else np.float32(0)
        f[places[0]] = add_lanes(start, lanes(w, o, q, qs[0], f, fs[0], n))

    return products


# -- blocks of 32 ---------------------------------------------------------------------------------


def _small(type_size: int, unpack, *, offset: int, has_minimum: bool):
    """Return the dot product of a type with blocks of 32.

    Args:
        type_size: Bytes of a block, whose first half is the scale, the second perhaps the minimum.
        unpack: ``(w, p, step)``: the 64 weights of the blocks at ``p`` and ``p + step``, unsigned.
        offset: What an unsigned weight is too large by.
        has_minimum: Whether a minimum follows the scale.
    """

    @machine_code
    def pair(w, p, q, at):
        return dpbusd(zeros_i32x16(), unpack(w, p, type_size), load_i8x64(q, at))

    @machine_code
    def tail(w, o, q, a, f, x, n, total):
        """Add the last blocks, fewer than eight, to the first lanes."""
        blocks = n // 32
        scale = m = sums_m = simd.splat_f32x8(0)
        sums = splat_i32x8(0)
        first = blocks // 8 * 8
        for b in range(first, blocks):
            p = o + type_size * b
            products = dpbusd(zeros_i32x16(), unpack(w, p, 0), twice(load_i8x32(q, a + 32 * b)))
            block_sum = sum_of(first_half(products))
            if offset:
                block_sum -= np.int32(load_u32(q, a + n + 4 * b)) * np.int32(offset)
            sums = shift_in(sums, block_sum)
            scale = shift_in(scale, load_f16(w, p) * get(f, x + b))
            if has_minimum:
                m = shift_in(m, load_f16(w, p + 2))
                sums_m = shift_in(sums_m, get(f, x + blocks + b))
        for _ in range(blocks, first + 8):
            sums, scale = shift_in(sums, np.int32(0)), shift_in(scale, np.float32(0))
            m, sums_m = shift_in(m, np.float32(0)), shift_in(sums_m, np.float32(0))
        total = fma(scale, floats(sums), total)
        return fma(m, sums_m, total) if has_minimum else total

    @machine_code
    def lanes(w, o, q, a, f, x, n):
        blocks = n // 32
        total = simd.splat_f32x8(0)
        for g in range(blocks // 8):
            p, at = o + 8 * type_size * g, a + 256 * g
            sums = sums_of_eight(
                pair(w, p, q, at),
                pair(w, p + 2 * type_size, q, at + 64),
                pair(w, p + 4 * type_size, q, at + 128),
                pair(w, p + 6 * type_size, q, at + 192),
            )
            if offset:
                sums = sums - load_i32x8_at(q, a + n + 32 * g) * splat_i32x8(offset)
            d = load_strided_f16x8(w, p, type_size) * load_f32x8(f, x + 8 * g)
            total = fma(d, floats(sums), total)
            if has_minimum:
                m = load_strided_f16x8(w, p + 2, type_size)
                total = fma(m, load_f32x8(f, x + blocks + 8 * g), total)
        return tail(w, o, q, a, f, x, n, total) if blocks % 8 else total

    return lanes


@machine_code
def _pair_q8_0(w, p, step):
    return concat(load_i8x32(w, p + 2) ^ -128, load_i8x32(w, p + step + 2) ^ -128)


def _nibbles(type_size: int, fifth_bits: int = 0):
    """Return the nibbles of two blocks that end in sixteen bytes of them: all low, all high.

    A block may have 32 fifth bits at ``fifth_bits``.
    """
    at = type_size - 16

    @machine_code
    def nibbles(w, p, step):
        first, second = load_i8x16(w, p + at), load_i8x16(w, p + step + at)
        both = concat(concat(first, first), concat(second, second))
        weights = right(both, 0, 4, 0, 4) & 15
        if fifth_bits:
            first, second = load_u32(w, p + fifth_bits), load_u32(w, p + step + fifth_bits)
            weights = weights | bits_i8x64(first, second, 16)
        return weights

    return nibbles


# -- blocks of 256 --------------------------------------------------------------------------------


def _super(type_size: int, d_at: int, block, has_minima: bool):
    """Return the dot product of a type with blocks of 256.

    Args:
        type_size: Bytes of a block.
        d_at: Byte of the block where its scale lies; that of the minima follows.
        block: ``(w, p, q, at, sums_at)``: the integer sum of the block at ``p``, and that of its
            minima; ``sums_at`` is where the activation block's sums of 16 lie, and where its sums
            of 32 do.
        has_minima: Whether there are minima.
    """

    @machine_code
    def lanes(w, o, q, a, f, x, n):
        blocks = n // 256
        total = simd.splat_f32x8(0)
        for g in range((blocks + 7) // 8):
            d = low = simd.splat_f32x8(0)
            sums = minima = splat_i32x8(0)
            first = 8 * g
            last = min(first + 8, blocks)
            for b in range(first, last):
                p = o + type_size * b
                sums_16 = a + n + 32 * b
                sums_32 = a + n + 32 * blocks + 16 * b
                block_sum, block_minima = block(w, p, q, a + 256 * b, sums_16, sums_32)
                sums = shift_in(sums, block_sum)
                d = shift_in(d, load_f16(w, p + d_at))
                if has_minima:
                    minima = shift_in(minima, block_minima)
                    low = shift_in(low, -load_f16(w, p + d_at + 2))
            for _ in range(last, first + 8):  # the last blocks may be fewer than eight
                sums = shift_in(sums, np.int32(0))
                d = shift_in(d, np.float32(0))
                if has_minima:
                    minima = shift_in(minima, np.int32(0))
                    low = shift_in(low, np.float32(0))
            scale = load_f32x8(f, x + first)  # past the scales lie sums, which meet zeros
            if has_minima:
                total = fma(low * scale, floats(minima), total)
            total = fma(d * scale, floats(sums), total)
        return total

    return lanes


def _q4_or_q5(type_size: int, has_fifth_bit: bool):
    """Return the dot product of Q4_K or Q5_K."""
    nibbles = type_size - 128

    @machine_code
    def block(w, p, q, at, sums_16, sums_32):
        scales, mins = scales_mins_k4(w, p + 4)
        scale = widened(simd.i16x8_from_u8(simd.i8x8_of(scales)))
        total = zeros_i32x16()
        for c in range(4):
            weights = right(twice(load_i8x32(w, p + nibbles + 32 * c)), 0, 0, 4, 4) & 15
            if has_fifth_bit:
                k = 2 * c
                fifth = right(twice(load_i8x32(w, p + 16)), k, k, k + 1, k + 1) & 1
                weights = weights | (fifth << 4)
            products = maddubs(weights, load_i8x64(q, at + 64 * c))
            total = dpwssd(total, products, permute(scale, halves_from(2 * c)))
        minima = simd.i16x8_from_u8(simd.i8x8_of(mins))
        minima = madd_i16x8(minima, load_i16x8_at(q, sums_32))
        return sum_of(halves_added(total)), sum_of(minima)

    return _super(type_size, 0, block, has_minima=True)


@machine_code
def _sum_less_offset(products, scale, q, sums_16, bits):
    """Return the sum of products of weights that are too large by 2**bits.

    Args:
        products: Sums of scale times weight times activation, i32 x 16.
        scale: The sixteen scales, 16 bits each.
        q: Activations; the sums of sixteen of them lie at ``sums_16``.
        sums_16: See ``q``.
        bits: See above.
    """
    excess = simd.madd(scale, load_i16x16_at(q, sums_16))
    return sum_of(halves_added(products) - (excess << bits))


@machine_code
def _block_q6_k(w, p, q, at, sums_16, sums_32):
    scale = simd.i16x16_from_i8(load_i8x16(w, p + 192))
    scales = widened(scale)
    total = zeros_i32x16()
    for half in range(2):
        packed = load_i8x64(w, p + 64 * half)
        top = twice(load_i8x32(w, p + 128 + 32 * half))
        low = (packed & 15) | ((right(top, 0, 0, 2, 2) & 3) << 4)
        high = (packed >> 4) | ((right(top, 4, 4, 6, 6) & 3) << 4)
        x = at + 128 * half
        low, high = maddubs(low, load_i8x64(q, x)), maddubs(high, load_i8x64(q, x + 64))
        total = dpwssd(total, low, permute(scales, quarters_from(8 * half)))
        total = dpwssd(total, high, permute(scales, quarters_from(8 * half + 4)))
    return _sum_less_offset(total, scale, q, sums_16, 5), np.int32(0)


@machine_code
def _block_q3_k(w, p, q, at, sums_16, sums_32):
    scale = simd.i16x16_from_i8(scales_q3(w, p + 96))
    scales = widened(scale)
    third = twice(load_i8x32(w, p))
    total = zeros_i32x16()
    for i in range(4):
        packed = twice(load_i8x32(w, p + 32 + 32 * (i // 2)))
        j = 4 * (i % 2)
        weights = right(packed, j, j, j + 2, j + 2) & 3
        k = 2 * i
        weights = weights | ((right(third, k, k, k + 1, k + 1) & 1) << 2)
        products = maddubs(weights, load_i8x64(q, at + 64 * i))
        total = dpwssd(total, products, permute(scales, quarters_from(4 * i)))
    return _sum_less_offset(total, scale, q, sums_16, 2), np.int32(0)


@machine_code
def _block_q2_k(w, p, q, at, sums_16, sums_32):
    factors = load_i8x16(w, p)
    scales = widened(simd.i16x16_from_i8(factors & 15))
    total = zeros_i32x16()
    for i in range(4):
        packed = twice(load_i8x32(w, p + 16 + 32 * (i // 2)))
        j = 4 * (i % 2)
        weights = right(packed, j, j, j + 2, j + 2) & 3
        products = maddubs(weights, load_i8x64(q, at + 64 * i))
        total = dpwssd(total, products, permute(scales, quarters_from(4 * i)))
    minima = simd.madd(simd.i16x16_from_i8(factors >> 4), load_i16x16_at(q, sums_16))
    return sum_of(halves_added(total)), sum_of(minima)


LANES_OF = {
    "Q8_0": _small(34, _pair_q8_0, offset=128, has_minimum=False),
    "Q4_0": _small(18, _nibbles(18), offset=8, has_minimum=False),
    "Q4_1": _small(20, _nibbles(20), offset=0, has_minimum=True),
    "Q5_0": _small(22, _nibbles(22, fifth_bits=2), offset=16, has_minimum=False),
    "Q5_1": _small(24, _nibbles(24, fifth_bits=4), offset=0, has_minimum=True),
    "Q2_K": _super(84, 80, _block_q2_k, has_minima=True),
    "Q3_K": _super(110, 108, _block_q3_k, has_minima=False),
    "Q4_K": _q4_or_q5(144, False),
    "Q5_K": _q4_or_q5(176, True),
    "Q6_K": _super(210, 208, _block_q6_k, has_minima=False),
}
