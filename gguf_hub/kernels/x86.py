"""Dot products of quantised rows with activation rows, for AVX2; of unpacked types for all x86.

``dots(w, o, q, qs, f, fs, n)`` multiplies the ``n`` weights at byte ``o`` of the file with several
activation rows at once: row t lies at ``q[qs[t]:]`` and ``f[fs[t]:]`` (formats: ``activations``).
Weights are unpacked once for all rows; the rows' products lie side by side in one wide vector,
which LLVM keeps in as many registers. The sums of a row do not depend on how many go with it.

Integer products of unsigned weights and signed activations are exact; what an unsigned weight is
too large by (8, 16, 32 ...) is taken off at the end of each block through the sums that the
activation row carries.

Block layouts: ggml-common.h at ggml c2cdd2b2; the arithmetic is ours.
"""

from __future__ import annotations

import numpy as np

from gguf_hub.kernels import simd
from gguf_hub.kernels.simd import (
    bits_i8x32,
    concat,
    floats,
    fma,
    madd,
    maddubs,
    sign,
    splat_f32x8,
    splat_i16x16,
    splat_lane,
    splat_lane_pair,
)
from gguf_hub.kernels.simd_memory import (
    load_bf16,
    load_bf16x8,
    load_f16,
    load_f16x8,
    load_f32,
    load_f32x8,
    load_i8x16,
    load_i8x32,
    load_strided_f16x8,
    load_u32,
    load_u64,
)
from gguf_hub.kernels.simd_rows import (
    first_lane_f32x8,
    load_rows_f32x8,
    load_rows_i8x32,
    repeat,
    splat_lanes,
    splat_rows_f32x8,
    store_rows,
    sums_f32x8,
    zeros_f32x8,
    zeros_i32x8,
)
from gguf_hub.kernels.vectors import (
    machine_code,
)

# -- sums of products of bytes, four to a 32-bit lane ---------------------------------------------


@machine_code
def _dot4(weights, x, rows):
    """i8 x 32 T times i8 x 32 T -> i32 x 8 T; weights at most 128, or pairs would saturate."""
    return madd(maddubs(weights, x), repeat(splat_i16x16(1), rows))


# -- blocks of 32 ---------------------------------------------------------------------------------


@machine_code
def _dots_q8_0(w, o, q, qs, f, fs, n):
    """Half d, 32 signed bytes; the signs of the weights go over to the activations."""
    blocks = n // 32
    total = zeros_f32x8(qs)
    for g in range(n // 256):  # eight blocks: their scales fill a vector
        p = o + 8 * 34 * g
        scales = repeat(load_strided_f16x8(w, p, 34), qs) * load_rows_f32x8(f, fs, 8 * g)
        for j in range(8):
            x = load_rows_i8x32(q, qs, 256 * g + 32 * j)
            products = _dot4_signed(load_i8x32(w, p + 34 * j + 2), x, qs)
            total = fma(splat_lanes(scales, j), floats(products), total)
    for b in range(n // 256 * 8, blocks):
        p = o + 34 * b
        products = _dot4_signed(load_i8x32(w, p + 2), load_rows_i8x32(q, qs, 32 * b), qs)
        scale = repeat(splat_f32x8(load_f16(w, p)), qs) * splat_rows_f32x8(f, fs, b)
        total = fma(scale, floats(products), total)
    return sums_f32x8(total)


@machine_code
def _dot4_signed(weights, x, rows):
    weights = repeat(weights, rows)
    return _dot4(sign(weights, weights), sign(x, weights), rows)


def _small(type_size, *, high_bits, minimum, offset):
    """Return the dot products of Q4_0, Q4_1, Q5_0 or Q5_1: nibbles, perhaps a fifth bit.

    Args:
        type_size: Bytes of a block.
        high_bits: Byte of the block where 32 fifth bits begin; 0 for none.
        minimum: Byte of the block where its minimum lies, a half; 0 for none.
        offset: What an unsigned weight is too large by, where there is no minimum.
    """
    nibbles = type_size - 16
    less = np.float32(-offset)

    @machine_code
    def unpack(w, p):
        packed = load_i8x16(w, p + nibbles)
        weights = concat(packed & 15, packed >> 4)
        if high_bits:
            return weights | bits_i8x32(load_u32(w, p + high_bits), 16)
        return weights

    @machine_code
    def dots(w, o, q, qs, f, fs, n):
        blocks = n // 32
        total = zeros_f32x8(qs)
        for g in range(n // 256):  # eight blocks: their scales fill a vector
            p = o + 8 * type_size * g
            d = load_strided_f16x8(w, p, type_size)
            m = load_strided_f16x8(w, p + minimum, type_size) if minimum else d * splat_f32x8(less)
            total = fma(repeat(m, qs), load_rows_f32x8(f, fs, blocks + 8 * g), total)
            scales = repeat(d, qs) * load_rows_f32x8(f, fs, 8 * g)
            for j in range(8):
                x = load_rows_i8x32(q, qs, 256 * g + 32 * j)
                products = _dot4(repeat(unpack(w, p + type_size * j), qs), x, qs)
                total = fma(splat_lanes(scales, j), floats(products), total)
        for b in range(n // 256 * 8, blocks):
            p = o + type_size * b
            d = load_f16(w, p)
            m = load_f16(w, p + minimum) if minimum else d * less
            sums = splat_rows_f32x8(f, fs, blocks + b)
            total = fma(repeat(first_lane_f32x8(m), qs), sums, total)
            products = _dot4(repeat(unpack(w, p), qs), load_rows_i8x32(q, qs, 32 * b), qs)
            scale = repeat(splat_f32x8(d), qs) * splat_rows_f32x8(f, fs, b)
            total = fma(scale, floats(products), total)
        return sums_f32x8(total)

    return dots


# -- blocks of 256 --------------------------------------------------------------------------------


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
def _add_scaled(total, weights, scale, q, qs, at):
    """Add weights times activations times scale to the lanes of an i32 x 8 T."""
    products = maddubs(repeat(weights, qs), load_rows_i8x32(q, qs, at))
    return total + madd(products, repeat(scale, qs))


def _q4_or_q5(type_size, has_fifth_bit):
    """Return the dot products of Q4_K or Q5_K."""
    nibbles = type_size - 128

    @machine_code
    def dots(w, o, q, qs, f, fs, n):
        blocks = n // 256
        total = zeros_f32x8(qs)
        shift = zeros_f32x8(qs)
        for b in range(blocks):
            p = o + type_size * b
            scales, mins = scales_mins_k4(w, p + 4)
            scale = simd.i16x8_from_u8(simd.i8x8_of(scales))
            products = zeros_i32x8(qs)
            for c in range(4):
                packed = load_i8x32(w, p + nibbles + 32 * c)
                even = packed & 15
                odd = packed >> 4
                if has_fifth_bit:
                    fifth = load_i8x32(w, p + 16)
                    even = even | (((fifth >> (2 * c)) & 1) << 4)
                    odd = odd | (((fifth >> (2 * c + 1)) & 1) << 4)
                at = 256 * b + 64 * c
                products = _add_scaled(products, even, splat_lane(scale, 2 * c), q, qs, at)
                products = _add_scaled(products, odd, splat_lane(scale, 2 * c + 1), q, qs, at + 32)
            d = repeat(splat_f32x8(load_f16(w, p)), qs) * splat_rows_f32x8(f, fs, b)
            total = fma(d, floats(products), total)
            low = splat_f32x8(load_f16(w, p + 2)) * floats(simd.i32x8_from_u8(simd.i8x8_of(mins)))
            sums = load_rows_f32x8(f, fs, 17 * blocks + 8 * b)
            shift = fma(repeat(low, qs), sums, shift)
        return sums_f32x8(total - shift)

    return dots


@machine_code
def _shift_16(shift, factor, factors, f, fs, at):
    """Add factor times sixteen small integers times sixteen activation sums to eight lanes."""
    low = splat_f32x8(factor) * floats(simd.i32x8_from_i8(simd.low_i8x8(factors)))
    high = splat_f32x8(factor) * floats(simd.i32x8_from_i8(simd.high_i8x8(factors)))
    shift = fma(repeat(low, fs), load_rows_f32x8(f, fs, at), shift)
    return fma(repeat(high, fs), load_rows_f32x8(f, fs, at + 8), shift)


@machine_code
def dots_q6_k(w, o, q, qs, f, fs, n):
    """128 low nibbles, 64 bytes of two high bits each, 16 scales (int8), d; weights are -32..31."""
    blocks = n // 256
    total = zeros_f32x8(qs)
    shift = zeros_f32x8(qs)
    for b in range(blocks):
        p = o + 210 * b
        scales = load_i8x16(w, p + 192)
        scale = simd.i16x16_from_i8(scales)
        products = zeros_i32x8(qs)
        for half in range(2):
            first = load_i8x32(w, p + 64 * half)
            second = load_i8x32(w, p + 64 * half + 32)
            top = load_i8x32(w, p + 128 + 32 * half)
            at = 256 * b + 128 * half
            k = 4 * half
            u = (first & 15) | ((top << 4) & 48)
            products = _add_scaled(products, u, splat_lane_pair(scale, k), q, qs, at)
            u = (second & 15) | ((top << 2) & 48)
            products = _add_scaled(products, u, splat_lane_pair(scale, k + 1), q, qs, at + 32)
            u = (first >> 4) | (top & 48)
            products = _add_scaled(products, u, splat_lane_pair(scale, k + 2), q, qs, at + 64)
            u = (second >> 4) | ((top >> 2) & 48)
            products = _add_scaled(products, u, splat_lane_pair(scale, k + 3), q, qs, at + 96)
        d = load_f16(w, p + 208)
        scaled = repeat(splat_f32x8(d), qs) * splat_rows_f32x8(f, fs, b)
        total = fma(scaled, floats(products), total)
        shift = _shift_16(shift, d * np.float32(32), scales, f, fs, blocks + 16 * b)
    return sums_f32x8(total - shift)


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


@machine_code
def dots_q3_k(w, o, q, qs, f, fs, n):
    """32 bytes of third bits, 64 bytes of two low bits, 12 bytes of scales, d; weights -4..3."""
    blocks = n // 256
    total = zeros_f32x8(qs)
    shift = zeros_f32x8(qs)
    for b in range(blocks):
        p = o + 110 * b
        scales = scales_q3(w, p + 96)
        scale = simd.i16x16_from_i8(scales)
        top = load_i8x32(w, p)
        products = zeros_i32x8(qs)
        for half in range(2):
            packed = load_i8x32(w, p + 32 + 32 * half)
            for j in range(4):
                k = 4 * half + j
                u = ((packed >> (2 * j)) & 3) | (((top >> k) & 1) << 2)
                at = 256 * b + 32 * k
                products = _add_scaled(products, u, splat_lane_pair(scale, k), q, qs, at)
        d = load_f16(w, p + 108)
        scaled = repeat(splat_f32x8(d), qs) * splat_rows_f32x8(f, fs, b)
        total = fma(scaled, floats(products), total)
        shift = _shift_16(shift, d * np.float32(4), scales, f, fs, blocks + 16 * b)
    return sums_f32x8(total - shift)


@machine_code
def dots_q2_k(w, o, q, qs, f, fs, n):
    """16 bytes of scale (low nibble) and minimum (high), 64 bytes of two-bit weights, d, dmin."""
    blocks = n // 256
    total = zeros_f32x8(qs)
    shift = zeros_f32x8(qs)
    for b in range(blocks):
        p = o + 84 * b
        factors = load_i8x16(w, p)
        scale = simd.i16x16_from_i8(factors & 15)
        products = zeros_i32x8(qs)
        for half in range(2):
            packed = load_i8x32(w, p + 16 + 32 * half)
            for j in range(4):
                k = 4 * half + j
                u = (packed >> (2 * j)) & 3
                at = 256 * b + 32 * k
                products = _add_scaled(products, u, splat_lane_pair(scale, k), q, qs, at)
        d = repeat(splat_f32x8(load_f16(w, p + 80)), qs) * splat_rows_f32x8(f, fs, b)
        total = fma(d, floats(products), total)
        shift = _shift_16(shift, load_f16(w, p + 82), factors >> 4, f, fs, blocks + 16 * b)
    return sums_f32x8(total - shift)


# -- floats ---------------------------------------------------------------------------------------


def _float(load8, load1, item):
    """Return the dot products for weights that are floats of ``item`` bytes."""

    @machine_code
    def dots(w, o, q, qs, f, fs, n):
        a = zeros_f32x8(fs)
        b = zeros_f32x8(fs)
        whole = n // 16
        for i in range(whole):
            j = 16 * i
            first, second = load8(w, o + item * j), load8(w, o + item * (j + 8))
            a = fma(repeat(first, fs), load_rows_f32x8(f, fs, j), a)
            b = fma(repeat(second, fs), load_rows_f32x8(f, fs, j + 8), b)
        a = a + b
        for j in range(16 * whole, n):
            single = repeat(first_lane_f32x8(load1(w, o + item * j)), fs)
            a = fma(single, splat_rows_f32x8(f, fs, j), a)
        return sums_f32x8(a)

    return dots


# -- by name --------------------------------------------------------------------------------------


def products_of(weight_type: str):
    """Return the dot products of one type as ``steps`` wants them: results go to ``f[places[t]]``.

    Args:
        weight_type: E.g. ``Q4_K``.
    """
    dots = _DOTS[weight_type]

    @machine_code
    def products(w, o, q, qs, f, fs, n, places, is_added):
        store_rows(f, places, dots(w, o, q, qs, f, fs, n), is_added)

    return products


_DOTS = {
    "F32": _float(load_f32x8, load_f32, 4),
    "F16": _float(load_f16x8, load_f16, 2),
    "BF16": _float(load_bf16x8, load_bf16, 2),
    "Q8_0": _dots_q8_0,
    "Q4_0": _small(18, high_bits=0, minimum=0, offset=8),
    "Q4_1": _small(20, high_bits=0, minimum=2, offset=0),
    "Q5_0": _small(22, high_bits=2, minimum=0, offset=16),
    "Q5_1": _small(24, high_bits=4, minimum=2, offset=0),
    "Q2_K": dots_q2_k,
    "Q3_K": dots_q3_k,
    "Q4_K": _q4_or_q5(144, False),
    "Q5_K": _q4_or_q5(176, True),
    "Q6_K": dots_q6_k,
}
