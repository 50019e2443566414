"""From floats to blocks of IQ4_NL, IQ4_XS, MXFP4, TQ1_0 and TQ2_0: weights that are codes.

MXFP4 and the ternary types give the very bytes that ggml gives. IQ4's sixteen weights do not lie
at equal distances: a scale is searched as in ``encode_search``, with the nearest of them in place
of the nearest integer.

Source of the criteria: quantize_row_iq4_nl_impl, quantize_row_mxfp4_ref, quantize_row_tq1_0_ref and
quantize_row_tq2_0_ref in ggml/src/ggml-quants.c at ggml 0.25.3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.generic.floats import at
from gguf_hub.run.kernels.generic.grids import NONLINEAR
from gguf_hub.run.kernels.quantize.encode_k import round_signed, store_half
from gguf_hub.run.kernels.quantize.encode_weights import (
    make_gather_weighted,
    make_mean_square,
    make_range,
    round_weighted,
)
from gguf_hub.run.kernels.simd import lanes as _lanes

_WEIGHTS, _SCALES, _SUMS, _FACTORS = 256, 512, 544, 256
_TABLE = NONLINEAR.astype(np.float32)
_STEPS = np.diff(_TABLE)
_MIDDLES = _TABLE[:-1] + _STEPS / 2
_E2M1_MIDDLES = np.array([0.5, 1.5, 2.5, 3.5, 5, 7, 10], np.float32)


# -- IQ4: sixteen weights at unequal distances -----------------------------------------------------


def _make_nearest(lanes) -> tuple[Callable, Callable]:
    """Return the nearest weight of the table, and its number, for each lane; the upper of two."""
    splat, where_less = lanes.splat, lanes.where_less

    @register_jitable
    def nearest_of(value):
        """Return the nearest number of the table, by 15 comparisons with middles."""
        found, zero = splat(_TABLE[0]), splat(0)
        for i in range(15):
            found = found + where_less(value, splat(_MIDDLES[i]), zero, splat(_STEPS[i]))
        return found

    @register_jitable
    def number_of(value):
        """Return its index, 0 to 15, as a float, by the same comparisons."""
        found, zero, one = splat(0), splat(0), splat(1)
        for i in range(15):
            found = found + where_less(value, splat(_MIDDLES[i]), zero, one)
        return found

    return nearest_of, number_of


def _make_search(lanes, *, is_weighted: bool) -> Callable:
    """Return the search of scales of groups of 32, one in each lane; it writes sums of weights."""
    gather_weighted, (nearest_of, _) = make_gather_weighted(lanes), _make_nearest(lanes)
    width, load, store, gather = lanes.LANES, lanes.load, lanes.store, lanes.gather
    splat, fma, where_less = lanes.splat, lanes.fma, lanes.where_less
    larger, magnitude = lanes.larger, lanes.magnitude

    @register_jitable
    def fit(f, xs, ws):
        """Return scales that minimise the sum of w (x - scale * t)**2."""
        zero, one = splat(0), splat(1)
        size = extreme = zero
        for i in range(32):
            x = load(f, xs + width * i)
            extreme = where_less(size, magnitude(x), x, extreme)
            size = larger(size, magnitude(x))
        inverse = one / where_less(splat(1e-15), size, extreme, one)
        best = scale = zero
        for k in range(16):  # the extreme goes to 120 ... 134 below zero, and to 127 above
            factor = splat(-120 - k if k < 15 else 127) * inverse
            dot = square = zero
            for i in range(32):
                x = load(f, xs + width * i)
                value = nearest_of(factor * x)
                weighted = load(f, ws + width * i) * value
                dot, square = fma(weighted, x, dot), fma(weighted, value, square)
            candidate = dot / where_less(zero, square, square, one)
            gain = candidate * dot
            scale = where_less(best, gain, candidate, scale)
            best = larger(best, gain)
        return scale

    @register_jitable
    def search(f, x, importance, scratch, spread, to):
        """Write the scales of as many groups as there are lanes; weighted, sums of weights too."""
        ws = scratch + _WEIGHTS
        if is_weighted:
            sums = gather_weighted(f, x, importance, 32, scratch, ws, spread)
            store(f, scratch + _SUMS + to, sums)
        else:
            for i in range(32):
                value = gather(f, x + i, 32)
                store(f, scratch + width * i, value)
                store(f, ws + width * i, value * value)
        store(f, scratch + _SCALES + to, fit(f, scratch, ws))

    return search


def _make_write_codes(lanes) -> Callable:
    """Return what writes the numbers of 32 weights for a scale as halves of 16 bytes."""
    width, load, splat, store_quants = lanes.LANES, lanes.load, lanes.splat, lanes.store_quants
    pack_nibbles, (_, number_of) = lanes.pack_nibbles, _make_nearest(lanes)

    @register_jitable
    def write_codes(f, x, w, o, q, qo, scale):
        """Write 16 bytes: code i in the low half of byte i, code 16 + i in the high one."""
        inverse = splat(np.float32(1) / scale if abs(scale) > 0 else np.float32(0))
        for i in range(32 // width):
            store_quants(q, qo + width * i, number_of(load(f, x + width * i) * inverse))
        pack_nibbles(q, qo, w, o, 16)

    return write_codes


def make_iq4_nl(lanes, *, is_weighted: bool = False) -> Callable:
    """Blocks of 32 with a scale each; eight are searched at once, as in ``encode_small``."""
    search, search_one = (_make_search(each, is_weighted=is_weighted) for each in (lanes, _lanes))
    write_codes, mean_square, width = _make_write_codes(lanes), make_mean_square(lanes), lanes.LANES

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of 18 bytes: the scale as a half, 16 bytes of codes."""
        n_blocks, spread = n // 32, 2 * mean_square(f, x, n, scratch)
        count = width if n_blocks >= width else 1
        for part in range((n_blocks + count - 1) // count):
            first = min(count * part, n_blocks - count)
            if count == width:
                search(f, x + 32 * first, importance + 32 * first, scratch, spread, 0)
            else:
                search_one(f, x + 32 * first, importance + 32 * first, scratch, spread, 0)
            for b in range(first, first + count):
                scale = store_half(w, o + 18 * b, f[np.uintp(scratch + _SCALES + b - first)])
                write_codes(f, x + 32 * b, w, o + 18 * b + 2, q, qo, scale)

    return encode


def make_iq4_xs(lanes, *, is_weighted: bool = False) -> Callable:
    """Super-blocks of 256; groups of 32 with a signed scale of six bits."""
    search, write_codes = _make_search(lanes, is_weighted=is_weighted), _make_write_codes(lanes)
    mean_square, width = make_mean_square(lanes), lanes.LANES

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of 136 bytes: d, 2 and 4 bytes of scales, 128 bytes of codes."""
        factors, scales, sums = qo + _FACTORS, scratch + _SCALES, scratch + _SUMS
        for b in range(n // 256):
            block, first, own = o + 136 * b, x + 256 * b, importance + 256 * b
            spread = 2 * mean_square(f, first, 256, scratch)
            for part in range(8 // width):
                at_ = 32 * width * part
                search(f, first + at_, own + at_, scratch, spread, width * part)
            if is_weighted:
                d = round_weighted(f, scales, sums, q, factors, 8, -32, 31, -32, 9)
            else:
                d = round_signed(f, scales, q, factors, 8, 32, 31)
            d, high = store_half(w, block, d), np.int32(0)
            for j in range(8):
                high |= (at(q, factors + j) + 32 >> 4) << 2 * j
                scale = d * np.float32(at(q, factors + j))
                write_codes(f, first + 32 * j, w, block + 8 + 16 * j, q, qo, scale)
            w[np.uintp(block + 2)] = np.uint8(high & 255)
            w[np.uintp(block + 3)] = np.uint8(high >> 8)
            for j in range(4):
                low, second = at(q, factors + 2 * j) + 32, at(q, factors + 2 * j + 1) + 32
                w[np.uintp(block + 4 + j)] = np.uint8(low & 15 | (second & 15) << 4)

    return encode


# -- MXFP4: a power of two and sixteen floats of four bits -----------------------------------------


def make_mxfp4(lanes) -> Callable:
    """Return the encoder of MXFP4: the largest magnitude is 4 ... 8 times the power of two."""
    range_of, pack_nibbles = make_range(lanes), lanes.pack_nibbles
    width, load, splat, store_quants = lanes.LANES, lanes.load, lanes.splat, lanes.store_quants
    where_less, magnitude = lanes.where_less, lanes.magnitude

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of 17 bytes: the exponent, 16 bytes of codes, whose bit 3 is the sign."""
        zero, one = splat(0), splat(1)
        for b in range(n // 32):
            first, block = x + 32 * b, o + 17 * b
            high, low = range_of(f, first)
            largest = np.float32(max(high, -low))
            exponent = np.int32(largest.view(np.int32) >> 23) - 2
            exponent = max(exponent, np.int32(2)) if largest > 0 else np.int32(0)
            w[np.uintp(block)] = np.uint8(exponent)
            # 2**(128 - exponent), one of the finite floats
            inverse = np.uint32(max(255 - exponent, 1) << 23).view(np.float32)
            factor = splat(inverse if largest > 0 else np.float32(0))
            for i in range(32 // width):
                value = load(f, first + width * i)
                size, number = magnitude(value) * factor, zero
                for k in range(7):
                    number = number + where_less(splat(_E2M1_MIDDLES[k]), size, one, zero)
                sign = where_less(value, zero, where_less(zero, number, splat(8), zero), zero)
                store_quants(q, qo + width * i, number + sign)
            pack_nibbles(q, qo, w, block + 1, 16)

    return encode


# -- TQ: -1, 0 or 1 times the largest magnitude ----------------------------------------------------


def _make_trits(lanes) -> Callable:
    """Return what writes 256 numbers 0, 1 or 2 to ``q``; it returns the largest magnitude."""
    width, load, splat, store_quants = lanes.LANES, lanes.load, lanes.splat, lanes.store_quants
    where_less, magnitude, larger = lanes.where_less, lanes.magnitude, lanes.larger
    highest = lanes.highest

    @register_jitable
    def trits(f, x, q, qo):
        """Write 1 plus the sign of each weight beyond half the largest magnitude d; return d."""
        size = splat(0)
        for i in range(256 // width):
            size = larger(size, magnitude(load(f, x + width * i)))
        d = np.float32(highest(size))
        inverse = splat(np.float32(1) / d if d > 0 else np.float32(0))
        half, one, zero = splat(0.5), splat(1), splat(0)
        for i in range(256 // width):
            value = load(f, x + width * i) * inverse
            up, down = where_less(value, half, zero, one), where_less(zero - half, value, zero, one)
            store_quants(q, qo + width * i, one + up - down)
        return d

    return trits


@register_jitable
def _pack_trits(q, qo, w, o, n, stride, count):
    """Write ``n`` bytes of ``count`` numbers each, ``stride`` apart: fractions in base 3."""
    for i in range(n):
        digits = np.int32(0)
        for k in range(5):
            digits = 3 * digits + (at(q, qo + i + stride * k) if k < count else 0)
        w[np.uintp(o + i)] = np.uint8((digits * 256 + 242) // 243)


def make_tq1_0(lanes) -> Callable:
    """Return the encoder of TQ1_0: five numbers in a byte."""
    trits = _make_trits(lanes)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of 54 bytes: 32 of weights 0-159, 16 of 160-239, 4 of 240-255, d."""
        for b in range(n // 256):
            block = o + 54 * b
            d = trits(f, x + 256 * b, q, qo)
            _pack_trits(q, qo, w, block, 32, 32, 5)
            _pack_trits(q, qo + 160, w, block + 32, 16, 16, 5)
            _pack_trits(q, qo + 240, w, block + 48, 4, 4, 4)
            store_half(w, block + 52, d)

    return encode


def make_tq2_0(lanes) -> Callable:
    """Return the encoder of TQ2_0: four numbers in a byte."""
    trits = _make_trits(lanes)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of 66 bytes: 64 with four numbers that lie 32 apart, d."""
        for b in range(n // 256):
            block = o + 66 * b
            d = trits(f, x + 256 * b, q, qo)
            for half in range(2):
                for i in range(32):
                    s = qo + 128 * half + i
                    low = at(q, s) | at(q, s + 32) << 2 | at(q, s + 64) << 4 | at(q, s + 96) << 6
                    w[np.uintp(block + 32 * half + i)] = np.uint8(low)
            store_half(w, block + 64, d)

    return encode
