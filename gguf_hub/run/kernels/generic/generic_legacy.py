"""Types with blocks of 32 weights, for any CPU; ``generic`` describes the functions.

A type is the function that unpacks it: ``(w, block, i) -> (weight i, weight 16 + i)`` as int8
quants, for 0 <= i < 16. Both come out of byte i of the 16 (in Q8_0 out of two bytes). What
the types have in common is written once, around that function.

Source: struct block_q4_0 ... block_q8_0 in ggml/src/ggml-common.h, dequantize_row_q4_0 ... in
ggml/src/ggml-quants.c, at ggml commit c2cdd2b2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.generic.floats import at, half_at, word_at

_BIT = np.array([1 << i for i in range(16)], np.int32)


@register_jitable
def _q4_0(w, block, i):
    """Halves of a byte, less 8; the block is: d half, 16 bytes."""
    x = at(w, block + 2 + i)
    return np.int8((x & 15) - 8), np.int8((x >> 4) - 8)


@register_jitable
def _q4_1(w, block, i):
    """Halves of a byte; the block is: d half, m half, 16 bytes."""
    x = at(w, block + 4 + i)
    return np.int8(x & 15), np.int8(x >> 4)


@register_jitable
def _q5_0(w, block, i):
    """Five bits, less 16; the block is: d half, 32 fifth bits, 16 bytes with the lower four."""
    x = at(w, block + 6 + i)
    fifth, sixteenth = word_at(w, block + 2), word_at(w, block + 2) >> 16
    return (
        np.int8((x & 15) - (0 if fifth & _BIT[i] else 16)),
        np.int8((x >> 4) - (0 if sixteenth & _BIT[i] else 16)),
    )


@register_jitable
def _q5_1(w, block, i):
    """Five bits; the block is: d half, m half, 32 fifth bits, 16 bytes with the lower four."""
    x = at(w, block + 8 + i)
    fifth, sixteenth = word_at(w, block + 4), word_at(w, block + 4) >> 16
    return (
        np.int8((x & 15) + (16 if fifth & _BIT[i] else 0)),
        np.int8((x >> 4) + (16 if sixteenth & _BIT[i] else 0)),
    )


@register_jitable
def _q8_0(w, block, i):
    """Signed bytes; the block is: d half, 32 bytes."""
    return np.int8(w[np.uintp(block + 2 + i)]), np.int8(w[np.uintp(block + 18 + i)])


def _make(type: QuantType, unpack: Callable, *, has_m: bool = False) -> tuple[Callable, Callable]:
    """Return ``dequantize`` and ``dot`` of a type.

    Args:
        type: Gives the size of a block, which starts with the scale d.
        unpack: The function of the quants.
        has_m: Whether a half m follows d: weight = d * quant + m.
    """
    block_bytes = type.type_size

    @register_jitable
    def dequantize(w, o, y, yo, n):
        """Write d x quant of each weight, plus m where the type has one."""
        for b in range(n // 32):
            block, first = o + block_bytes * b, yo + 32 * b
            d, m = half_at(w, block), half_at(w, block + 2)
            for i in range(16):
                low, high = unpack(w, block, i)
                y[first + i] = d * np.float32(low)
                y[first + 16 + i] = d * np.float32(high)
            if has_m:
                for i in range(32):
                    y[first + i] += m

    @register_jitable
    def products(w, block, q, qb, i):
        """Return the sum of the products of quants i and 16 + i with those at ``qb``."""
        low, high = unpack(w, block, i)
        return low * at(q, qb + i) + high * at(q, qb + 16 + i)

    @register_jitable
    def dot(w, o, q, qo, f, fo, n):
        """Return the dot product with a ``q8_0`` row; minima meet the sums that it carries."""
        nb = n // 32
        total = offsets = np.float32(0)
        # Four blocks at a time: LLVM unrolls a shorter loop before it can make SIMD code of it.
        for four in range((nb + 3) // 4):
            b0 = 4 * four
            # past an odd end, the last block once more: computed, not added
            b1, b2, b3 = min(b0 + 1, nb - 1), min(b0 + 2, nb - 1), min(b0 + 3, nb - 1)
            t0 = t1 = t2 = t3 = np.int32(0)
            for i in range(16):
                t0 = np.int32(t0 + products(w, o + block_bytes * b0, q, qo + 32 * b0, i))
                t1 = np.int32(t1 + products(w, o + block_bytes * b1, q, qo + 32 * b1, i))
                t2 = np.int32(t2 + products(w, o + block_bytes * b2, q, qo + 32 * b2, i))
                t3 = np.int32(t3 + products(w, o + block_bytes * b3, q, qo + 32 * b3, i))
            for k, t in enumerate((t0, t1, t2, t3)):
                b = b0 + k
                if b < nb:
                    block = o + block_bytes * b
                    total += half_at(w, block) * f[fo + b] * np.float32(t)
                    if has_m:
                        offsets += half_at(w, block + 2) * f[fo + nb + b]
        return total + offsets

    return dequantize, dot


FUNCTIONS = {
    QuantType.Q4_0: _make(QuantType.Q4_0, _q4_0),
    QuantType.Q4_1: _make(QuantType.Q4_1, _q4_1, has_m=True),
    QuantType.Q5_0: _make(QuantType.Q5_0, _q5_0),
    QuantType.Q5_1: _make(QuantType.Q5_1, _q5_1, has_m=True),
    QuantType.Q8_0: _make(QuantType.Q8_0, _q8_0),
}
