"""Types of codes in blocks of 256 weights: IQ1, IQ2, IQ3, IQ4_XS and the ternary TQ.

Source: struct block_iq2_xxs ... block_tq2_0 in ggml/src/ggml-common.h, dequantize_row_iq2_xxs ...
in ggml/src/ggml-quants.c, at ggml commit c2cdd2b2.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.generic import grids
from gguf_hub.run.kernels.generic.coded import (
    CodedType,
    half_bits_at,
    long_at,
    nibbles_at,
)
from gguf_hub.run.kernels.generic.floats import at, half_at, half_value, word_at

_IQ2_XXS, _IQ2_XS, _IQ2_S = grids.IQ2_XXS, grids.IQ2_XS, grids.IQ2_S
_IQ3_XXS, _IQ3_S, _IQ1 = grids.IQ3_XXS, grids.IQ3_S, grids.IQ1
_SIGNS, _EVEN_SIGNS = grids.SIGNS, grids.EVEN_SIGNS
_POWERS_OF_3 = np.array([1, 3, 9, 27, 81], np.uint64)
_NONE = np.uint64(0)
_TWOS = np.uint64(0x0202020202020202)
_LOW_BYTES = np.uint64(0x00FF00FF00FF00FF)


def _half_of(d_at: int, shift: int = 0):
    """Return the factor that is the half at byte ``d_at`` of a block over 2**shift: exact."""
    part = np.float32(2.0**-shift)

    @register_jitable
    def factor(w, block, j):
        return half_at(w, block + d_at) * part

    return factor


# -- IQ2: eight weights of 8, 25 or 43 -------------------------------------------------------------


@register_jitable
def _iq2_xxs(w, block, i):
    """Of each 32: four bytes of grid, then 32 bits: four times seven signs, four of a scale."""
    group = block + 2 + i // 4 * 8
    signs = word_at(w, group + 4) >> 7 * (i % 4) & 127
    return _IQ2_XXS[at(w, group + i % 4)], _EVEN_SIGNS[signs]


@register_jitable
def _iq2_xxs_scale(w, block, j):
    return np.int32(2 * (at(w, block + 9 + 8 * j) >> 4) + 1)


@register_jitable
def _iq2_xs(w, block, i):
    """Nine bits of grid, seven signs; behind them the scales."""
    code = half_bits_at(w, block + 2 + 2 * i)
    return _IQ2_XS[code & 511], _EVEN_SIGNS[code >> 9]


def _nibble_scale(first: int):
    """Return the scale 2 s + 1 of groups whose s are the halves of bytes from ``first`` on."""

    @register_jitable
    def scale(w, block, j):
        return np.int32(2 * (at(w, block + first + j // 2) >> j % 2 * 4 & 15) + 1)

    return scale


@register_jitable
def _iq2_s(w, block, i):
    """32 low bytes of grid, 32 bytes of signs, 8 with two high bits for each grid, 8 of scales."""
    high = at(w, block + 66 + i // 4) >> i % 4 * 2 & 3
    return _IQ2_S[at(w, block + 2 + i) | high << 8], _SIGNS[at(w, block + 34 + i)]


# -- IQ3: twice four weights of eight magnitudes ---------------------------------------------------


@register_jitable
def _two_fours(grid, first, second):
    return grid[first] | grid[second] << np.uint64(32)


@register_jitable
def _iq3_xxs(w, block, i):
    """64 bytes of grid; of each 32 weights 32 bits as in IQ2_XXS."""
    grid = block + 2 + 2 * i
    signs = word_at(w, block + 66 + i // 4 * 4) >> 7 * (i % 4) & 127
    return _two_fours(_IQ3_XXS, at(w, grid), at(w, grid + 1)), _EVEN_SIGNS[signs]


@register_jitable
def _iq3_xxs_scale(w, block, j):
    return np.int32(2 * (at(w, block + 69 + 4 * j) >> 4) + 1)


@register_jitable
def _iq3_s(w, block, i):
    """64 low bytes of grid, 8 with a high bit for each, 32 bytes of signs, 4 of scales."""
    grid, high = block + 2 + 2 * i, at(w, block + 66 + i // 4) >> i % 4 * 2
    first, second = at(w, grid) | (high & 1) << 8, at(w, grid + 1) | (high & 2) << 7
    return _two_fours(_IQ3_S, first, second), _SIGNS[at(w, block + 74 + i)]


# -- IQ1: eight weights of -1, 0 or 1, and for all of them an eighth more or less ------------------


@register_jitable
def _iq1_s(w, block, i):
    """32 low bytes of grid; of each 32 weights four times three high bits, a scale, a sign."""
    high = half_bits_at(w, block + 34 + i // 4 * 2)
    codes = _IQ1[at(w, block + 2 + i) | (high >> 3 * (i % 4) & 7) << 8]
    return codes, _TWOS if high & 0x8000 else _NONE


@register_jitable
def _iq1_s_scale(w, block, j):
    return np.int32(2 * (at(w, block + 35 + 2 * j) >> 4 & 7) + 1)


@register_jitable
def _iq1_m(w, block, i):
    """32 low bytes of grid, 16 with twice three high bits and a sign, 8 of scales and factor."""
    high = at(w, block + 32 + i // 2) >> i % 2 * 4
    return _IQ1[at(w, block + i) | (high & 7) << 8], _TWOS if high & 8 else _NONE


@register_jitable
def _iq1_m_scale(w, block, j):
    return np.int32(2 * (half_bits_at(w, block + 48 + j // 4 * 2) >> 3 * (j % 4) & 7) + 1)


@register_jitable
def _iq1_m_factor(w, block, j):
    """The top four bits of each of the four words of scales are a half, the lowest four first."""
    low = at(w, block + 49) >> 4 | at(w, block + 51) & 0xF0
    high = at(w, block + 53) >> 4 | at(w, block + 55) & 0xF0
    return half_value(low | high << 8) * np.float32(0.125)


# -- one weight at a time --------------------------------------------------------------------------


@register_jitable
def _iq4_xs(w, block, i):
    """Halves of a byte; the block is: d, 2 and 4 bytes of scales, 128 bytes."""
    packed = block + 8 + i // 4 * 16 + i % 2 * 8
    return nibbles_at(w, packed, i // 2 % 2 * 4), _NONE


@register_jitable
def _iq4_xs_scale(w, block, j):
    """Six bits, less 32: four in a half of bytes 4 ... 7, two in bytes 2 and 3."""
    low = at(w, block + 4 + j // 2) >> j % 2 * 4 & 15
    return np.int32((low | (half_bits_at(w, block + 2) >> 2 * j & 3) << 4) - 32)


@register_jitable
def _trits(packed, n):
    """Return digit ``n`` of the five of each of eight bytes, which are fractions in base 3."""
    power, three = _POWERS_OF_3[n], np.uint64(3)
    even, odd = packed & _LOW_BYTES, packed >> np.uint64(8) & _LOW_BYTES
    even = (even * power & _LOW_BYTES) * three >> np.uint64(8) & _LOW_BYTES
    odd = (odd * power & _LOW_BYTES) * three >> np.uint64(8) & _LOW_BYTES
    return even | odd << np.uint64(8)


@register_jitable
def _tq1_0(w, block, i):
    """48 bytes of five digits, 4 of four digits, d: digits of 32, of 16 and of 4 bytes in turn."""
    if i < 20:
        return _trits(long_at(w, block + i % 4 * 8), i // 4), _NONE
    if i < 30:
        return _trits(long_at(w, block + 32 + i % 2 * 8), (i - 20) // 2), _NONE
    last = long_at(w, block + 46) >> np.uint64(16) & np.uint64(0xFFFFFFFF)
    first = 2 * (i - 30)
    return _trits(last, first) | _trits(last, first + 1) << np.uint64(32), _NONE


@register_jitable
def _tq2_0(w, block, i):
    """Four pairs of bits in a byte; the block is: 64 bytes, d."""
    packed = long_at(w, block + i // 16 * 32 + i % 4 * 8)
    return packed >> np.uint64(i // 4 % 4 * 2) & np.uint64(0x0303030303030303), _NONE


@register_jitable
def _one(w, block, j):
    return np.int32(1)


T = QuantType
TYPES = (
    CodedType(T.IQ2_XXS, _iq2_xxs, _half_of(0, 3), _iq2_xxs_scale, 32, grids.OFFSET, 107),
    CodedType(T.IQ2_XS, _iq2_xs, _half_of(0, 3), _nibble_scale(66), 16, grids.OFFSET, 107),
    CodedType(T.IQ2_S, _iq2_s, _half_of(0, 3), _nibble_scale(74), 16, grids.OFFSET, 107),
    CodedType(T.IQ3_XXS, _iq3_xxs, _half_of(0, 2), _iq3_xxs_scale, 32, grids.OFFSET, 126),
    CodedType(T.IQ3_S, _iq3_s, _half_of(0), _nibble_scale(106), 32, grids.OFFSET, 79),
    CodedType(T.IQ1_S, _iq1_s, _half_of(0, 3), _iq1_s_scale, 32, grids.TERNARY_OFFSET, 26),
    CodedType(T.IQ1_M, _iq1_m, _iq1_m_factor, _iq1_m_scale, 16, grids.TERNARY_OFFSET, 26),
    CodedType(
        T.IQ4_XS, _iq4_xs, _half_of(0), _iq4_xs_scale, 32, 128, 241,
        table=grids.NONLINEAR, nibbles=8,
    ),
    CodedType(T.TQ1_0, _tq1_0, _half_of(52), _one, 32, 1, 2),
    CodedType(T.TQ2_0, _tq2_0, _half_of(64), _one, 32, 1, 3),
)  # fmt: skip
