"""Dot products of a quantised row with an activation row, for AVX2 and AVX512-VNNI.

Same names, arguments and results as in ``generic``: ``dot(w, o, q, qo, f, fo, n)`` is the dot
product of the ``n`` weights at byte ``o`` of the file with the activation row at ``q[qo:]``,
``f[fo:]`` (formats: ``activations``). Integer products of unsigned weights and signed activations
are exact; what an unsigned weight is too large by (8, 16, 32 ...) is taken off at the end of each
block through the sums that the activation row carries.

Block layouts: ggml-common.h at ggml c2cdd2b2; the arithmetic is ours.
"""

from __future__ import annotations

import numpy as np

from gguf_hub.kernels import simd
from gguf_hub.kernels.simd import (
    bits_i8x32,
    concat,
    f32x8_from_i32,
    fma,
    get,
    load_f16,
    load_f32x8,
    load_i8x16,
    load_i8x32,
    load_u32,
    machine_code,
    madd,
    maddubs,
    sign,
    splat_f32x8,
    splat_i16x16,
    splat_i32x8,
    splat_lane,
    splat_lane_pair,
    sum_f32x8,
)

# -- sums of products of bytes, four to a 32-bit lane ---------------------------------------------


@machine_code
def _dot4_avx2(unsigned, signed):
    """i8x32 x i8x32 -> i32x8; the unsigned side at most 128, or pairs would saturate."""
    return madd(maddubs(unsigned, signed), splat_i16x16(1))


@machine_code
def _dot4_vnni(unsigned, signed):
    return simd.dpbusd(splat_i32x8(0), unsigned, signed)


# -- blocks of 32 ---------------------------------------------------------------------------------


def _q8_0(dot4):
    @machine_code
    def dot(w, o, q, qo, f, fo, n):
        total = splat_f32x8(0)
        for b in range(n // 32):
            p = o + 34 * b
            weights = load_i8x32(w, p + 2)
            x = load_i8x32(q, qo + 32 * b)
            products = dot4(sign(weights, weights), sign(x, weights))
            scale = load_f16(w, p) * get(f, fo + b)
            total = fma(splat_f32x8(scale), f32x8_from_i32(products), total)
        return sum_f32x8(total)

    return dot


def _small(dot4, type_size, *, high_bits, minimum, offset):
    """Return the dot product of Q4_0, Q4_1, Q5_0 or Q5_1: nibbles, perhaps a fifth bit.

    Args:
        dot4: Sum of products of bytes.
        type_size: Bytes of a block.
        high_bits: Byte of the block where 32 fifth bits begin; 0 for none.
        minimum: Whether a second half holds the block's minimum.
        offset: What an unsigned weight is too large by, where there is no minimum.
    """
    nibbles = type_size - 16

    @machine_code
    def dot(w, o, q, qo, f, fo, n):
        blocks = n // 32
        total = splat_f32x8(0)
        shift = np.float32(0)
        for b in range(blocks):
            p = o + type_size * b
            packed = load_i8x16(w, p + nibbles)
            weights = concat(packed & 15, packed >> 4)
            if high_bits:
                weights = weights | bits_i8x32(load_u32(w, p + high_bits), 16)
            products = dot4(weights, load_i8x32(q, qo + 32 * b))
            d = load_f16(w, p)
            total = fma(splat_f32x8(d * get(f, fo + b)), f32x8_from_i32(products), total)
            m = load_f16(w, p + 2) if minimum else d * np.float32(-offset)
            shift = fma(m, get(f, fo + blocks + b), shift)
        return sum_f32x8(total) + shift

    return dot


# -- blocks of 256 --------------------------------------------------------------------------------


@machine_code
def _scales_mins_k4(w, p):
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
def _add_scaled(total, weights, x, scale):
    """Add ``weights * x * scale`` to the lanes of an i32x8."""
    return total + madd(maddubs(weights, x), scale)


@machine_code
def _mins_k4(mins, f, sums):
    """Return the eight products of minimum and activation sum."""
    return f32x8_from_i32(simd.i32x8_from_u8(simd.i8x8_of(mins))) * load_f32x8(f, sums)


def _q4_or_q5(type_size, has_fifth_bit):
    """Return the dot product of Q4_K or Q5_K."""
    nibbles = type_size - 128

    @machine_code
    def dot(w, o, q, qo, f, fo, n):
        blocks = n // 256
        total = splat_f32x8(0)
        shift = splat_f32x8(0)
        for b in range(blocks):
            p = o + type_size * b
            scales, mins = _scales_mins_k4(w, p + 4)
            scale = simd.i16x8_from_u8(simd.i8x8_of(scales))
            low = splat_i32x8(0)
            high = splat_i32x8(0)
            for c in range(4):
                packed = load_i8x32(w, p + nibbles + 32 * c)
                even = packed & 15
                odd = packed >> 4
                if has_fifth_bit:
                    fifth = load_i8x32(w, p + 16)
                    even = even | (((fifth >> (2 * c)) & 1) << 4)
                    odd = odd | (((fifth >> (2 * c + 1)) & 1) << 4)
                x = qo + 256 * b + 64 * c
                low = _add_scaled(low, even, load_i8x32(q, x), splat_lane(scale, 2 * c))
                high = _add_scaled(high, odd, load_i8x32(q, x + 32), splat_lane(scale, 2 * c + 1))
            d = splat_f32x8(load_f16(w, p) * get(f, fo + b))
            total = fma(d, f32x8_from_i32(low + high), total)
            products = _mins_k4(mins, f, fo + 17 * blocks + 8 * b)
            shift = fma(splat_f32x8(load_f16(w, p + 2)), products, shift)
        return sum_f32x8(total - shift)

    return dot


@machine_code
def _products_16(factors, f, sums):
    """Return sixteen small integers times sixteen activation sums, added to eight lanes."""
    low = f32x8_from_i32(simd.i32x8_from_i8(simd.low_i8x8(factors)))
    high = f32x8_from_i32(simd.i32x8_from_i8(simd.high_i8x8(factors)))
    return fma(high, load_f32x8(f, sums + 8), low * load_f32x8(f, sums))


@machine_code
def dot_q6_k(w, o, q, qo, f, fo, n):
    """128 low nibbles, 64 bytes of two high bits each, 16 scales (int8), d; weights are -32..31."""
    blocks = n // 256
    total = splat_f32x8(0)
    shift = splat_f32x8(0)
    for b in range(blocks):
        p = o + 210 * b
        scales = load_i8x16(w, p + 192)
        scale = simd.i16x16_from_i8(scales)
        sums = splat_i32x8(0)
        for half in range(2):
            first = load_i8x32(w, p + 64 * half)
            second = load_i8x32(w, p + 64 * half + 32)
            top = load_i8x32(w, p + 128 + 32 * half)
            x = qo + 256 * b + 128 * half
            k = 4 * half
            u = (first & 15) | ((top << 4) & 48)
            sums = _add_scaled(sums, u, load_i8x32(q, x), splat_lane_pair(scale, k))
            u = (second & 15) | ((top << 2) & 48)
            sums = _add_scaled(sums, u, load_i8x32(q, x + 32), splat_lane_pair(scale, k + 1))
            u = (first >> 4) | (top & 48)
            sums = _add_scaled(sums, u, load_i8x32(q, x + 64), splat_lane_pair(scale, k + 2))
            u = (second >> 4) | ((top >> 2) & 48)
            sums = _add_scaled(sums, u, load_i8x32(q, x + 96), splat_lane_pair(scale, k + 3))
        d = load_f16(w, p + 208)
        total = fma(splat_f32x8(d * get(f, fo + b)), f32x8_from_i32(sums), total)
        products = _products_16(scales, f, fo + blocks + 16 * b)
        shift = fma(splat_f32x8(d * np.float32(32)), products, shift)
    return sum_f32x8(total - shift)


@machine_code
def _scales_q3(w, p):
    """Return the sixteen 6-bit scales of Q3_K, less 32, as i8x16.

    Twelve bytes: low nibbles of scales 0-7 below, of 8-15 above, in the first eight bytes; byte
    8 + j % 4 holds two more bits for each of the scales j, j + 4, j + 8, j + 12.
    """
    low = simd.load_u64(w, p)
    top = np.uint64(load_u32(w, p + 8))
    four, two = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x03030303)
    shift2, shift4, shift32 = np.uint64(2), np.uint64(4), np.uint64(32)
    top_first = (top & two) | (((top >> shift2) & two) << shift32)
    top >>= shift4
    top_last = (top & two) | (((top >> shift2) & two) << shift32)
    first = (low & four) | (top_first << shift4)
    last = ((low >> shift4) & four) | (top_last << shift4)
    return concat(simd.i8x8_of(first), simd.i8x8_of(last)) - 32


@machine_code
def dot_q3_k(w, o, q, qo, f, fo, n):
    """32 bytes of third bits, 64 bytes of two low bits, 12 bytes of scales, d; weights -4..3."""
    blocks = n // 256
    total = splat_f32x8(0)
    shift = splat_f32x8(0)
    for b in range(blocks):
        p = o + 110 * b
        scales = _scales_q3(w, p + 96)
        scale = simd.i16x16_from_i8(scales)
        top = load_i8x32(w, p)
        sums = splat_i32x8(0)
        for half in range(2):
            packed = load_i8x32(w, p + 32 + 32 * half)
            for j in range(4):
                k = 4 * half + j
                u = ((packed >> (2 * j)) & 3) | (((top >> k) & 1) << 2)
                x = load_i8x32(q, qo + 256 * b + 32 * k)
                sums = _add_scaled(sums, u, x, splat_lane_pair(scale, k))
        d = load_f16(w, p + 108)
        total = fma(splat_f32x8(d * get(f, fo + b)), f32x8_from_i32(sums), total)
        products = _products_16(scales, f, fo + blocks + 16 * b)
        shift = fma(splat_f32x8(d * np.float32(4)), products, shift)
    return sum_f32x8(total - shift)


@machine_code
def dot_q2_k(w, o, q, qo, f, fo, n):
    """16 bytes of scale (low nibble) and minimum (high), 64 bytes of two-bit weights, d, dmin."""
    blocks = n // 256
    total = splat_f32x8(0)
    shift = splat_f32x8(0)
    for b in range(blocks):
        p = o + 84 * b
        factors = load_i8x16(w, p)
        scale = simd.i16x16_from_i8(factors & 15)
        sums = splat_i32x8(0)
        for half in range(2):
            packed = load_i8x32(w, p + 16 + 32 * half)
            for j in range(4):
                k = 4 * half + j
                x = load_i8x32(q, qo + 256 * b + 32 * k)
                sums = _add_scaled(sums, (packed >> (2 * j)) & 3, x, splat_lane_pair(scale, k))
        d = splat_f32x8(load_f16(w, p + 80) * get(f, fo + b))
        total = fma(d, f32x8_from_i32(sums), total)
        products = _products_16(factors >> 4, f, fo + blocks + 16 * b)
        shift = fma(splat_f32x8(load_f16(w, p + 82)), products, shift)
    return sum_f32x8(total - shift)


# -- floats ---------------------------------------------------------------------------------------


def _float(load8, load1, item):
    """Return the dot product for weights that are floats of ``item`` bytes."""

    @machine_code
    def dot(w, o, q, qo, f, fo, n):
        a = splat_f32x8(0)
        b = splat_f32x8(0)
        whole = n // 16
        for i in range(whole):
            j = 16 * i
            a = fma(load8(w, o + item * j), load_f32x8(f, fo + j), a)
            b = fma(load8(w, o + item * (j + 8)), load_f32x8(f, fo + j + 8), b)
        total = sum_f32x8(a + b)
        for j in range(16 * whole, n):
            total = fma(load1(w, o + item * j), get(f, fo + j), total)
        return total

    return dot


def dot_products(isa: str) -> dict:
    """Return the dot product of every type for an x86 instruction set.

    Args:
        isa: ``avx2`` or ``avx512vnni``.
    """
    dot4 = _dot4_vnni if isa == "avx512vnni" else _dot4_avx2
    return {
        "F32": _float(load_f32x8, simd.load_f32, 4),
        "F16": _float(simd.load_f16x8, load_f16, 2),
        "BF16": _float(simd.load_bf16x8, simd.load_bf16, 2),
        "Q8_0": _q8_0(dot4),
        "Q4_0": _small(dot4, 18, high_bits=0, minimum=False, offset=8),
        "Q4_1": _small(dot4, 20, high_bits=0, minimum=True, offset=0),
        "Q5_0": _small(dot4, 22, high_bits=2, minimum=False, offset=16),
        "Q5_1": _small(dot4, 24, high_bits=4, minimum=True, offset=0),
        "Q2_K": dot_q2_k,
        "Q3_K": dot_q3_k,
        "Q4_K": _q4_or_q5(144, False),
        "Q5_K": _q4_or_q5(176, True),
        "Q6_K": dot_q6_k,
    }
