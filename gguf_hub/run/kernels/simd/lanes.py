"""One weight at a time, with the operations of SIMD lanes.

The quantisers are written once, over a module of lanes: this one, whose "vectors" are single
floats and which is right on any CPU and as plain Python; or ``simd_lanes``, eight at a time.
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.generic.floats import bfloat_bits, half_bits

LANES = 1
_MAGIC = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to an integer, halves to even


@register_jitable
def splat(value):
    """Return a vector whose lanes are all ``value``."""
    return np.float32(value)


@register_jitable
def load(f, at):
    """Return the floats at ``f[at:at+LANES]``."""
    return f[np.uintp(at)]


@register_jitable
def gather(f, at, stride):
    """Return the floats at ``f[at]``, ``f[at+stride]`` ... one for each lane."""
    return f[np.uintp(at)]


@register_jitable
def store(f, at, value):
    """Store a vector at ``f[at:at+LANES]``."""
    f[np.uintp(at)] = value


@register_jitable
def fma(a, b, c):
    """Return ``a * b + c``; some lanes round once, these twice."""
    return np.float32(a * b + c)


@register_jitable
def smaller(a, b):
    """Return the smaller of each lane."""
    return a if a < b else b


@register_jitable
def larger(a, b):
    """Return the larger of each lane."""
    return a if a > b else b


@register_jitable
def where_less(a, b, yes, no):
    """Return ``yes`` in the lanes where ``a < b``, else ``no``."""
    return yes if a < b else no


@register_jitable
def magnitude(a):
    """Return the lanes without their signs."""
    return abs(a)


@register_jitable
def root(a):
    """Return the square roots of the lanes."""
    return np.float32(math.sqrt(a))


@register_jitable
def nearest(a):
    """Return the nearest integers, halves to even; magnitudes stay below 2**22."""
    return np.float32(np.float32(a + _MAGIC) - _MAGIC)


@register_jitable
def truncate(a):
    """Return the integers towards zero; magnitudes stay below 2**31."""
    return np.float32(np.int32(a))


@register_jitable
def highest(a):
    """Return the largest lane."""
    return a


@register_jitable
def lowest(a):
    """Return the smallest lane."""
    return a


@register_jitable
def store_quants(q, at, value):
    """Store whole floats as int8 at ``q[at:at+LANES]``."""
    q[np.uintp(at)] = np.int8(value)


@register_jitable
def store_bytes(w, at, value):
    """Store whole floats, also negative ones, as bytes at ``w[at:at+LANES]``."""
    w[np.uintp(at)] = np.uint8(np.int32(value) & 255)


@register_jitable
def store_halves(w, at, value):
    """Store halves, rounded to nearest even, at the bytes from ``w[at]``."""
    bits = half_bits(value)
    w[np.uintp(at)] = np.uint8(bits & 255)
    w[np.uintp(at + 1)] = np.uint8(bits >> 8)


@register_jitable
def store_bfloats(w, at, value):
    """Store bfloat16s, rounded to nearest even, at the bytes from ``w[at]``."""
    bits = bfloat_bits(value)
    w[np.uintp(at)] = np.uint8(bits & 255)
    w[np.uintp(at + 1)] = np.uint8(bits >> 8)


@register_jitable
def store_floats(w, at, value):
    """Store float32s at the bytes from ``w[at]``."""
    bits = np.int64(np.float32(value).view(np.uint32))
    for i in range(4):
        w[np.uintp(at + i)] = np.uint8(bits >> 8 * i & 255)


@register_jitable
def pack_nibbles(q, at, w, to, n):
    """Write ``n`` bytes: quants ``q[at:at+n]`` below, ``q[at+n:at+2n]`` above."""
    for i in range(n):
        low, high = np.int32(q[np.uintp(at + i)]), np.int32(q[np.uintp(at + n + i)])
        w[np.uintp(to + i)] = np.uint8(low & 15 | (high & 15) << 4)
