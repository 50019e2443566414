"""Quantising activation rows over SIMD registers: results of `generic` but for ties of rounding.

Halves are rounded to even and the scale is multiplied by, not divided by, as ggml does.
"""

from __future__ import annotations

import numpy as np

from gguf_hub.run.kernels.generic.floats import as_half
from gguf_hub.run.kernels.simd.simd import (
    max_i32x8,
    round_i32x8,
    splat_f32x8,
    splat_i32x8,
    top_i32x8,
)
from gguf_hub.run.kernels.simd.simd512 import sum_of
from gguf_hub.run.kernels.simd.simd_memory import (
    load_f32x8,
    load_i32x8,
    store_i8_of_i32x8,
    store_i16,
    store_i32,
)
from gguf_hub.run.kernels.simd.vectors import machine_code

_INFINITY_BITS = np.int32(0x7F800000)


@machine_code
def _magnitude(x, xo, n):
    """Return the largest magnitude of ``n`` values, a multiple of 8; NaN if one is not finite.

    Without their signs, floats are ordered as their bits are; NaN and infinity come last.
    """
    mask = splat_i32x8(0x7FFFFFFF)
    top = load_i32x8(x, xo) & mask
    for i in range(1, n // 8):
        top = max_i32x8(top, load_i32x8(x, xo + 8 * i) & mask)
    bits = top_i32x8(top)
    return np.float32(np.nan) if bits >= _INFINITY_BITS else np.int32(bits).view(np.float32)


@machine_code
def _write_quants(x, xo, q, qo, inverse, n):
    """Write ``n`` values, a multiple of 8, times ``inverse`` as int8; return their sum."""
    total = np.int32(0)
    for i in range(n // 8):
        quants = round_i32x8(load_f32x8(x, xo + 8 * i) * inverse)
        store_i8_of_i32x8(q, qo + 8 * i, quants)
        total += sum_of(quants)
    return total


@machine_code
def _inverse(top):
    """Return 127 over the largest magnitude; 0 for a row of zeros."""
    return splat_f32x8(np.float32(127) / top if top > 0 else np.float32(0))


@machine_code
def quantize_row_q8_0(x, xo, q, qo, f, fo, n):
    """Blocks of 32 (layout in ``activations``).

    The scale is kept as a half where one is near, as in ggml's block_q8_0: results then follow
    llama.cpp's.
    """
    blocks = n // 32
    for b in range(blocks):
        top = _magnitude(x, xo + 32 * b, 32)
        d = as_half(top / np.float32(127))
        total = _write_quants(x, xo + 32 * b, q, qo + 32 * b, _inverse(top), 32)
        f[fo + b] = d
        f[fo + blocks + b] = d * np.float32(total)
        store_i32(q, qo + n + 4 * b, total)


@machine_code
def quantize_row_q8_k(x, xo, q, qo, f, fo, n):
    """Blocks of 256 (layout in ``activations``)."""
    blocks = n // 256
    for b in range(blocks):
        top = _magnitude(x, xo + 256 * b, 256)
        d = top / np.float32(127)
        inverse = _inverse(top)
        f[fo + b] = d
        for j in range(8):
            at = 256 * b + 32 * j
            first = _write_quants(x, xo + at, q, qo + at, inverse, 16)
            second = _write_quants(x, xo + at + 16, q, qo + at + 16, inverse, 16)
            f[fo + blocks + 16 * b + 2 * j] = d * np.float32(first)
            f[fo + blocks + 16 * b + 2 * j + 1] = d * np.float32(second)
            f[fo + 17 * blocks + 8 * b + j] = d * np.float32(first + second)
            sums = qo + n + 32 * b + 4 * j
            store_i16(q, sums, first)
            store_i16(q, sums + 2, second)
            store_i16(q, qo + n + 32 * blocks + 16 * b + 2 * j, first + second)
