"""Block arithmetic for any CPU: plain loops that are right everywhere.

Each function runs compiled (numba) and as plain Python on numpy arrays, with equal results, but
for the dot products of unpacked types, which are summed in another order when compiled. The
unpacked types and the activations are in this file, the types with blocks of 32 in
``generic_legacy``, those with blocks of 256 in ``generic_k``, those whose weights are codes in
``coded``; all are offered from here:

``DEQUANTIZE[type]`` is ``(w, o, y, yo, n)``
    Write the ``n`` weights of the row at byte ``o`` of ``w`` (uint8) to ``y[yo:yo+n]`` (float32).
    Every value is the one that ggml computes, to the last bit.
``DOT[type]`` is ``(w, o, q, qo, f, fo, n)``
    Return the dot product, float32, of that row with an activation row at ``q[qo:]`` (int8) and
    ``f[fo:]`` (float32), laid out as ``activations`` describes.
``quantize_row_<kind>(x, xo, q, qo, f, fo, n)``
    Turn ``x[xo:xo+n]`` (float32) into an activation row.

``n`` is a multiple of the block size. Offsets are int64 (a model has more than 2**31 bytes) and are
not checked. NaN scales, and activations that are not finite, make the result NaN.

Blocks are walked so that one inner loop reads 16 or 32 neighbouring bytes and takes every weight
out of each, by shifts that are constant: LLVM turns that into SIMD code for whatever CPU it is.
Take weight 200 of a Q4_K block: chunk 200 // 64 = 3 holds weights 192..255 in its 32 bytes, the
first 32 of them (192..223) in the low halves; so it is the low half of byte 200 - 192 = 8 of the
chunk, byte 16 + 32 * 3 + 8 = 120 of the block, and its scale is number 200 // 32 = 6.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.generic import coded_256, coded_small, generic_k, generic_legacy
from gguf_hub.run.kernels.generic.coded import functions_of
from gguf_hub.run.kernels.generic.floats import (
    as_half,
    at,
    bfloat_at,
    bfloat_bits,
    bfloat_value,
    float_at,
    half_at,
    half_bits,
    half_value,
)

__all__ = [
    "CODED_TYPES",
    "DEQUANTIZE",
    "DOT",
    "bfloat_bits",
    "bfloat_value",
    "half_bits",
    "half_value",
    "quantize_row_q8_0",
    "quantize_row_q8_k",
]

ANY_ORDER = {"reassoc", "contract"}
"""What LLVM may do in sums of float products: sum in SIMD lanes, fuse multiply and add.
Infinities and NaN stay what they are."""

_INFINITY_BITS = 0x7F800000
_MAX_QUANT = np.float32(127)
_HALF = np.float32(0.5)


# -- unpacked types ------------------------------------------------------------------------------


def _make_float(read, size: int):
    """Return ``dequantize`` and ``dot`` of a type of floats of ``size`` bytes; ``q`` is unused."""

    @register_jitable
    def dequantize(w, o, y, yo, n):
        for i in range(n):
            y[yo + i] = read(w, o + size * i)

    @register_jitable(fastmath=ANY_ORDER)
    def dot(w, o, q, qo, f, fo, n):
        total = np.float32(0)
        for i in range(n):
            total += read(w, o + size * i) * f[np.uintp(fo + i)]
        return total

    return dequantize, dot


CODED_TYPES = {coded.type.name: coded for coded in (*coded_256.TYPES, *coded_small.TYPES)}
"""Name of a type whose weights are codes -> how they are read."""
_FUNCTIONS = {
    QuantType.F32: _make_float(float_at, 4),
    QuantType.F16: _make_float(half_at, 2),
    QuantType.BF16: _make_float(bfloat_at, 2),
    **generic_legacy.FUNCTIONS,
    **generic_k.FUNCTIONS,
    **{coded.type: functions_of(coded) for coded in CODED_TYPES.values()},
}
DEQUANTIZE = {type.name: functions[0] for type, functions in _FUNCTIONS.items()}
"""Name of a type -> ``dequantize``."""
DOT = {type.name: functions[1] for type, functions in _FUNCTIONS.items()}
"""Name of a type -> ``dot``."""


# -- activations ---------------------------------------------------------------------------------


@register_jitable
def quantize_row_q8_0(x, xo, q, qo, f, fo, n):
    """Quantise activations in blocks of 32 (layout in ``activations``).

    The scale is rounded to a half (where one is near) after the quants were rounded, as in ggml's
    block_q8_0: results then follow llama.cpp's.
    """
    nb = n // 32
    for b in range(nb):
        d = _activation_scale(x, xo + 32 * b, 32)
        _write_quants(x, xo + 32 * b, q, qo + 32 * b, d, 32)
        half = as_half(d)
        total = _sum_quants(q, qo + 32 * b, 32)
        f[fo + b] = half
        f[fo + nb + b] = half * np.float32(total)
        _write_bytes(q, qo + n + 4 * b, total, 4)


@register_jitable
def quantize_row_q8_k(x, xo, q, qo, f, fo, n):
    """Quantise activations in blocks of 256 (layout in ``activations``)."""
    nb = n // 256
    for b in range(nb):
        d = _activation_scale(x, xo + 256 * b, 256)
        _write_quants(x, xo + 256 * b, q, qo + 256 * b, d, 256)
        f[fo + b] = d
        for j in range(8):
            first = _sum_quants(q, qo + 256 * b + 32 * j, 16)
            second = _sum_quants(q, qo + 256 * b + 32 * j + 16, 16)
            f[fo + nb + 16 * b + 2 * j] = d * np.float32(first)
            f[fo + nb + 16 * b + 2 * j + 1] = d * np.float32(second)
            f[fo + 17 * nb + 8 * b + j] = d * np.float32(first + second)
            sums = qo + n + 32 * b + 4 * j
            _write_bytes(q, sums, first, 2)
            _write_bytes(q, sums + 2, second, 2)
            _write_bytes(q, qo + n + 32 * nb + 16 * b + 2 * j, first + second, 2)


@register_jitable
def _activation_scale(x, xo, n):
    """Return the largest magnitude over 127, or NaN when a value is not finite.

    Without their signs, floats are ordered as their bits are; NaN and infinity come last.
    """
    top = np.int32(0)
    for i in range(n):
        top = max(top, np.int32(np.float32(x[np.uintp(xo + i)]).view(np.int32) & 0x7FFFFFFF))
    if top >= _INFINITY_BITS:
        return np.float32(np.nan)
    return np.float32(np.uint32(top).view(np.float32) / _MAX_QUANT)


@register_jitable
def _write_quants(x, xo, q, qo, d, n):
    """Write x/d, rounded half away from zero, as int8 within ±127.

    A scale of zero (the values are too small for one) or NaN gives quants of zero.
    """
    if not d > 0:
        for i in range(n):
            q[qo + i] = 0
        return
    for i in range(n):
        ratio = np.float32(x[np.uintp(xo + i)] / d)
        size = min(abs(ratio), _MAX_QUANT)
        rounded = np.int32(size)
        # exact, where size + 0.5 would be rounded: 0.49999997 + 0.5 is 1 in float32
        rounded = np.int32(rounded + (size - np.float32(rounded) >= _HALF))
        q[np.uintp(qo + i)] = np.int8(rounded if ratio > 0 else -rounded)


@register_jitable
def _sum_quants(q, qo, n):
    total = np.int32(0)
    for i in range(n):
        total = np.int32(total + at(q, qo + i))
    return total


@register_jitable
def _write_bytes(q, at, value, size):
    for i in range(size):
        byte = value >> 8 * i & 255
        q[np.uintp(at + i)] = np.int8(byte - 256 if byte > 127 else byte)
