"""Types with super-blocks of 256 weights, for any CPU; ``generic`` describes the functions.

A super-block has groups of 16 or 32 weights, each with a small integer scale and, in some types, a
minimum: weight = (d * scale) * quant - (dmin * minimum). A type is two functions around which the
rest is written once:

unpack, ``(w, block, i) -> quants``
    The eight weights i, 32 + i, ... 224 + i as int8, for 0 <= i < 32.
scales, ``(w, block, j) -> (scale, minimum)``
    Of group j, which has weights 16 j ... 16 j + 15, or 32 j ... 32 j + 31.

Source: struct block_q2_K ... block_q6_K in ggml/src/ggml-common.h, dequantize_row_q2_K ... and
get_scale_min_k4 in ggml/src/ggml-quants.c, at ggml commit c2cdd2b2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.generic.floats import at, half_at, signed_at


@register_jitable
def _q2_k(w, block, i):
    """Four pairs of bits in a byte; the block is: 16 scales, 64 bytes, d, dmin."""
    x, y = at(w, block + 16 + i), at(w, block + 48 + i)
    return (
        np.int8(x & 3),
        np.int8(x >> 2 & 3),
        np.int8(x >> 4 & 3),
        np.int8(x >> 6),
        np.int8(y & 3),
        np.int8(y >> 2 & 3),
        np.int8(y >> 4 & 3),
        np.int8(y >> 6),
    )


@register_jitable
def _q2_k_scales(w, block, j):
    """The halves of a byte."""
    x = at(w, block + j)
    return x & 15, x >> 4


@register_jitable
def _q3_k(w, block, i):
    """Four pairs of bits in a byte and a third bit for each, less 4.

    The block is: 32 bytes with the third bits, 64 bytes, 12 bytes with the scales, d. Bit k of
    byte i of the third bits belongs to weight 32 k + i.
    """
    third, x, y = at(w, block + i), at(w, block + 32 + i), at(w, block + 64 + i)
    return (
        np.int8((x & 3 | (third & 1) << 2) - 4),
        np.int8((x >> 2 & 3 | (third & 2) << 1) - 4),
        np.int8((x >> 4 & 3 | third & 4) - 4),
        np.int8((x >> 6 | (third & 8) >> 1) - 4),
        np.int8((y & 3 | (third & 16) >> 2) - 4),
        np.int8((y >> 2 & 3 | (third & 32) >> 3) - 4),
        np.int8((y >> 4 & 3 | (third & 64) >> 4) - 4),
        np.int8((y >> 6 | (third & 128) >> 5) - 4),
    )


@register_jitable
def _q3_k_scales(w, block, j):
    """Six bits, less 32: four in a half of bytes 0..7, two in one of the pairs of bytes 8..11."""
    low = at(w, block + 96 + (j & 7)) >> (j >> 3 << 2) & 15
    high = at(w, block + 104 + (j & 3)) >> (j >> 2 << 1) & 3
    return (low | high << 4) - 32, 0


@register_jitable
def _q4_k(w, block, i):
    """The halves of a byte; the block is: d, dmin, 12 bytes of scales and minima, 128 bytes."""
    a, b = at(w, block + 16 + i), at(w, block + 48 + i)
    c, d = at(w, block + 80 + i), at(w, block + 112 + i)
    return (
        np.int8(a & 15),
        np.int8(a >> 4),
        np.int8(b & 15),
        np.int8(b >> 4),
        np.int8(c & 15),
        np.int8(c >> 4),
        np.int8(d & 15),
        np.int8(d >> 4),
    )


@register_jitable
def _q4_k_scales(w, block, j):
    """Six bits each, in 12 bytes.

    Bytes 0..3 and 4..7 hold scales and minima 0..3. Their upper two bits belong to scales and
    minima 4..7, whose lower four are the halves of bytes 8..11.
    """
    packed = block + 4
    if j < 4:
        return at(w, packed + j) & 63, at(w, packed + 4 + j) & 63
    low = at(w, packed + 4 + j)
    scale = low & 15 | at(w, packed + j - 4) >> 6 << 4
    return scale, low >> 4 | at(w, packed + j) >> 6 << 4


@register_jitable
def _q5_k(w, block, i):
    """Five bits; the block is: d, dmin, 12 bytes as in Q4_K, 32 with the fifth bits, 128 bytes.

    Bit k of byte i of the fifth bits belongs to weight 32 k + i.
    """
    fifth = at(w, block + 16 + i)
    a, b = at(w, block + 48 + i), at(w, block + 80 + i)
    c, d = at(w, block + 112 + i), at(w, block + 144 + i)
    return (
        np.int8(a & 15 | (fifth & 1) << 4),
        np.int8(a >> 4 | (fifth & 2) << 3),
        np.int8(b & 15 | (fifth & 4) << 2),
        np.int8(b >> 4 | (fifth & 8) << 1),
        np.int8(c & 15 | fifth & 16),
        np.int8(c >> 4 | (fifth & 32) >> 1),
        np.int8(d & 15 | (fifth & 64) >> 2),
        np.int8(d >> 4 | (fifth & 128) >> 3),
    )


@register_jitable
def _q6_k(w, block, i):
    """Six bits, less 32; the block is: 128 bytes with four, 64 with two, 16 scales, d."""
    a, b, c, d = (
        at(w, block + i), at(w, block + 32 + i), at(w, block + 64 + i), at(w, block + 96 + i),
    )  # fmt: skip
    x, y = at(w, block + 128 + i), at(w, block + 160 + i)
    return (
        np.int8((a & 15 | (x & 3) << 4) - 32),
        np.int8((b & 15 | (x & 12) << 2) - 32),
        np.int8((a >> 4 | x & 48) - 32),
        np.int8((b >> 4 | (x & 192) >> 2) - 32),
        np.int8((c & 15 | (y & 3) << 4) - 32),
        np.int8((d & 15 | (y & 12) << 2) - 32),
        np.int8((c >> 4 | y & 48) - 32),
        np.int8((d >> 4 | (y & 192) >> 2) - 32),
    )


@register_jitable
def _q6_k_scales(w, block, j):
    """A signed byte."""
    return signed_at(w, block + 192 + j), 0


def _make(
    type: QuantType, unpack: Callable, scales: Callable, *, group: int, d_at: int, has_minima: bool
) -> tuple[Callable, Callable]:
    """Return ``dequantize`` and ``dot`` of a type.

    Args:
        type: Gives the size of a block.
        unpack: The function of the quants.
        scales: Scale and minimum of a group.
        group: Weights in a group, 16 or 32.
        d_at: Where in the block the half d lies.
        has_minima: Whether a half dmin follows d; if not, minima are ignored.
    """
    block_bytes = type.type_size
    sides = 32 // group

    @register_jitable
    def dequantize(w, o, y, yo, n):
        """Write quant x (d x scale) - dmin x minimum, rounded after each operation as ggml's."""
        for b in range(n // 256):
            block, first = o + block_bytes * b, yo + 256 * b
            d = half_at(w, block + d_at)
            dmin = half_at(w, block + d_at + 2) if has_minima else np.float32(0)
            for i in range(32):
                for k, quant in enumerate(unpack(w, block, i)):
                    y[first + 32 * k + i] = np.float32(quant)
            for j in range(8 * sides):
                scale, minimum = scales(w, block, j)
                factor, shift = d * np.float32(scale), dmin * np.float32(minimum)
                for i in range(group * j, group * j + group):
                    y[first + i] *= factor
                    if has_minima:
                        y[first + i] -= shift

    @register_jitable
    def dot(w, o, q, qo, f, fo, n):
        """Return the dot product with a ``q8_k`` row: eight sums of weights 32 apart at once."""
        nb = n // 256
        total = np.float32(0)
        for b in range(nb):
            block = o + block_bytes * b
            sums = fo + nb + 16 * b if group == 16 else fo + 17 * nb + 8 * b
            scaled = np.int32(0)  # at most 256 * 127 * 32 * 128 in magnitude (Q6_K): 1.4e8
            minima = np.float32(0)
            for side in range(sides):
                first = group * side
                p = qo + 256 * b + first
                t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = np.int32(0)
                for i in range(group):
                    s0, s1, s2, s3, s4, s5, s6, s7 = unpack(w, block, first + i)
                    t0 = np.int32(t0 + s0 * at(q, p + i))
                    t1 = np.int32(t1 + s1 * at(q, p + 32 + i))
                    t2 = np.int32(t2 + s2 * at(q, p + 64 + i))
                    t3 = np.int32(t3 + s3 * at(q, p + 96 + i))
                    t4 = np.int32(t4 + s4 * at(q, p + 128 + i))
                    t5 = np.int32(t5 + s5 * at(q, p + 160 + i))
                    t6 = np.int32(t6 + s6 * at(q, p + 192 + i))
                    t7 = np.int32(t7 + s7 * at(q, p + 224 + i))
                for k, t in enumerate((t0, t1, t2, t3, t4, t5, t6, t7)):
                    j = sides * k + side
                    scale, minimum = scales(w, block, j)
                    scaled = np.int32(scaled + scale * t)
                    if has_minima:
                        minima += np.float32(minimum) * f[sums + j]
            total += half_at(w, block + d_at) * f[fo + b] * np.float32(scaled)
            if has_minima:
                total -= half_at(w, block + d_at + 2) * minima
        return total

    return dequantize, dot


FUNCTIONS = {
    QuantType.Q2_K: _make(QuantType.Q2_K, _q2_k, _q2_k_scales, group=16, d_at=80, has_minima=True),
    QuantType.Q3_K: _make(
        QuantType.Q3_K, _q3_k, _q3_k_scales, group=16, d_at=108, has_minima=False
    ),
    QuantType.Q4_K: _make(QuantType.Q4_K, _q4_k, _q4_k_scales, group=32, d_at=0, has_minima=True),
    QuantType.Q5_K: _make(QuantType.Q5_K, _q5_k, _q4_k_scales, group=32, d_at=0, has_minima=True),
    QuantType.Q6_K: _make(
        QuantType.Q6_K, _q6_k, _q6_k_scales, group=16, d_at=208, has_minima=False
    ),
}
