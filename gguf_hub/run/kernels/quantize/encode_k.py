"""From floats to blocks of the types with super-blocks of 256 weights.

Each function ``(f, x, w, o, n, q, qo, scratch)`` turns the row ``f[x:x+n]`` into blocks at byte
``o`` of ``w``. A super-block takes four numbered steps: search scales of its groups, round these to
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

_WEIGHTS = 256  # behind the 32 vectors of weights come those of what they count for
_SCALES, _MINIMA = 512, 528
_FACTORS = 256


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
    def search(f, x, scratch):
        for part in range(16 // width):
            base = x + 16 * width * part
            for i in range(16):
                store(f, scratch + width * i, gather(f, base + i, 16))
            store(f, scratch + _SCALES + width * part, fit_scale(f, scratch, 16, top))

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
    def search(f, x, scratch):
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
def _round_signed(f, values, q, factors, n, top, highest):
    """Round ``n`` values to multiples of their extreme over ``-top``; return that."""
    extreme = np.float32(0)
    for j in range(n):
        if abs(f[values + j]) > abs(extreme):
            extreme = f[values + j]
    inverse = np.float32(-top) / extreme if abs(extreme) > 0 else np.float32(0)
    for j in range(n):
        q[factors + j] = np.int8(_round(f[values + j] * inverse, -top, highest))
    return extreme / np.float32(-top)


# -- 3) the quants of the weights ----------------------------------------------------------------


def _make_write_quants(lanes) -> Callable:
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


def make_q2_k(lanes) -> Callable:
    """Two bits; groups of 16 with scale and minimum of four bits."""
    search = _make_affine(lanes, 16, 3, first=-0.5, count=16, mean=False)
    write_quants = _make_write_quants(lanes)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch):
        factors = qo + _FACTORS
        for b in range(n // 256):
            block, first = o + 84 * b, x + 256 * b
            search(f, first, scratch)
            d = _round_positive(f, scratch + _SCALES, q, factors, 16, 15)
            dmin = _round_positive(f, scratch + _MINIMA, q, factors + 16, 16, 15)
            d, dmin = store_half(w, block + 80, d), store_half(w, block + 82, dmin)
            for j in range(16):
                scale, minimum = at(q, factors + j), at(q, factors + 16 + j)
                _put(w, block + j, scale | minimum << 4)
                scale, minimum = d * np.float32(scale), dmin * np.float32(minimum)
                write_quants(f, first + 16 * j, 16, q, qo + 16 * j, scale, minimum, 0, 3, 0)
            _pack_pairs(q, qo, w, block + 16)

    return encode


def make_q3_k(lanes) -> Callable:
    """Three bits; groups of 16 with a signed scale of six bits."""
    search = _make_symmetric(lanes, 4)
    write_quants = _make_write_quants(lanes)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch):
        factors = qo + _FACTORS
        for b in range(n // 256):
            block, first = o + 110 * b, x + 256 * b
            search(f, first, scratch)
            d = _round_signed(f, scratch + _SCALES, q, factors, 16, 32, 31)
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


def _make_k4(lanes, *, top: int, first: float, count: int, type_size: int) -> Callable:
    """Return the encoder of Q4_K or Q5_K: groups of 32, scale and minimum of six bits."""
    search = _make_affine(lanes, 32, top, first=first, count=count, mean=True)
    write_quants, pack_nibbles = _make_write_quants(lanes), lanes.pack_nibbles
    nibbles = type_size - 128

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch):
        factors = qo + _FACTORS
        for b in range(n // 256):
            block, first = o + type_size * b, x + 256 * b
            search(f, first, scratch)
            d = _round_positive(f, scratch + _SCALES, q, factors, 8, 63)
            dmin = _round_positive(f, scratch + _MINIMA, q, factors + 16, 8, 63)
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


def make_q4_k(lanes) -> Callable:
    """Four bits; groups of 32 with scale and minimum of six bits."""
    return _make_k4(lanes, top=15, first=-1.0, count=21, type_size=144)


def make_q5_k(lanes) -> Callable:
    """Five bits; groups of 32 with scale and minimum of six bits."""
    return _make_k4(lanes, top=31, first=-0.5, count=16, type_size=176)


def make_q6_k(lanes) -> Callable:
    """Six bits; groups of 16 with a signed scale of eight bits."""
    search = _make_symmetric(lanes, 32)
    write_quants = _make_write_quants(lanes)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch):
        factors = qo + _FACTORS
        for b in range(n // 256):
            block, first = o + 210 * b, x + 256 * b
            search(f, first, scratch)
            d = _round_signed(f, scratch + _SCALES, q, factors, 16, 128, 127)
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
