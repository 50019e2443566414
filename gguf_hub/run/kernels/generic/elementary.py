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
_T1, _T2 = np.float32(-3.33332819422e-1), np.float32(1.33314422036e-1)
_T3, _T4 = np.float32(-5.37397155531e-2), np.float32(2.06390887954e-2)
_T5 = np.float32(-5.70498872745e-3)
_SMALL, _LARGE = np.float32(0.625), np.float32(10.0)  # beyond the second, tanh rounds to 1
_E3, _E4, _E5 = np.float32(1 / 6), np.float32(1 / 24), np.float32(1 / 120)
_E6, _E7, _NEAR = np.float32(1 / 720), np.float32(1 / 5040), np.float32(0.35)
_TWO, _UNDERFLOW = np.float32(2.0), np.float32(-88.0)
_GELU_1, _GELU_3 = np.float32(1.5957691216), np.float32(0.044715)  # 2 sqrt(2 / pi)


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


@register_jitable
def expm1_32(x):
    """Return e**x - 1 within 4 units in the last place, for x as in ``exp32``; NaN stays NaN.

    Near 0 by its series, which does not cancel: what is left out of it is less than 0.35**8 / 8!.
    """
    x = np.float32(x)
    p = np.float32(_E7 * x + _E6)
    p = np.float32(p * x + _E5)
    p = np.float32(p * x + _E4)
    p = np.float32(p * x + _E3)
    p = np.float32(p * x + _HALF)
    near = np.float32(np.float32(p * x) * x + x)
    return near if abs(x) < _NEAR else np.float32(exp32(x) - _ONE)


@register_jitable
def sigmoid32(x):
    """Return 1 / (1 + e**-x) within 4 units in the last place, and 0 below -88; NaN stays NaN."""
    x = np.float32(x)
    value = np.float32(_ONE / np.float32(_ONE + exp32(-x)))
    return np.float32(0) if x < _UNDERFLOW else value


@register_jitable
def tanh32(x):
    """Return tanh(x) within 3 units in the last place; NaN stays NaN.

    Source: tanhf in the Cephes library (S. Moshier, 1992): a polynomial near 0, where
    1 - 2 / (e**2x + 1) would cancel.
    """
    x = np.float32(x)
    size = abs(x)
    size = _LARGE if size > _LARGE else size
    far = np.float32(_ONE - np.float32(_TWO / np.float32(exp32(_TWO * size) + _ONE)))
    square = np.float32(size * size)
    p = np.float32(_T5 * square + _T4)
    p = np.float32(p * square + _T3)
    p = np.float32(p * square + _T2)
    p = np.float32(p * square + _T1)
    near = np.float32(np.float32(p * square) * size + size)
    value = near if size < _SMALL else far
    return -value if x < 0 else value


@register_jitable
def gelu32(x):
    """Return x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x**3): ggml's GELU.

    Written as x times the sigmoid of 2 u, which is the same and does not cancel for x < 0.
    Source: arXiv 1606.08415, section 2.
    """
    x = np.float32(x)
    bounded = _LARGE if x > _LARGE else x
    bounded = -_LARGE - _LARGE if bounded < -_LARGE - _LARGE else bounded
    cubic = np.float32(_ONE + np.float32(_GELU_3 * np.float32(bounded * bounded)))
    return x * sigmoid32(np.float32(_GELU_1 * bounded) * cubic)


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
def _double(value):
    return np.float64(value)


@register_jitable
def _square(value):
    return np.float64(value) * np.float64(value)


sum_of = _make_sum(_identity)
"""Sum of floats."""
sum_of_doubles = _make_sum(_double)
"""Sum of floats, in float64."""
sum_of_squares = _make_sum(_square)
"""Sum of squares, in float64 as ggml has it."""
