"""From floats to blocks of the types with super-blocks of 256 weights.

Each function ``(f, x, w, o, n, q, qo, scratch, importance)`` turns the row ``f[x:x+n]`` into blocks
at byte ``o`` of ``w``; made ``is_weighted``, errors count by ``f[importance:importance+n]``. A
super-block takes four numbered steps: search scales of its groups, round these to
small integers, find the quants for the rounded scales, and pack. ``generic_k`` has the layouts.

Working memory of a thread: ``f[scratch:]`` and ``q[qo:]``, as ``encode_memory`` says.

Source: quantize_row_q2_K_ref ... quantize_row_q6_K_ref in ggml/src/ggml-quants.c at ggml commit
c2cdd2b2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.generic.floats import at, half_bits, half_value
from gguf_hub.run.kernels.quantize.encode_search import make_fit_line, make_fit_scale
from gguf_hub.run.kernels.quantize.encode_weights import (
    make_gather_weighted,
    make_mean_square,
    make_move_lines,
    make_refit_lines,
    round_weighted,
)

_WEIGHTS = 256  # behind the 32 vectors of weights come those of what they count for
_SCALES, _MINIMA, _SUMS = 512, 528, 544
_FACTORS = 256
N_MOVES = 2


@register_jitable
def store_half(w, o, value):
    """Store a half at ``w[o:o+2]`` and return what it stands for."""
    bits = half_bits(value)
    w[np.uintp(o)] = np.uint8(bits & 255)
    w[np.uintp(o + 1)] = np.uint8(bits >> 8)
    return half_value(bits)


@register_jitable
def _put(w, o, value):
    w[np.uintp(o)] = np.uint8(value)


@register_jitable
def _round(value, lowest, highest):
    bounded = min(max(value, np.float32(lowest)), np.float32(highest))
    return np.int32(np.float32(bounded + np.float32(12582912.0)) - np.float32(12582912.0))


# -- 1) scales of the groups ---------------------------------------------------------------------


def _make_symmetric(lanes, top: int) -> Callable:
    """Return the search for 16 groups of 16 with a scale each: ``f[scratch + _SCALES:]``."""
    fit_scale = make_fit_scale(lanes)
    width, gather, store = lanes.LANES, lanes.gather, lanes.store

    @register_jitable
    def search(f, x, importance, scratch):
        """Write 16 scales of unweighted fits, as many groups at once as there are lanes."""
        for part in range(16 // width):
            base = x + 16 * width * part
            for i in range(16):
                store(f, scratch + width * i, gather(f, base + i, 16))
            store(f, scratch + _SCALES + width * part, fit_scale(f, scratch, 0, 16, top))

    return search


def _make_symmetric_weighted(lanes, top: int, *, by_size: bool) -> Callable:
    """Return the same by an importance matrix; sums of weights go to ``f[scratch + _SUMS:]``.

    Args:
        lanes: The module of lanes.
        top: One more than the largest quant.
        by_size: As in ``make_gather_weighted``.
    """
    fit_scale, mean_square = make_fit_scale(lanes, is_weighted=True), make_mean_square(lanes)
    gather_weighted = make_gather_weighted(lanes, by_size=by_size)
    width, store = lanes.LANES, lanes.store

    @register_jitable
    def search(f, x, importance, scratch):
        """Write 16 scales and 16 sums of weights, as many groups at once as there are lanes."""
        ws = scratch + _WEIGHTS
        spread = 2 * mean_square(f, x, 256, scratch)
        for part in range(16 // width):
            at = 16 * width * part
            sums = gather_weighted(f, x + at, importance + at, 16, scratch, ws, spread)
            store(f, scratch + _SUMS + width * part, sums)
            store(f, scratch + _SCALES + width * part, fit_scale(f, scratch, ws, 16, top))

    return search


def _make_affine(lanes, group: int, top: int, *, first: float, count: int, mean: bool) -> Callable:
    """Return the search for groups with a scale and a minimum each.

    Args:
        lanes: The module of lanes.
        group: Weights in a group.
        top: The largest quant.
        first: As in ``make_fit_line``.
        count: As in ``make_fit_line``.
        mean: A weight counts by its magnitude plus the group's root mean square; if not, by its
            magnitude alone, and errors by their size.
    """
    fit_line = make_fit_line(lanes, first=first, count=count, by_size=not mean)
    width, gather, store, load = lanes.LANES, lanes.gather, lanes.store, lanes.load
    splat, fma, root, magnitude = lanes.splat, lanes.fma, lanes.root, lanes.magnitude

    @register_jitable
    def search(f, x, importance, scratch):
        """Write a scale and a minimum for each group; vectors of weights lie at ``scratch``."""
        weights = scratch + _WEIGHTS
        for part in range(256 // group // width):
            base = x + group * width * part
            square = splat(0)
            for i in range(group):
                value = gather(f, base + i, group)
                store(f, scratch + width * i, value)
                square = fma(value, value, square)
            floor = root(square * splat(1 / group)) if mean else splat(0)
            for i in range(group):
                value = load(f, scratch + width * i)
                store(f, weights + width * i, floor + magnitude(value))
            scale, minimum = fit_line(f, scratch, weights, group, top)
            store(f, scratch + _SCALES + width * part, scale)
            store(f, scratch + _MINIMA + width * part, minimum)

    return search


def _make_affine_weighted(lanes, group: int, top: int, *, spread_factor: int) -> Callable:
    """Return the search for groups with a scale and a minimum each, by an importance matrix.

    Args:
        lanes: The module of lanes.
        group: Weights in a group.
        top: The largest quant.
        spread_factor: How many mean squares the spread is.
    """
    fit_line = make_fit_line(
        lanes, first=-0.9, count=37, step=0.05, by_size=False, has_obvious=True
    )
    gather_weighted, mean_square = make_gather_weighted(lanes), make_mean_square(lanes)
    width, store = lanes.LANES, lanes.store

    @register_jitable
    def search(f, x, importance, scratch):
        """Write a scale, a minimum and the sum of weights for each group."""
        weights = scratch + _WEIGHTS
        spread = spread_factor * mean_square(f, x, 256, scratch)
        for part in range(256 // group // width):
            at, to = group * width * part, width * part
            sums = gather_weighted(f, x + at, importance + at, group, scratch, weights, spread)
            scale, minimum = fit_line(f, scratch, weights, group, top)
            store(f, scratch + _SUMS + to, sums)
            store(f, scratch + _SCALES + to, scale)
            store(f, scratch + _MINIMA + to, minimum)

    return search


# -- 2) their rounding ---------------------------------------------------------------------------


@register_jitable
def _round_positive(f, values, q, factors, n, top):
    """Round ``n`` values of one sign to multiples of their largest over ``top``; return that."""
    largest = np.float32(0)
    for j in range(n):
        largest = max(largest, f[values + j])
    inverse = np.float32(top) / largest if largest > 0 else np.float32(0)
    for j in range(n):
        q[factors + j] = np.int8(_round(f[values + j] * inverse, 0, top))
    return largest / np.float32(top)


@register_jitable
def round_signed(f, values, q, factors, n, top, highest):
    """Round ``n`` values to multiples of their extreme over ``-top``; return that."""
    extreme = np.float32(0)
    for j in range(n):
        if abs(f[values + j]) > abs(extreme):
            extreme = f[values + j]
    inverse = np.float32(-top) / extreme if abs(extreme) > 0 else np.float32(0)
    for j in range(n):
        q[factors + j] = np.int8(_round(f[values + j] * inverse, -top, highest))
    return extreme / np.float32(-top)


def _make_round_lines(lanes, group: int, top: int, highest: int, *, is_weighted: bool) -> Callable:
    """Return the rounding of scales and minima to multiples of two units, which it returns.

    Args:
        lanes: The module of lanes.
        group: Weights in a group.
        top: The largest quant.
        highest: The largest multiple.
        is_weighted: Whether errors count by an importance matrix.
    """
    refit_lines, n = make_refit_lines(lanes, group, top), 256 // group
    move_lines, n_moves = make_move_lines(lanes, group, top, highest), N_MOVES if top == 3 else 0

    @register_jitable
    def round_lines(f, x, importance, scratch, q, factors):
        """Write multiples of scales to ``q[factors:]``, of minima 16 behind; return the units."""
        scales, minima, sums = scratch + _SCALES, scratch + _MINIMA, scratch + _SUMS
        if is_weighted:
            d = round_weighted(f, scales, sums, q, factors, n, 0, highest, highest, 4)
            dmin = round_weighted(f, minima, sums, q, factors + 16, n, 0, highest, highest, 4)
            d, dmin = refit_lines(f, x, importance, q, factors, d, dmin, scratch)
            for _ in range(n_moves):
                move_lines(
                    f, x, importance, q, factors, d, dmin, scratch, scratch + _WEIGHTS, scales
                )
                d, dmin = refit_lines(f, x, importance, q, factors, d, dmin, scratch)
        else:
            d = _round_positive(f, scales, q, factors, n, highest)
            dmin = _round_positive(f, minima, q, factors + 16, n, highest)
        return d, dmin

    return round_lines


# -- 3) the quants of the weights ----------------------------------------------------------------


def make_write_quants(lanes) -> Callable:
    """Return the rounding of a group to quants of its scale."""
    width, load, store_quants = lanes.LANES, lanes.load, lanes.store_quants
    splat, smaller, larger, nearest = lanes.splat, lanes.smaller, lanes.larger, lanes.nearest

    @register_jitable
    def write_quants(f, x, n, q, to, scale, minimum, lowest, highest, offset):
        """Write (x + minimum) / scale, within bounds, plus an offset that makes it positive."""
        inverse = splat(np.float32(1) / scale if abs(scale) > 0 else np.float32(0))
        least, most, offsets = splat(lowest), splat(highest), splat(offset)
        shift = splat(minimum)
        for i in range(n // width):
            value = (load(f, x + width * i) + shift) * inverse
            value = nearest(smaller(larger(value, least), most))
            store_quants(q, to + width * i, value + offsets)

    return write_quants


# -- 4) packing: the types -----------------------------------------------------------------------


@register_jitable
def _pack_pairs(q, qo, w, o):
    """Write 64 bytes with the low pairs of bits of 256 quants: see ``generic_k``."""
    for half in range(2):
        for i in range(32):
            s = qo + 128 * half + i
            low = at(q, s) & 3 | (at(q, s + 32) & 3) << 2
            _put(w, o + 32 * half + i, low | (at(q, s + 64) & 3) << 4 | (at(q, s + 96) & 3) << 6)


@register_jitable
def _pack_bit(q, qo, w, o, bit):
    """Write 32 bytes: bit k of byte i is bit ``bit`` of quant 32 k + i."""
    for i in range(32):
        byte = np.int32(0)
        for k in range(8):
            byte |= (1 if at(q, qo + 32 * k + i) & bit else 0) << k
        _put(w, o + i, byte)


@register_jitable
def _pack_six_bits(q, factors, w, o):
    """Write eight scales and eight minima of six bits in 12 bytes: see ``generic_k``."""
    for j in range(4):
        scale, minimum = at(q, factors + j), at(q, factors + 16 + j)
        scale_4, minimum_4 = at(q, factors + 4 + j), at(q, factors + 20 + j)
        _put(w, o + j, scale | scale_4 >> 4 << 6)
        _put(w, o + 4 + j, minimum | minimum_4 >> 4 << 6)
        _put(w, o + 8 + j, scale_4 & 15 | (minimum_4 & 15) << 4)


def make_q2_k(lanes, *, is_weighted: bool = False) -> Callable:
    """Two bits; groups of 16 with scale and minimum of four bits."""
    if is_weighted:
        search = _make_affine_weighted(lanes, 16, 3, spread_factor=1)
    else:
        search = _make_affine(lanes, 16, 3, first=-0.5, count=16, mean=False)
    round_lines = _make_round_lines(lanes, 16, 3, 15, is_weighted=is_weighted)
    write_quants = make_write_quants(lanes)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of 84 bytes: 16 of scales and minima, 64 of quants, d, dmin."""
        factors = qo + _FACTORS
        for b in range(n // 256):
            block, first = o + 84 * b, x + 256 * b
            search(f, first, importance + 256 * b, scratch)
            d, dmin = round_lines(f, first, importance + 256 * b, scratch, q, factors)
            d, dmin = store_half(w, block + 80, d), store_half(w, block + 82, dmin)
            for j in range(16):
                scale, minimum = at(q, factors + j), at(q, factors + 16 + j)
                _put(w, block + j, scale | minimum << 4)
                scale, minimum = d * np.float32(scale), dmin * np.float32(minimum)
                write_quants(f, first + 16 * j, 16, q, qo + 16 * j, scale, minimum, 0, 3, 0)
            _pack_pairs(q, qo, w, block + 16)

    return encode


def make_q3_k(lanes, *, is_weighted: bool = False) -> Callable:
    """Three bits; groups of 16 with a signed scale of six bits."""
    search = (
        _make_symmetric_weighted(lanes, 4, by_size=True)
        if is_weighted
        else _make_symmetric(lanes, 4)
    )
    write_quants = make_write_quants(lanes)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of 110 bytes: 32 of third bits, 64 of two bits, 12 of scales, d."""
        factors = qo + _FACTORS
        for b in range(n // 256):
            block, first = o + 110 * b, x + 256 * b
            search(f, first, importance + 256 * b, scratch)
            scales = scratch + _SCALES
            if is_weighted:
                d = round_weighted(f, scales, scratch + _SUMS, q, factors, 16, -32, 31, -32, 9)
            else:
                d = round_signed(f, scales, q, factors, 16, 32, 31)
            d = store_half(w, block + 108, d)
            for j in range(16):
                scale = d * np.float32(at(q, factors + j))
                write_quants(f, first + 16 * j, 16, q, qo + 16 * j, scale, 0, -4, 3, 4)
            _pack_bit(q, qo, w, block, 4)
            _pack_pairs(q, qo, w, block + 32)
            for j in range(8):
                low = at(q, factors + j) + 32 & 15
                _put(w, block + 96 + j, low | (at(q, factors + 8 + j) + 32 & 15) << 4)
            for j in range(4):
                high = np.int32(0)
                for k in range(4):
                    high |= (at(q, factors + 4 * k + j) + 32 >> 4) << 2 * k
                _put(w, block + 104 + j, high)

    return encode


def _make_k4(
    lanes, *, top: int, first: float, count: int, type_size: int, is_weighted: bool
) -> Callable:
    """Return the encoder of Q4_K or Q5_K: groups of 32, scale and minimum of six bits."""
    if is_weighted:
        search = _make_affine_weighted(lanes, 32, top, spread_factor=2)
    else:
        search = _make_affine(lanes, 32, top, first=first, count=count, mean=True)
    round_lines = _make_round_lines(lanes, 32, top, 63, is_weighted=is_weighted)
    write_quants, pack_nibbles = make_write_quants(lanes), lanes.pack_nibbles
    nibbles = type_size - 128

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks: d, dmin, 12 bytes of scales and minima, perhaps 32 of fifth bits, 128."""
        factors = qo + _FACTORS
        for b in range(n // 256):
            block, first = o + type_size * b, x + 256 * b
            search(f, first, importance + 256 * b, scratch)
            d, dmin = round_lines(f, first, importance + 256 * b, scratch, q, factors)
            d, dmin = store_half(w, block, d), store_half(w, block + 2, dmin)
            _pack_six_bits(q, factors, w, block + 4)
            for j in range(8):
                scale = d * np.float32(at(q, factors + j))
                minimum = dmin * np.float32(at(q, factors + 16 + j))
                write_quants(f, first + 32 * j, 32, q, qo + 32 * j, scale, minimum, 0, top, 0)
            if top > 15:
                _pack_bit(q, qo, w, block + 16, 16)
            for c in range(4):
                pack_nibbles(q, qo + 64 * c, w, block + nibbles + 32 * c, 32)

    return encode


def make_q4_k(lanes, *, is_weighted: bool = False) -> Callable:
    """Four bits; groups of 32 with scale and minimum of six bits."""
    return _make_k4(lanes, top=15, first=-1.0, count=21, type_size=144, is_weighted=is_weighted)


def make_q5_k(lanes, *, is_weighted: bool = False) -> Callable:
    """Five bits; groups of 32 with scale and minimum of six bits."""
    return _make_k4(lanes, top=31, first=-0.5, count=16, type_size=176, is_weighted=is_weighted)


def make_q6_k(lanes, *, is_weighted: bool = False) -> Callable:
    """Six bits; groups of 16 with a signed scale of eight bits."""
    search = (
        _make_symmetric_weighted(lanes, 32, by_size=False)
        if is_weighted
        else _make_symmetric(lanes, 32)
    )
    write_quants = make_write_quants(lanes)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of 210 bytes: 128 with four bits, 64 with two, 16 scales, d."""
        factors = qo + _FACTORS
        for b in range(n // 256):
            block, first = o + 210 * b, x + 256 * b
            search(f, first, importance + 256 * b, scratch)
            d = round_signed(f, scratch + _SCALES, q, factors, 16, 128, 127)
            d = store_half(w, block + 208, d)
            for j in range(16):
                scale = at(q, factors + j)
                _put(w, block + 192 + j, scale & 255)
                scale = d * np.float32(scale)
                write_quants(f, first + 16 * j, 16, q, qo + 16 * j, scale, 0, -32, 31, 32)
            for half in range(2):
                for i in range(32):
                    s = qo + 128 * half + i
                    a, b1, c, e = at(q, s), at(q, s + 32), at(q, s + 64), at(q, s + 96)
                    _put(w, block + 64 * half + i, a & 15 | (c & 15) << 4)
                    _put(w, block + 64 * half + 32 + i, b1 & 15 | (e & 15) << 4)
                    high = a >> 4 | b1 >> 4 << 2 | c >> 4 << 4 | e >> 4 << 6
                    _put(w, block + 128 + 32 * half + i, high)

    return encode
