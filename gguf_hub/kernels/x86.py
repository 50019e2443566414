"""What rows have in common on all x86: products of unpacked types, and scales of Q3_K to Q5_K.

``dots(w, o, q, qs, f, fs, n)`` multiplies the ``n`` weights at byte ``o`` of the file with several
activation rows at once: row t lies at ``q[qs[t]:]`` and ``f[fs[t]:]`` (formats: ``activations``).
Weights are widened once for all rows; the rows' products lie side by side in one wide vector,
which LLVM keeps in as many registers. The sums of a row do not depend on how many go with it.

Block layouts: ggml-common.h at ggml c2cdd2b2; the arithmetic is ours.
"""

from __future__ import annotations

import numpy as np

from gguf_hub.kernels import simd
from gguf_hub.kernels.simd import concat, fma
from gguf_hub.kernels.simd_memory import (
    ask_ahead_of,
    load_bf16,
    load_bf16x8,
    load_f16,
    load_f16x8,
    load_f32,
    load_f32x8,
    load_u32,
    load_u64,
)
from gguf_hub.kernels.simd_rows import (
    first_lane_f32x8,
    load_rows_f32x8,
    repeat,
    splat_rows_f32x8,
    store_rows,
    sums_f32x8,
    zeros_f32x8,
)
from gguf_hub.kernels.vectors import machine_code

# -- scales ---------------------------------------------------------------------------------------


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


# -- floats ---------------------------------------------------------------------------------------


def _float(load8, load1, item):
    """Return the dot products for weights that are floats of ``item`` bytes."""
    ask_ahead = ask_ahead_of(16 * item)

    @machine_code
    def dots(w, o, q, qs, f, fs, n):
        a = zeros_f32x8(fs)
        b = zeros_f32x8(fs)
        whole = n // 16
        for i in range(whole):
            j = 16 * i
            ask_ahead(w, o + item * j)
            first, second = load8(w, o + item * j), load8(w, o + item * (j + 8))
            a = fma(repeat(first, fs), load_rows_f32x8(f, fs, j), a)
            b = fma(repeat(second, fs), load_rows_f32x8(f, fs, j + 8), b)
        a = a + b
        for j in range(16 * whole, n):
            single = repeat(first_lane_f32x8(load1(w, o + item * j)), fs)
            a = fma(single, splat_rows_f32x8(f, fs, j), a)
        return sums_f32x8(a)

    return dots


def products_of(weight_type: str):
    """Return the dot products of a float type as ``steps`` wants them: into ``f[places[t]]``."""
    dots = _DOTS[weight_type]

    @machine_code
    def products(w, o, q, qs, f, fs, n, places, is_added):
        store_rows(f, places, dots(w, o, q, qs, f, fs, n), is_added)

    return products


_DOTS = {
    "F32": _float(load_f32x8, load_f32, 4),
    "F16": _float(load_f16x8, load_f16, 2),
    "BF16": _float(load_bf16x8, load_bf16, 2),
}
