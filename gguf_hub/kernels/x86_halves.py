"""Inner loops of attention over a cache of halves, for AVX2."""

from __future__ import annotations

from gguf_hub.kernels.simd import (
    fma,
    splat_f32x8,
)
from gguf_hub.kernels.simd_memory import (
    get,
    get_half,
    load_f16x8,
    load_f32x8,
    store_f16,
    store_f32x8,
)
from gguf_hub.kernels.simd_rows import (
    sums_f32x8,
)
from gguf_hub.kernels.vectors import (
    machine_code,
)


@machine_code
def store_half(kv, at, value):
    """Store one float as a half, rounded to nearest even."""
    store_f16(kv, at, value)


@machine_code
def dot_half(f, fo, kv, ko, n):
    """Return the dot product of ``n`` floats at ``f[fo:]`` with halves at ``kv[ko:]``."""
    a = splat_f32x8(0)
    b = splat_f32x8(0)
    whole = n // 16
    for i in range(whole):
        a = fma(load_f32x8(f, fo + 16 * i), load_f16x8(kv, ko + 16 * i), a)
        b = fma(load_f32x8(f, fo + 16 * i + 8), load_f16x8(kv, ko + 16 * i + 8), b)
    total = sums_f32x8(a + b)
    for i in range(16 * whole, n):
        total = fma(get(f, fo + i), get_half(kv, ko + i), total)
    return total


@machine_code
def add_half(f, fo, factor, kv, vo, n):
    """Add ``factor`` times ``n`` halves at ``kv[vo:]`` to ``f[fo:]``."""
    wide = splat_f32x8(factor)
    whole = n // 8
    for i in range(whole):
        at = fo + 8 * i
        store_f32x8(f, at, fma(wide, load_f16x8(kv, vo + 8 * i), load_f32x8(f, at)))
    for i in range(8 * whole, n):
        f[fo + i] = fma(factor, get_half(kv, vo + i), f[fo + i])
