"""The last blocks of a row, where they do not fill a vector: the same for all widths of vectors."""

from __future__ import annotations

import numpy as np

from gguf_hub.kernels.simd import floats, fma, splat_f32x8, splat_i32x8
from gguf_hub.kernels.simd512 import shift_in
from gguf_hub.kernels.simd_memory import get, load_f16, load_u32
from gguf_hub.kernels.vectors import machine_code


def small_end_of(type_size: int, block_sum, *, offset: int, has_minimum: bool):
    """Return a function that adds a row's last blocks of 32, fewer than eight, to the first lanes.

    Args:
        type_size: Bytes of a block, whose first half is the scale, the second perhaps the minimum.
        block_sum: ``(w, p, q, at)``: the integer sum of the block's weights times activations.
        offset: What a weight is too large by.
        has_minimum: Whether a minimum follows the scale.
    """

    @machine_code
    def add_end(w, o, q, a, f, x, n, total):
        blocks = n // 32
        scale = m = sums_m = splat_f32x8(0)
        sums = splat_i32x8(0)
        first = blocks // 8 * 8
        for b in range(first, blocks):
            p = o + type_size * b
            found = block_sum(w, p, q, a + 32 * b)
            if offset:
                found -= np.int32(load_u32(q, a + n + 4 * b)) * np.int32(offset)
            sums = shift_in(sums, found)
            scale = shift_in(scale, load_f16(w, p) * get(f, x + b))
            if has_minimum:
                m = shift_in(m, load_f16(w, p + 2))
                sums_m = shift_in(sums_m, get(f, x + blocks + b))
        for _ in range(blocks, first + 8):
            sums, scale = shift_in(sums, np.int32(0)), shift_in(scale, np.float32(0))
            m, sums_m = shift_in(m, np.float32(0)), shift_in(sums_m, np.float32(0))
        total = fma(scale, floats(sums), total)
        return fma(m, sums_m, total) if has_minimum else total

    return add_end
