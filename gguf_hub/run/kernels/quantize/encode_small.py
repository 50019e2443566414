"""Q4_0, Q4_1, Q5_0 and Q5_1 by an importance matrix: blocks of 32 whose scales are searched.

Eight blocks are searched at once, one in each lane; the last eight of a row may be some of those
before, too. Rows of fewer blocks are searched one block after another.

Source of the criteria: quantize_row_q4_0_impl ... quantize_row_q5_1_impl in
ggml/src/ggml-quants.c at ggml 0.25.3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.generic.floats import at
from gguf_hub.run.kernels.quantize.encode_k import make_write_quants, store_half
from gguf_hub.run.kernels.quantize.encode_search import make_fit_line, make_fit_scale
from gguf_hub.run.kernels.quantize.encode_weights import make_gather_weighted, make_mean_square
from gguf_hub.run.kernels.simd import lanes as _lanes

_WEIGHTS, _SCALES, _MINIMA = 256, 512, 528


@register_jitable
def pack_fifth_bits(q, qo, w, o):
    """Write 32 bits: bit i is the fifth of quant i."""
    for j in range(4):
        byte = np.int32(0)
        for k in range(8):
            byte |= (at(q, qo + 8 * j + k) >> 4) << k
        w[np.uintp(o + j)] = np.uint8(byte)


def _make_search(lanes, top: int, *, has_minimum: bool) -> Callable:
    """Return the search of scales, and of minima, of as many blocks as there are lanes."""
    gather_weighted = make_gather_weighted(lanes)
    fit_line = make_fit_line(
        lanes, first=-0.9, count=37, step=0.05, by_size=False, has_obvious=True
    )
    fit_scale = make_fit_scale(lanes, is_weighted=True)
    store = lanes.store

    @register_jitable
    def search(f, x, importance, scratch, spread):
        """Write the scale of each lane's block to ``_SCALES``, its minimum to ``_MINIMA``."""
        ws = scratch + _WEIGHTS
        gather_weighted(f, x, importance, 32, scratch, ws, spread)
        if has_minimum:
            scale, minimum = fit_line(f, scratch, ws, 32, top)
            store(f, scratch + _SCALES, scale)
            store(f, scratch + _MINIMA, minimum)
        else:
            store(f, scratch + _SCALES, fit_scale(f, scratch, ws, 32, top))

    return search


def make_weighted(lanes, bits: int, *, has_minimum: bool) -> Callable:
    """Return the encoder of Q4_0, Q4_1, Q5_0 or Q5_1 by an importance matrix.

    Args:
        lanes: The module of lanes.
        bits: Of a quant.
        has_minimum: Whether quants count from a minimum.
    """
    top = (1 << bits) - 1 if has_minimum else 1 << bits - 1
    width, mean_square = lanes.LANES, make_mean_square(lanes)
    search, search_one = (
        _make_search(each, top, has_minimum=has_minimum) for each in (lanes, _lanes)
    )
    write_quants, pack_nibbles = make_write_quants(lanes), lanes.pack_nibbles
    high_bits = 4 if has_minimum else 2
    nibbles = high_bits + (4 if bits == 5 else 0)
    block_bytes = nibbles + 16

    @register_jitable
    def write_block(f, x, w, o, q, qo, scale, minimum):
        """Write one block; scale and minimum are rounded to halves before the quants."""
        d = store_half(w, o, scale)
        if has_minimum:
            low = store_half(w, o + 2, -minimum)
            write_quants(f, x, 32, q, qo, d, -low, 0, top, 0)
        else:
            write_quants(f, x, 32, q, qo, d, 0, -top, top - 1, top)
        if bits == 5:
            pack_fifth_bits(q, qo, w, o + high_bits)
        pack_nibbles(q, qo, w, o + nibbles, 16)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks, searched by as many as there are lanes, or one by one."""
        n_blocks, spread = n // 32, mean_square(f, x, n, scratch)
        count = width if n_blocks >= width else 1
        for part in range((n_blocks + count - 1) // count):
            first = min(count * part, n_blocks - count)
            if count == width:
                search(f, x + 32 * first, importance + 32 * first, scratch, spread)
            else:
                search_one(f, x + 32 * first, importance + 32 * first, scratch, spread)
            for b in range(count):
                block, found = first + b, scratch + _SCALES + b
                scale, minimum = f[np.uintp(found)], f[np.uintp(found + _MINIMA - _SCALES)]
                to = o + block_bytes * block
                write_block(f, x + 32 * block, w, to, q, qo, scale, minimum)

    return encode
