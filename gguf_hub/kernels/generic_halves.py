"""Inner loops of attention over a cache of halves, for any CPU."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from gguf_hub.kernels.floats import half_bits, half_value


@register_jitable
def store_half(kv, at, value):
    """Store one float as a half, rounded to nearest even."""
    kv[at] = half_bits(value)


@register_jitable
def dot_half(f, fo, kv, ko, n):
    """Return the dot product of ``n`` floats at ``f[fo:]`` with halves at ``kv[ko:]``."""
    total = np.float32(0)
    for i in range(n):
        total += f[fo + i] * half_value(kv[ko + i])
    return total


@register_jitable
def add_half(f, fo, factor, kv, vo, n):
    """Add ``factor`` times ``n`` halves at ``kv[vo:]`` to ``f[fo:]``."""
    for i in range(n):
        f[fo + i] += factor * half_value(kv[vo + i])
