"""From floats to blocks: the kernels of the quantiser, and the types without super-blocks.

``encode_<type>(f, x, w, o, n, q, qo, scratch, importance)`` turns the row ``f[x:x+n]`` into blocks
at byte ``o`` of ``w``. The simple types give the very bytes that ggml gives. An encoder by an
importance matrix reads what errors count for from ``f[importance:importance+n]``; others do not.

A chunk of a tensor is worked on slice by slice, each a ``decode`` and an ``encode`` step. Every
thread decodes rows of a slice into working memory of its own and encodes the same rows from there,
while they are in its cache: no barrier is needed.

Source: quantize_row_q4_0_ref ... quantize_row_q8_0_ref in ggml/src/ggml-quants.c at ggml commit
c2cdd2b2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.quantize import (
    encode_codes,
    encode_grids,
    encode_k,
    encode_small,
    encode_ternary,
)
from gguf_hub.run.kernels.quantize.encode_k import store_half
from gguf_hub.run.kernels.quantize.encode_memory import QUANTS, SCRATCH
from gguf_hub.run.kernels.quantize.encode_small import pack_fifth_bits
from gguf_hub.run.kernels.quantize.encode_weights import make_range
from gguf_hub.run.kernels.sharing import share
from gguf_hub.run.kernels.simd import lanes as _lanes
from gguf_hub.run.kernels.vm.ops import CHUNK_BAD_ROW, CHUNK_OFFSET, CHUNK_ROWS

_MAKERS = {
    "Q2_K": encode_k.make_q2_k,
    "Q3_K": encode_k.make_q3_k,
    "Q4_K": encode_k.make_q4_k,
    "Q5_K": encode_k.make_q5_k,
    "Q6_K": encode_k.make_q6_k,
    "IQ1_S": encode_ternary.make_iq1_s,
    "IQ1_M": encode_ternary.make_iq1_m,
    "IQ4_NL": encode_codes.make_iq4_nl,
    "IQ4_XS": encode_codes.make_iq4_xs,
}
_PLAIN_MAKERS = {
    "MXFP4": encode_codes.make_mxfp4,
    "TQ1_0": encode_codes.make_tq1_0,
    "TQ2_0": encode_codes.make_tq2_0,
}
_MAGNITUDE = 0x7FFFFFFF


# -- steps ---------------------------------------------------------------------------------------


@register_jitable
def _thread_rows(n_rows, first, rows, tid, nth):
    """Return this thread's rows of the slice ``first ... first + rows - 1`` of a chunk."""
    n_rows_left = max(0, min(rows, n_rows - first))
    begin, end = share(n_rows_left, tid, nth)
    return first + begin, first + end


@register_jitable
def _largest_bits(f, x, n):
    """Return the largest magnitude as its bits, by which NaN and infinity come last."""
    top = np.int32(0)
    for i in range(n):
        top = max(top, np.int32(np.float32(f[np.uintp(x + i)]).view(np.int32) & _MAGNITUDE))
    return top


def make_decode(dequantize: Callable) -> Callable:
    """Return the step that turns rows of a file into floats, for one weight type."""

    def decode(tid, nth, n, f, q, kv, w, first, rows, row_bytes, n_in, x, x_stride, largest):
        """Decode this thread's rows of a slice; note the first with bits above ``largest``."""
        begin, end = _thread_rows(n[CHUNK_ROWS], first, rows, tid, nth)
        for r in range(begin, end):
            to = x + x_stride * tid + n_in * (r - begin)
            dequantize(w, n[CHUNK_OFFSET] + row_bytes * r, f, to, n_in)
            if n[CHUNK_BAD_ROW + tid] < 0 and _largest_bits(f, to, n_in) > largest:
                n[CHUNK_BAD_ROW + tid] = r

    return decode


def make_encode(encode_row: Callable) -> Callable:
    """Return the step that turns floats into blocks, for one weight type."""

    def encode(tid, nth, n, f, q, kv, w, first, rows, row_bytes, n_in, x, x_stride, scratch):
        """Encode this thread's rows of a slice, from byte ``row_bytes * r`` on."""
        begin, end = _thread_rows(n[CHUNK_ROWS], first, rows, tid, nth)
        for r in range(begin, end):
            start = x + x_stride * tid + n_in * (r - begin)
            own_scratch = scratch + SCRATCH * tid
            encode_row(f, start, w, row_bytes * r, n_in, q, QUANTS * tid, own_scratch, 0)

    return encode


def make_encode_weighted(encode_row: Callable) -> Callable:
    """Return the same step for a matrix whose inputs have weights, ``f[importance:]``."""

    def encode_weighted(
        tid, nth, n, f, q, kv, w, first, rows, row_bytes, n_in, x, x_stride, scratch, importance
    ):
        """As ``encode``; errors of weight i of a row count by ``f[importance + i]``."""
        begin, end = _thread_rows(n[CHUNK_ROWS], first, rows, tid, nth)
        for r in range(begin, end):
            start = x + x_stride * tid + n_in * (r - begin)
            own_scratch = scratch + SCRATCH * tid
            encode_row(f, start, w, row_bytes * r, n_in, q, QUANTS * tid, own_scratch, importance)

    return encode_weighted


def make_encode_row(weight_type: str, lanes, *, is_weighted: bool = False) -> Callable:
    """Return the encoder of a row of one type.

    Args:
        weight_type: E.g. ``Q4_K``.
        lanes: ``lanes``, or ``simd_lanes`` for compiled code.
        is_weighted: Whether errors count by an importance matrix; for ``WEIGHTED_TYPES`` alone.
    """
    if weight_type in _MAKERS:
        return _MAKERS[weight_type](lanes, is_weighted=is_weighted)
    if weight_type in encode_grids.GRIDS:
        return encode_grids.make_grid_encoder(weight_type, lanes, is_weighted=is_weighted)
    if weight_type in _PLAIN_MAKERS:
        return _PLAIN_MAKERS[weight_type](lanes)
    if weight_type in ("F32", "F16", "BF16"):
        return _make_float(lanes, weight_type)
    if weight_type == "Q8_0":
        return _make_q8_0(lanes)
    bits, has_minimum = {
        "Q4_0": (4, False), "Q4_1": (4, True), "Q5_0": (5, False), "Q5_1": (5, True),
    }[weight_type]  # fmt: skip
    if is_weighted:
        return encode_small.make_weighted(lanes, bits, has_minimum=has_minimum)
    return _make_small(lanes, bits, has_minimum)


# -- floats --------------------------------------------------------------------------------------


def _make_float(lanes, weight_type: str) -> Callable:
    name = {"F32": "store_floats", "F16": "store_halves", "BF16": "store_bfloats"}[weight_type]
    put, put_one = getattr(lanes, name), getattr(_lanes, name)
    size = 4 if weight_type == "F32" else 2
    width, load = lanes.LANES, lanes.load

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Store ``n`` floats in the type; the last ones, which fill no vector, singly."""
        n_vectors = n // width
        for i in range(n_vectors):
            put(w, o + size * width * i, load(f, x + width * i))
        for i in range(width * n_vectors, n):
            put_one(w, o + size * i, f[np.uintp(x + i)])

    return encode


# -- blocks of 32 --------------------------------------------------------------------------------


def _make_q8_0(lanes) -> Callable:
    """Return the encoder of Q8_0: the largest magnitude becomes 127."""
    range_of = make_range(lanes)
    width, load, store_bytes = lanes.LANES, lanes.load, lanes.store_bytes
    splat, where_less, truncate = lanes.splat, lanes.where_less, lanes.truncate

    @register_jitable
    def away_from_zero(value):
        """Round to nearest, halves away from zero; exact, as the difference is."""
        integer = truncate(value)
        rest = value - integer
        one, zero, below = splat(1), splat(0), splat(0.49999997)
        return (
            integer + where_less(below, rest, one, zero) - where_less(rest, zero - below, one, zero)
        )

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of a half, largest magnitude / 127, and 32 bytes."""
        for b in range(n // 32):
            high, low = range_of(f, x + 32 * b)
            d = np.float32(max(high, -low) / np.float32(127))
            inverse = splat(np.float32(1) / d if d > 0 else np.float32(0))
            store_half(w, o + 34 * b, d)
            for i in range(32 // width):
                value = load(f, x + 32 * b + width * i) * inverse
                store_bytes(w, o + 34 * b + 2 + width * i, away_from_zero(value))

    return encode


@register_jitable
def _extreme(f, x, high, low):
    """Return the first of 32 values that has the largest magnitude."""
    if high > -low:
        return high
    if high < -low:
        return low
    for i in range(32):
        if abs(f[np.uintp(x + i)]) == high:
            return f[np.uintp(x + i)]
    return high


def _make_small(lanes, bits: int, has_minimum: bool) -> Callable:
    """Return the encoder of Q4_0, Q4_1, Q5_0 or Q5_1.

    Args:
        lanes: The module of lanes.
        bits: Of a quant.
        has_minimum: Whether quants count from a minimum; if not, the value of largest magnitude is
            the lowest quant, -8 or -16.
    """
    range_of = make_range(lanes)
    width, load, splat, smaller = lanes.LANES, lanes.load, lanes.splat, lanes.smaller
    store_quants, pack_nibbles = lanes.store_quants, lanes.pack_nibbles
    truncate = lanes.truncate
    top, middle = (1 << bits) - 1, 1 << bits - 1
    high_bits = 4 if has_minimum else 2
    nibbles = high_bits + (4 if bits == 5 else 0)
    block_bytes = nibbles + 16

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks: d, perhaps the minimum, perhaps 32 fifth bits, 16 bytes of nibbles."""
        for b in range(n // 32):
            first, block = x + 32 * b, o + block_bytes * b
            high, low = range_of(f, first)
            if has_minimum:
                d, start, offset = np.float32((high - low) / np.float32(top)), low, 0.5
                store_half(w, block + 2, low)
            else:
                d = np.float32(_extreme(f, first, high, low) / np.float32(-middle))
                start, offset = np.float32(0), middle + 0.5
            store_half(w, block, d)
            inverse = splat(np.float32(1) / d if abs(d) > 0 else np.float32(0))
            start_v, offset_v, top_v = splat(start), splat(offset), splat(top)
            for i in range(32 // width):
                value = (load(f, first + width * i) - start_v) * inverse + offset_v
                store_quants(q, qo + width * i, smaller(truncate(value), top_v))
            if bits == 5:
                pack_fifth_bits(q, qo, w, block + high_bits)
            pack_nibbles(q, qo, w, block + nibbles, 16)

    return encode
