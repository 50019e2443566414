"""Elementary functions as plain arithmetic, so that LLVM can run them in SIMD lanes."""

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
