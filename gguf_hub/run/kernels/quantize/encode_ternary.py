"""From floats to blocks of IQ1: eight weights at a time, as points of -1, 0 and 1 that are shifted.

An eighth is added to all weights of a point, or taken off: of IQ1_S for each group of 32, of IQ1_M
for each point. The steps are those of ``encode_grids``; signs are in the points.

Source of the criteria: quantize_row_iq1_s_impl and quantize_row_iq1_m_impl in
ggml/src/ggml-quants.c at ggml 0.25.3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.generic import grids
from gguf_hub.run.kernels.generic.floats import at, half_bits
from gguf_hub.run.kernels.quantize.encode_grids import make_choose, map_of, point_of, round_scales
from gguf_hub.run.kernels.quantize.encode_k import store_half
from gguf_hub.run.kernels.quantize.encode_weights import make_mean_square

_WS, _SCALES, _SQUARES, _POINTS, _LANES = 256, 512, 528, 560, 624
_SHIFTS, _FACTORS = 0, 32
_EIGHTH = np.float32(0.125)
_MAGIC = np.float32(12582912.0)


def _points() -> np.ndarray:
    """Return the points, [n, 8]."""
    shifts = (8 * np.arange(8)).astype(np.uint64)
    values = (grids.IQ1[:, None] >> shifts & np.uint64(255)).astype(np.float32)
    return (values - np.float32(grids.TERNARY_OFFSET + 1)) / np.float32(8)


def _make_products(points, nearest) -> Callable:
    """Return the products of eight weights with the point that a map gives for a scale."""

    @register_jitable
    def products(f, xs, ws, inverse, shift):
        """Return sums of w p x and w p p, p being the nearest point plus ``shift``."""
        code, digit_value = 0, 1
        for i in range(8):
            level = min(max(f[np.uintp(xs + i)] * inverse - shift, np.float32(-1)), np.float32(1))
            code += digit_value * (np.int64(np.float32(level + _MAGIC) - _MAGIC) + 1)
            digit_value *= 3
        point = 8 * np.int64(nearest[code])
        dot = square = np.float32(0)
        for i in range(8):
            value = points[point + i] + shift
            weighted = f[np.uintp(ws + i)] * value
            dot += weighted * f[np.uintp(xs + i)]
            square += weighted * value
        return dot, square

    return products


def _make_fit(points, group: int, *, is_shared: bool) -> Callable:
    """Return the search of a group's scale, and of the sign of its shift where it is shared."""
    products, n_units = _make_products(points.ravel(), map_of(points)), group // 8

    @register_jitable
    def fit(f, xs, ws):
        """Return the best of 26 scales, and the sign of the shift where it is shared."""
        largest = np.float32(0)
        for i in range(group):
            largest = max(largest, abs(f[np.uintp(xs + i)]))
        best = scale = sign = np.float32(0)
        if not largest > np.float32(1e-30):
            return scale, np.float32(1)
        for k in range(26):
            inverse = np.float32(np.float32(0.8 + 0.1 * k) / largest)
            candidate = np.float32(1) / inverse
            dots, squares = np.float32(0), np.float32(0)
            other_dots, other_squares = np.float32(0), np.float32(0)
            for unit in range(n_units):
                dot, square = products(f, xs + 8 * unit, ws + 8 * unit, inverse, _EIGHTH)
                other = products(f, xs + 8 * unit, ws + 8 * unit, inverse, -_EIGHTH)
                if not is_shared:  # each takes the better one
                    error = candidate * square - 2 * dot
                    if candidate * other[1] - 2 * other[0] < error:
                        dot, square = other
                dots, squares = dots + dot, squares + square
                other_dots, other_squares = other_dots + other[0], other_squares + other[1]
            if squares > 0 and dots > 0 and dots * dots > best * squares:
                scale, sign = dots / squares, np.float32(1)
                best = dots * scale
            is_better = other_dots * other_dots > best * other_squares
            if is_shared and other_squares > 0 and other_dots > 0 and is_better:
                scale, sign = other_dots / other_squares, np.float32(-1)
                best = other_dots * scale
        return np.float32(scale), sign

    return fit


def _make_search(lanes, group: int, *, is_shared: bool, is_weighted: bool) -> Callable:
    """Return what finds scales, points and shifts of a super-block, and its unit.

    Points go to ``f[scratch + _POINTS:]``, s of the scales to ``q[qo + _FACTORS:]``, and 1 to
    ``q[qo + _SHIFTS:]`` for each point whose shift is negative.
    """
    points = _points()
    mean_square, choose = make_mean_square(lanes), make_choose(lanes, points)
    fit, flat = _make_fit(points, group, is_shared=is_shared), points.ravel()
    n_groups, n_units = 256 // group, group // 8

    @register_jitable
    def best_of(f, xs, ws, scale, sign, room):
        """Return point, and whether its shift is negative."""
        if is_shared:
            point, _ = choose(f, xs, ws, scale, sign * _EIGHTH, room)
            return point, sign < 0
        point, error = choose(f, xs, ws, scale, _EIGHTH, room)
        other, other_error = choose(f, xs, ws, scale, -_EIGHTH, room)
        total = np.float32(0)  # of w x: what the shifts differ by, for points of zeros
        for i in range(8):
            total += f[np.uintp(ws + i)] * f[np.uintp(xs + i)]
        is_other = other_error + 4 * _EIGHTH * scale * total < error
        return other if is_other else point, is_other

    @register_jitable
    def search(f, x, importance, q, qo, scratch):
        """Return the unit, fitted again to the points chosen with the rounded scales."""
        ws, factors = scratch + _WS, qo + _FACTORS
        scales, squares = scratch + _SCALES, scratch + _SQUARES
        spread = 2 * mean_square(f, x, 256, scratch + _LANES)
        for i in range(256):
            value = f[np.uintp(x + i)]
            f[np.uintp(scratch + i)] = value
            weight = np.float32(np.sqrt(np.float32(spread + value * value)))
            if is_weighted:
                weight *= f[np.uintp(importance + i)]
            f[np.uintp(ws + i)] = weight
        for j in range(n_groups):
            total = np.float32(0)
            for i in range(group):
                total += f[np.uintp(ws + group * j + i)]
            scale, sign = fit(f, scratch + group * j, ws + group * j)
            f[np.uintp(scales + j)], f[np.uintp(squares + j)] = scale, total
            for k in range(n_units):
                q[np.uintp(qo + _SHIFTS + n_units * j + k)] = np.int8(sign < 0)
        unit = round_scales(f, scales, squares, q, factors, n_groups, 7)
        dot = square = np.float32(0)
        for j in range(n_groups):
            multiple = np.float32(2 * at(q, factors + j) + 1)
            for k in range(n_units):
                number = n_units * j + k
                xs, own = scratch + 8 * number, ws + 8 * number
                sign = np.float32(1 - 2 * at(q, qo + _SHIFTS + number))
                point, is_below = best_of(
                    f, xs, own, np.float32(unit * multiple), sign, scratch + _LANES
                )
                f[np.uintp(scratch + _POINTS + number)] = np.float32(point)
                q[np.uintp(qo + _SHIFTS + number)] = np.int8(is_below)
                shift = -_EIGHTH if is_below else _EIGHTH
                for i in range(8):
                    value = multiple * (flat[8 * point + i] + shift)
                    weighted = f[np.uintp(own + i)] * value
                    dot += weighted * f[np.uintp(xs + i)]
                    square += weighted * value
        return np.float32(dot / square) if square > 0 and dot > 0 else np.float32(0)

    return search


@register_jitable
def _put_half(w, o, bits):
    w[np.uintp(o)] = np.uint8(bits & 255)
    w[np.uintp(o + 1)] = np.uint8(bits >> 8 & 255)


def make_iq1_s(lanes, *, is_weighted: bool = False) -> Callable:
    """Return the encoder of IQ1_S: groups of 32 with a scale of three bits and a shift."""
    search = _make_search(lanes, 32, is_shared=True, is_weighted=is_weighted)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of 50 bytes: d, 32 low bytes of points, 8 words of the rest."""
        for b in range(n // 256):
            block = o + 50 * b
            found = search(f, x + 256 * b, importance + 256 * b, q, qo, scratch)
            store_half(w, block, found)
            for j in range(8):
                high = at(q, qo + _FACTORS + j) << 12 | at(q, qo + _SHIFTS + 4 * j) << 15
                for k in range(4):
                    point = point_of(f, scratch, 4 * j + k)
                    w[np.uintp(block + 2 + 4 * j + k)] = np.uint8(point & 255)
                    high |= point >> 8 << 3 * k
                _put_half(w, block + 34 + 2 * j, high)

    return encode


def make_iq1_m(lanes, *, is_weighted: bool = False) -> Callable:
    """Return the encoder of IQ1_M: groups of 16 with a scale of three bits; points with shifts."""
    search = _make_search(lanes, 16, is_shared=False, is_weighted=is_weighted)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        """Write blocks of 56 bytes: 32 low bytes, 16 of high bits, 8 of scales."""
        for b in range(n // 256):
            block = o + 56 * b
            found = search(f, x + 256 * b, importance + 256 * b, q, qo, scratch)
            for i in range(16):
                high = np.int32(0)
                for k in range(2):
                    point = point_of(f, scratch, 2 * i + k)
                    w[np.uintp(block + 2 * i + k)] = np.uint8(point & 255)
                    high |= (point >> 8 | at(q, qo + _SHIFTS + 2 * i + k) << 3) << 4 * k
                w[np.uintp(block + 32 + i)] = np.uint8(high)
            bits = np.int32(half_bits(found))
            for i in range(4):
                word = (bits >> 4 * i & 15) << 12
                for k in range(4):
                    word |= at(q, qo + _FACTORS + 4 * i + k) << 3 * k
                _put_half(w, block + 48 + 2 * i, word)

    return encode
