"""Dot products of rows of floats, for all x86.

``dots(w, o, q, qs, f, fs, n)`` multiplies the ``n`` weights at byte ``o`` of the file with several
activation rows at once: row t lies at ``q[qs[t]:]`` and ``f[fs[t]:]`` (formats: ``activations``).
Weights are widened once for all rows; the rows' products lie side by side in one wide vector,
which LLVM keeps in as many registers. The sums of a row do not depend on how many go with it.

Block layouts: ggml-common.h at ggml c2cdd2b2; the arithmetic is ours.
"""

from __future__ import annotations

from gguf_hub.kernels.simd import fma
from gguf_hub.kernels.simd_memory import (
    ask_ahead_of,
    load_bf16,
    load_bf16x8,
    load_f16,
    load_f16x8,
    load_f32,
    load_f32x8,
)
from gguf_hub.kernels.simd_rows import (
    first_lane_f32x8,
    load_rows_f32x8,
    repeat,
    splat_rows_f32x8,
    store_rows,
    sums_f32x8,
    zeros_f32x8,
)
from gguf_hub.kernels.vectors import machine_code


def _float(load8, load1, item):
    """Return the dot products for weights that are floats of ``item`` bytes."""
    ask_ahead = ask_ahead_of(16 * item)

    @machine_code
    def dots(w, o, q, qs, f, fs, n):
        a = zeros_f32x8(fs)
        b = zeros_f32x8(fs)
        whole = n // 16
        for i in range(whole):
            j = 16 * i
            ask_ahead(w, o + item * j)
            first, second = load8(w, o + item * j), load8(w, o + item * (j + 8))
            a = fma(repeat(first, fs), load_rows_f32x8(f, fs, j), a)
            b = fma(repeat(second, fs), load_rows_f32x8(f, fs, j + 8), b)
        a = a + b
        for j in range(16 * whole, n):
            single = repeat(first_lane_f32x8(load1(w, o + item * j)), fs)
            a = fma(single, splat_rows_f32x8(f, fs, j), a)
        return sums_f32x8(a)

    return dots


def products_of(weight_type: str):
    """Return the dot products of a float type as ``steps`` wants them: into ``f[places[t]]``."""
    dots = _DOTS[weight_type]

    @machine_code
    def products(w, o, q, qs, f, fs, n, places, is_added):
        store_rows(f, places, dots(w, o, q, qs, f, fs, n), is_added)

    return products


_DOTS = {
    "F32": _float(load_f32x8, load_f32, 4),
    "F16": _float(load_f16x8, load_f16, 2),
    "BF16": _float(load_bf16x8, load_bf16, 2),
}
