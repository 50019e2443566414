"""Half and bfloat16 values by integer arithmetic, and reading little-endian numbers from bytes.

Like all of the generic path these are plain functions that numba can compile: called from Python
they work on numpy scalars, so every step first widens to a type that the result fits.

Source: IEEE 754-2008 binary16 and binary32; bfloat16 is the upper half of binary32.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

_SMALLEST_HALF = np.float32(2.0**-24)
_SMALLEST_NORMAL_HALF = np.float32(2.0**-14)
_LARGEST_HALF = np.float32(65504)
_ONE_HALF = np.float32(0.5)
_ONE_HALF_BITS = 0x3F000000
_REBIAS = (127 - 15) << 23
"""What to add to the exponent of a half, in binary32's place: there it counts from 127, not 15."""


@register_jitable
def at(a, i):
    """Return ``a[i]`` of an integer array, widened to int32.

    The unsigned index spares compiled code the test for a negative one, without which LLVM turns
    the loops around it into SIMD code.
    """
    return np.int32(a[np.uintp(i)])


@register_jitable
def signed_at(w, i):
    """Return byte ``w[i]`` read as int8, widened to int32."""
    return np.int32(np.int8(w[np.uintp(i)]))


@register_jitable
def half_at(w, i):
    """Return the half at bytes ``w[i:i+2]`` as float32."""
    return half_value(at(w, i) | at(w, i + 1) << 8)


@register_jitable
def bfloat_at(w, i):
    """Return the bfloat16 at bytes ``w[i:i+2]`` as float32."""
    return bfloat_value(at(w, i) | at(w, i + 1) << 8)


@register_jitable
def word_at(w, i):
    """Return the four bytes ``w[i:i+4]`` as int32: bit 31 is its sign."""
    return np.int32(at(w, i) | at(w, i + 1) << 8 | at(w, i + 2) << 16 | at(w, i + 3) << 24)


@register_jitable
def float_at(w, i):
    """Return the float32 at bytes ``w[i:i+4]``."""
    return np.uint32(word_at(w, i)).view(np.float32)


@register_jitable
def half_value(bits):
    """Return the float32 that the 16 bits of a half stand for; exact, NaN stays NaN."""
    sign = np.uint32((np.int64(bits) & 0x8000) << 16)
    magnitude = np.int32(np.int32(bits) & 0x7FFF)
    normal = np.uint32((magnitude << 13) + _REBIAS)
    if magnitude >= 0x7C00:  # infinity and NaN: from an exponent of all ones to one of all ones
        normal = np.uint32(normal + _REBIAS)
    # zero and subnormals: so many times the smallest half
    small = np.float32(np.float32(magnitude) * _SMALLEST_HALF).view(np.uint32)
    return np.uint32((small if magnitude < 0x400 else normal) | sign).view(np.float32)


@register_jitable
def half_bits(value):
    """Return the 16 bits of the half nearest to a float32, ties to even, as an integer.

    65520 and above become infinity; NaN stays NaN with the upper bits of its payload.
    """
    wide = np.int64(np.float32(value).view(np.uint32))
    sign = wide >> 16 & 0x8000
    magnitude = wide & 0x7FFFFFFF
    if magnitude > 0x7F800000:
        return sign | 0x7E00 | (magnitude >> 13 & 0x3FF)
    if magnitude < 0x38800000:
        # Below 2**-14 halves are multiples of 2**-24, and so are the floats from a half to one:
        # the sum is rounded to one of them, and its bits count how many above a half it is.
        small = np.uint32(magnitude).view(np.float32)
        total = np.int64(np.float32(small + _ONE_HALF).view(np.uint32))
        return sign | (total - _ONE_HALF_BITS)
    # 13 bits fall away: add just under half of their weight, and the rest of it when odd
    rounded = magnitude - _REBIAS + 0xFFF + (magnitude >> 13 & 1)
    return sign | min(rounded >> 13, 0x7C00)


@register_jitable
def as_half(value):
    """Return a positive float32 rounded to a half, or as it is where no normal half is near."""
    if value < _SMALLEST_NORMAL_HALF or value > _LARGEST_HALF:
        return value
    return half_value(half_bits(value))


@register_jitable
def bfloat_value(bits):
    """Return the float32 that the 16 bits of a bfloat16 stand for."""
    return np.uint32(np.int64(bits) << 16).view(np.float32)


@register_jitable
def bfloat_bits(value):
    """Return the 16 bits of the bfloat16 nearest to a float32, ties to even, as an integer."""
    wide = np.int64(np.float32(value).view(np.uint32))
    if wide & 0x7FFFFFFF > 0x7F800000:
        return wide >> 16 | 0x40  # a quiet NaN, also when its payload was all in the lower half
    return (wide + 0x7FFF + (wide >> 16 & 1)) >> 16
