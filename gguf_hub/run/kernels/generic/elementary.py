"""Elementary functions as plain arithmetic, so that LLVM can run them in SIMD lanes.

Results do not depend on how wide these are: they are the same on every CPU.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

_LOG2_E = np.float32(1.44269504)
_LN2_HIGH = np.float32(0.693359375)  # nine bits: its products with small integers are exact
_LN2_LOW = np.float32(-2.12194440e-4)
_LOWEST, _HIGHEST = np.float32(-87.3), np.float32(88.7)  # e**x is a normal float in between
_MAGIC = np.float32(12582912.0)  # 1.5 * 2**23: adding it rounds to an integer
_HALF, _ONE = np.float32(0.5), np.float32(1.0)
_C2, _C3 = np.float32(0.166665795), np.float32(0.0416657962)
_C4, _C5 = np.float32(0.00833345209), np.float32(0.00139819999)
_C6 = np.float32(0.000198756915)


@register_jitable
def exp32(x):
    """Return e**x within 2 units in the last place; x is taken to be within -87.3 .. 88.7.

    Source: the reduction and polynomial of expf in the Cephes library (S. Moshier, 1992):
    x = k ln 2 + r with |r| <= ln 2 / 2; NaN stays NaN.
    """
    x = np.float32(x)
    bounded = x if x > _LOWEST else (_LOWEST if x <= _LOWEST else x)
    bounded = _HIGHEST if bounded > _HIGHEST else bounded
    k = np.float32(np.float32(bounded * _LOG2_E + _MAGIC) - _MAGIC)
    r = np.float32(np.float32(bounded - k * _LN2_HIGH) - k * _LN2_LOW)
    p = np.float32(_C6 * r + _C5)
    p = np.float32(p * r + _C4)
    p = np.float32(p * r + _C3)
    p = np.float32(p * r + _C2)
    p = np.float32(p * r + _HALF)
    value = np.float32(np.float32(p * (r * r)) + np.float32(r + _ONE))
    # times 2**k, by adding k to the exponent
    bits = np.int32(value.view(np.int32)) + (np.int32(k) << np.int32(23))
    return np.int32(bits).view(np.float32)


def _make_sum(term):
    """Return ``(f, x, n)``: the sum of a term of each of ``f[x:x+n]``.

    Element i goes to sum i % 8, the last ones that fill no eight to the first; the sums are
    added in pairs.
    """

    @register_jitable
    def total(f, x, n):
        a = b = c = d = e = g = h = k = term(np.float32(0))
        for i in range(x, x + n // 8 * 8, 8):
            a += term(f[np.uintp(i)])
            b += term(f[np.uintp(i + 1)])
            c += term(f[np.uintp(i + 2)])
            d += term(f[np.uintp(i + 3)])
            e += term(f[np.uintp(i + 4)])
            g += term(f[np.uintp(i + 5)])
            h += term(f[np.uintp(i + 6)])
            k += term(f[np.uintp(i + 7)])
        for i in range(x + n // 8 * 8, x + n):
            a += term(f[np.uintp(i)])
        return ((a + e) + (c + h)) + ((b + g) + (d + k))

    return total


@register_jitable
def _identity(value):
    return value


@register_jitable
def _square(value):
    return np.float64(value) * np.float64(value)


sum_of = _make_sum(_identity)
"""Sum of floats."""
sum_of_squares = _make_sum(_square)
"""Sum of squares, in float64 as ggml has it."""
