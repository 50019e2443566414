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

from gguf_hub.run.kernels.matmul.one_row import scales_of, small_of, sums_by_pairs
from gguf_hub.run.kernels.simd import simd
from gguf_hub.run.kernels.simd.simd import bits_i8x32, concat, floats, fma, splat_i32x8
from gguf_hub.run.kernels.simd.simd512 import (
    bits_of,
    dpbusd,
    dpwssd,
    first_half,
    halves_from,
    halves_of_eight,
    halves_of_two,
    load_i8x64,
    load_i16x8_at,
    load_i16x16_at,
    maddubs,
    minima_of_k4,
    pairs_of_bits,
    pairs_twice,
    permute,
    quarters_from,
    scales_of_k4,
    scales_of_q3,
    shift_in,
    sum_of,
    sums_of_eight,
    twice,
    widened,
    with_zeros,
    zeros_i32x16,
)
from gguf_hub.run.kernels.simd.simd_memory import (
    load_f16,
    load_f32x8,
    load_i8x16,
    load_i8x32,
    load_strided_f16x8,
    load_u32,
    prefetch_ahead,
)
from gguf_hub.run.kernels.simd.vectors import machine_code

nibble, two = bits_of(4), bits_of(2)
bit_to_4, bit_to_16, two_to_16 = bits_of(1, 2), bits_of(1, 4), bits_of(2, 4)


# -- blocks of 32 ---------------------------------------------------------------------------------


def small(type_size: int, pairs, one, *, offset: int, has_minimum: bool = False, scales=None):
    """Return the dot product of a type with blocks of 32.

    Args:
        type_size: Bytes of a block, whose first half is the scale, the second perhaps the minimum.
        pairs: Four functions ``(w, p)``: the 64 weights of the first two of the eight blocks at
            ``p``, of the next two and so on, unsigned.
        one: ``(w, p)``: the 32 weights of the block at ``p``, unsigned.
        offset: What an unsigned weight is too large by.
        has_minimum: Whether a minimum follows the scale.
        scales: ``(w, p)`` of the scale of the block at ``p`` and of those of the eight there, where
            they are no halves at the beginning.
    """

    def multiplier(pair):
        """Return ``(w, p, q, at)``: the products of two blocks with 64 activations."""

        @machine_code
        def products(w, p, q, at):
            """Return sixteen integers, by one ``vpdpbusd``: eight of each block."""
            return dpbusd(zeros_i32x16(), pair(w, p), load_i8x64(q, at))

        return products

    @machine_code
    def block_sum(w, p, q, at):
        """Return the sum of the block's 32 products, computed in both halves of a register."""
        products = dpbusd(zeros_i32x16(), twice(one(w, p)), twice(load_i8x32(q, at)))
        return sum_of(first_half(products))

    scale, eight_scales = scales or (load_f16, halves_of_eight(type_size, 0))
    return small_of(
        type_size, sums_by_pairs(*map(multiplier, pairs)), block_sum,
        eight_scales, halves_of_eight(type_size, 2),
        offset=offset, has_minimum=has_minimum, scale=scale,
    )  # fmt: skip


def _q8_0():
    @machine_code
    def one(w, p):
        """Return 32 bytes plus 128: the sign bit turned."""
        return load_i8x32(w, p + 2) ^ -128

    def pair_of(k: int):
        """Return ``(w, p)``: the weights of blocks ``2 k`` and ``2 k + 1`` of eight."""

        @machine_code
        def pair(w, p):
            """Return 64 bytes plus 128 of two blocks, 34 bytes apart."""
            return concat(one(w, p + 68 * k), one(w, p + 68 * k + 34))

        return pair

    return small(34, [pair_of(k) for k in range(4)], one, offset=128, has_minimum=False)


def _nibbles(type_size: int, *, offset: int = 0, has_minimum: bool = False, fifth_bits: int = 0):
    """Return the dot product of a type whose blocks end in sixteen bytes of two nibbles each.

    All low nibbles come before all high ones. A block may have 32 fifth bits at ``fifth_bits``.
    """
    at = type_size - 16

    @machine_code
    def one(w, p):
        """Return the 32 weights of a block: low nibbles, high ones, plus 16 by their fifth bits."""
        packed = load_i8x16(w, p + at)
        weights = concat(packed & 15, packed >> 4)
        if fifth_bits:
            weights = weights + bits_i8x32(load_u32(w, p + fifth_bits), 16)
        return weights

    def pair_of(load, load_fifth):
        """Return ``(w, p)``: the weights of two blocks, of loads of nibbles and of fifth bits."""

        @machine_code
        def pair(w, p):
            """Return 64 weights: low nibbles of a block before its high ones, plus fifth bits."""
            weights = nibble(load(w, p), 0, 4, 0, 4)
            return weights + load_fifth(w, p) if fifth_bits else weights

        return pair

    both = zip(pairs_twice(type_size, at), pairs_of_bits(type_size, fifth_bits, 16), strict=True)
    pairs = [pair_of(load, load_fifth) for load, load_fifth in both]
    return small(type_size, pairs, one, offset=offset, has_minimum=has_minimum)


# -- blocks of 256 --------------------------------------------------------------------------------


def super_of(
    type_size: int, d_at: int, block, *, has_minima: bool = False, offset: int = 0, factor=None
):
    """Return the dot product of a type with blocks of 256.

    Args:
        type_size: Bytes of a block.
        d_at: Byte of the block where its scale lies; that of the minima follows.
        block: ``(w, p, q, at, sums_16, sums_32)``: sixteen integers that add up to the block's sum
            of products, and eight that add up to its minima, or to what ``offset`` says. The
            activations' sums of 16 and of 32 lie at ``sums_16`` and ``sums_32``.
        has_minima: Whether there are minima.
        offset: What weights are too large by; the eight integers are the scales times the
            activations' sums.
        factor: ``(w, p)``: the scale of the block at ``p``, where it is not the half at ``d_at``.
    """
    prefetch = prefetch_ahead(2 * type_size)
    scale_of, eight_scales = scales_of(type_size, d_at, factor)

    @machine_code
    def parts(w, o, q, a, n, b):
        """Return what ``block`` does for the b-th block of a row."""
        sums_16 = a + n + 32 * b
        sums_32 = a + n + n // 8 + 16 * b
        return block(w, o + type_size * b, q, a + 256 * b, sums_16, sums_32)

    @machine_code
    def pair(w, o, q, a, n, b, c):
        """Return the parts of two blocks side by side."""
        prefetch(w, o + type_size * b)
        first, few_first = parts(w, o, q, a, n, b)
        second, few_second = parts(w, o, q, a, n, c)
        sums, few = halves_of_two(first, second), concat(few_first, few_second)
        if offset:
            sums = sums - few * offset
        return sums, few

    @machine_code
    def add_eight(d, low, scale, sums, few, total):
        """Add eight blocks: their scales, those of minima, those of activations, their sums."""
        if has_minima:
            total = fma(low * scale, floats(splat_i32x8(0) - few), total)
        return fma(d * scale, floats(sums), total)

    @machine_code
    def scales(w, p):
        """Return the scales of the eight blocks at ``p``, and those of their minima."""
        d = low = eight_scales(w, p)
        if has_minima:
            low = load_strided_f16x8(w, p + d_at + 2, type_size)
        return d, low

    @machine_code
    def last_scales(w, o, first, blocks):
        """Return the scales where a row ends before the eighth block: zeros behind it."""
        d = low = simd.splat_f32x8(0)
        for b in range(first, first + 8):
            p = o + type_size * min(b, blocks - 1)
            is_present = np.float32(b < blocks)
            d = shift_in(d, scale_of(w, p) * is_present)
            if has_minima:
                low = shift_in(low, load_f16(w, p + d_at + 2) * is_present)
        return d, low

    @machine_code
    def add_last(w, o, q, a, f, x, n, total):
        """Add the last blocks, fewer than eight, to the first lanes."""
        blocks = n // 256
        first = blocks // 8 * 8
        a0 = a1 = a2 = a3 = m0 = m1 = m2 = m3 = zeros_i32x16()
        for b in range(first // 2, (blocks + 1) // 2):
            a0, a1, a2, m0, m1, m2 = a1, a2, a3, m1, m2, m3
            # an odd last block comes twice, and its second sum meets a zero
            a3, m3 = pair(w, o, q, a, n, 2 * b, min(2 * b + 1, blocks - 1))
        for _ in range((blocks + 1) // 2, first // 2 + 4):
            a0, a1, a2, m0, m1, m2 = a1, a2, a3, m1, m2, m3
            a3 = m3 = zeros_i32x16()
        sums, few = sums_of_eight(a0, a1, a2, a3), sums_of_eight(m0, m1, m2, m3)
        d, low = last_scales(w, o, first, blocks)
        # past the scales of the activations lie their sums, which meet zeros
        return add_eight(d, low, load_f32x8(f, x + first), sums, few, total)

    @machine_code
    def lanes(w, o, q, a, f, x, n):
        """Return the eight sums: block b goes to lane b % 8, minima before products."""
        blocks = n // 256
        total = simd.splat_f32x8(0)
        a0 = a1 = a2 = a3 = m0 = m1 = m2 = m3 = zeros_i32x16()
        for i in range(blocks // 8 * 4):
            # two blocks at a time, and what was read moves on by one register: LLVM would unroll
            # eight blocks, and run out of registers
            a0, a1, a2, m0, m1, m2 = a1, a2, a3, m1, m2, m3
            a3, m3 = pair(w, o, q, a, n, 2 * i, 2 * i + 1)
            if i % 4 == 3:
                sums, few = sums_of_eight(a0, a1, a2, a3), sums_of_eight(m0, m1, m2, m3)
                first = 2 * (i - 3)
                d, low = scales(w, o + type_size * first)
                total = add_eight(d, low, load_f32x8(f, x + first), sums, few, total)
        return add_last(w, o, q, a, f, x, n, total) if blocks % 8 else total

    return lanes


def _q4_or_q5(type_size: int, has_fifth_bit: bool):
    nibbles = type_size - 128

    @machine_code
    def block(w, p, q, at, sums_16, sums_32):
        """Return sixteen integers of scales x products and eight of minima x sums of 32."""
        header = load_i8x16(w, p)
        scale = widened(scales_of_k4(header))
        total = zeros_i32x16()
        for c in range(4):
            weights = nibble(twice(load_i8x32(w, p + nibbles + 32 * c)), 0, 0, 4, 4)
            if has_fifth_bit:
                k = 2 * c
                fifth = bit_to_16(twice(load_i8x32(w, p + 16)), k, k, k + 1, k + 1)
                weights = weights | fifth
            products = maddubs(weights, load_i8x64(q, at + 64 * c))
            total = dpwssd(total, products, permute(scale, halves_from(2 * c)))
        return total, with_zeros(simd.madd(minima_of_k4(header), load_i16x8_at(q, sums_32)))

    return super_of(type_size, 0, block, has_minima=True)


@machine_code
def _block_q6_k(w, p, q, at, sums_16, sums_32):
    scale = simd.i16x16_from_i8(load_i8x16(w, p + 192))
    scales = widened(scale)
    total = zeros_i32x16()
    for half in range(2):
        packed = load_i8x64(w, p + 64 * half)
        top = twice(load_i8x32(w, p + 128 + 32 * half))
        low = (packed & 15) | two_to_16(top, 0, 0, 2, 2)
        high = nibble(packed, 4, 4, 4, 4) | two_to_16(top, 4, 4, 6, 6)
        x = at + 128 * half
        low, high = maddubs(low, load_i8x64(q, x)), maddubs(high, load_i8x64(q, x + 64))
        total = dpwssd(total, low, permute(scales, quarters_from(8 * half)))
        total = dpwssd(total, high, permute(scales, quarters_from(8 * half + 4)))
    return total, simd.madd(scale, load_i16x16_at(q, sums_16))


@machine_code
def _block_q3_k(w, p, q, at, sums_16, sums_32):
    scale = simd.i16x16_from_i8(scales_of_q3(load_i8x16(w, p + 94)))
    scales = widened(scale)
    third = twice(load_i8x32(w, p))
    total = zeros_i32x16()
    for i in range(4):
        packed = twice(load_i8x32(w, p + 32 + 32 * (i // 2)))
        j = 4 * (i % 2)
        k = 2 * i
        weights = two(packed, j, j, j + 2, j + 2) | bit_to_4(third, k, k, k + 1, k + 1)
        products = maddubs(weights, load_i8x64(q, at + 64 * i))
        total = dpwssd(total, products, permute(scales, quarters_from(4 * i)))
    return total, simd.madd(scale, load_i16x16_at(q, sums_16))


@machine_code
def _block_q2_k(w, p, q, at, sums_16, sums_32):
    factors = load_i8x16(w, p)
    scales = widened(simd.i16x16_from_i8(factors & 15))
    total = zeros_i32x16()
    for i in range(4):
        packed = twice(load_i8x32(w, p + 16 + 32 * (i // 2)))
        j = 4 * (i % 2)
        weights = two(packed, j, j, j + 2, j + 2)
        products = maddubs(weights, load_i8x64(q, at + 64 * i))
        total = dpwssd(total, products, permute(scales, quarters_from(4 * i)))
    minima = simd.madd(simd.i16x16_from_i8(factors >> 4), load_i16x16_at(q, sums_16))
    return total, minima


LANES_OF = {
    "Q8_0": _q8_0(),
    "Q4_0": _nibbles(18, offset=8),
    "Q4_1": _nibbles(20, has_minimum=True),
    "Q5_0": _nibbles(22, offset=16, fifth_bits=2),
    "Q5_1": _nibbles(24, has_minimum=True, fifth_bits=4),
    "Q2_K": super_of(84, 80, _block_q2_k, has_minima=True),
    "Q3_K": super_of(110, 108, _block_q3_k, offset=4),
    "Q4_K": _q4_or_q5(144, False),
    "Q5_K": _q4_or_q5(176, True),
    "Q6_K": super_of(210, 208, _block_q6_k, offset=32),
}
