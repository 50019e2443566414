"""From floats to blocks of IQ2 and IQ3: four or eight weights at a time, as points of a grid.

A super-block takes five numbered steps: signs are taken out and what errors count for is found; a
scale is searched for each group, weights being rounded to the nearest point by a map; scales become
odd multiples of a unit; for these the best point of the whole grid is found for each run of
weights; and the unit is fitted to that. ``coded_256`` has the layouts.

Working memory of a thread: ``f[scratch:]`` as ``_XS ... _POINTS`` say, and ``q[qo:]``.

Source of the criteria: quantize_row_iq2_xxs_impl ... quantize_row_iq3_s_impl in
ggml/src/ggml-quants.c at ggml 0.25.3, which look among neighbours of a point instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba.extending import register_jitable

from gguf_hub.run.kernels.generic import grids
from gguf_hub.run.kernels.generic.floats import at
from gguf_hub.run.kernels.quantize.encode_k import store_half
from gguf_hub.run.kernels.quantize.encode_weights import make_mean_square

if TYPE_CHECKING:
    from numpy.typing import NDArray

_XS, _WS, _SCALES, _SQUARES, _POINTS, _LANES = 0, 256, 512, 528, 560, 624
_SIGNS, _FACTORS = 0, 32
_MAGIC = np.float32(12582912.0)


@dataclass(frozen=True)
class Grid:
    """A type whose weights are points of a grid.

    Attributes:
        book: The points, as ``grids`` has them.
        length: Weights of a point.
        levels: How many magnitudes a weight may have: about 1, 3, 5 ... times the least.
        unit: What the block's half is multiplied by.
        group: Weights that share a scale.
        is_even: Whether the number of negative weights of each eight is even.
        spread_factor: How many mean squares the spread of errors' weights is.
        reach: Candidates of a scale on either side of the obvious one.
        width: Between two of them, in the least magnitude.
    """

    book: NDArray[np.uint64]
    length: int
    levels: int
    unit: float
    group: int
    is_even: bool
    spread_factor: int
    reach: int
    width: float

    @property
    def points(self) -> NDArray[np.float32]:
        """The points, [n, length]."""
        shifts = (8 * np.arange(self.length)).astype(np.uint64)
        values = (self.book[:, None] >> shifts & np.uint64(255)).astype(np.float32)
        return values - np.float32(grids.OFFSET)

    @property
    def map(self) -> NDArray[np.int16]:
        """The nearest point of every combination of levels, the first weight the lowest digit."""
        return map_of(self.points)


def map_of(points: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return the number of the nearest point, [n, length], of every combination of magnitudes."""
    levels, length = np.unique(points), points.shape[1]
    codes, squares = np.arange(len(levels) ** length), (points**2).sum(axis=1)
    wanted = levels[codes[:, None] // len(levels) ** np.arange(length) % len(levels)]
    nearest = [
        (squares - 2 * part @ points.T).argmin(axis=1) for part in np.array_split(wanted, 16)
    ]
    return np.concatenate(nearest).astype(np.int16)


_IQ2 = {"length": 8, "levels": 3, "unit": 0.125, "spread_factor": 1, "reach": 12,
        "width": 0.12}  # fmt: skip
_IQ3 = {"length": 4, "levels": 8, "group": 32, "spread_factor": 2, "reach": 12, "width": 0.3}
GRIDS = {
    "IQ2_XXS": Grid(grids.IQ2_XXS, group=32, is_even=True, **_IQ2),
    "IQ2_XS": Grid(grids.IQ2_XS, group=16, is_even=True, **_IQ2),
    "IQ2_S": Grid(grids.IQ2_S, group=16, is_even=False, **_IQ2),
    "IQ3_XXS": Grid(grids.IQ3_XXS, unit=0.25, is_even=True, **_IQ3),
    "IQ3_S": Grid(grids.IQ3_S, unit=1.0, is_even=False, **_IQ3),
}


# -- 1) signs, and what errors count for -----------------------------------------------------------


def _make_prepare(lanes, grid: Grid, *, is_weighted: bool) -> Callable:
    mean_square, is_even, factor = make_mean_square(lanes), grid.is_even, grid.spread_factor

    @register_jitable
    def prepare(f, x, importance, q, qo, scratch):
        """Write magnitudes, their weights, and 32 bytes of signs."""
        xs, ws = scratch + _XS, scratch + _WS
        spread = np.float32(factor) * mean_square(f, x, 256, scratch + _LANES)
        for i in range(256):
            value = f[np.uintp(x + i)]
            weight = np.float32(np.sqrt(np.float32(spread + value * value)))
            if is_weighted:
                weight *= f[np.uintp(importance + i)]
            f[np.uintp(ws + i)] = weight
            f[np.uintp(xs + i)] = abs(value)
        for k in range(32):
            signs, n_negative, least, where = np.int32(0), 0, np.float32(np.inf), 0
            for i in range(8):
                if f[np.uintp(x + 8 * k + i)] < 0:
                    signs |= 1 << i
                    n_negative += 1
                size = f[np.uintp(xs + 8 * k + i)]
                cost = f[np.uintp(ws + 8 * k + i)] * size * size
                if cost < least:
                    least, where = cost, i
            if is_even and n_negative % 2:
                signs ^= 1 << where
                f[np.uintp(xs + 8 * k + where)] = -f[np.uintp(xs + 8 * k + where)]
            q[np.uintp(qo + _SIGNS + k)] = np.int8(signs - 256 if signs > 127 else signs)

    return prepare


# -- 2) scales of groups ---------------------------------------------------------------------------


def _make_fit(grid: Grid) -> Callable:
    points, nearest, length, levels = grid.points.ravel(), grid.map, grid.length, grid.levels
    n_units, reach = grid.group // grid.length, grid.reach
    width, top = np.float32(grid.width), 2 * grid.levels - 1

    @register_jitable
    def fit(f, xs, ws):
        """Return the scale of a group that minimises the sum of w (x - scale * point)**2."""
        largest = np.float32(0)
        for i in range(n_units * length):
            largest = max(largest, f[np.uintp(xs + i)])
        best = scale = np.float32(0)
        if not largest > np.float32(1e-30):
            return scale
        for k in range(-reach, reach + 1):
            inverse = np.float32(np.float32(top) + width * np.float32(k)) / largest
            dot = square = np.float32(0)
            for unit in range(n_units):
                code, digit_value = 0, 1
                for i in range(length):
                    level = np.float32(0.5) * (f[np.uintp(xs + length * unit + i)] * inverse - 1)
                    level = min(max(level, np.float32(0)), np.float32(levels - 1))
                    code += digit_value * np.int64(np.float32(level + _MAGIC) - _MAGIC)
                    digit_value *= levels
                point = length * np.int64(nearest[code])
                for i in range(length):
                    value, j = points[point + i], length * unit + i
                    weighted = f[np.uintp(ws + j)] * value
                    dot += weighted * f[np.uintp(xs + j)]
                    square += weighted * value
            if square > 0 and dot > 0 and dot * dot > best * square:
                scale = dot / square
                best = dot * scale
        return np.float32(scale)

    return fit


# -- 3) scales as odd multiples --------------------------------------------------------------------


@register_jitable
def _odd_multiple(ratio, top):
    """Return s, 0 ... top, of the multiple 2 s + 1 that is nearest."""
    bounded = min(max(np.float32(0.5) * (ratio - 1), np.float32(0)), np.float32(top))
    return np.int32(np.float32(bounded + _MAGIC) - _MAGIC)


@register_jitable
def round_scales(f, scales, squares, q, factors, n, top):
    """Write s of each scale, 0 ... top, and return the unit by least squares."""
    largest = np.float32(0)
    for j in range(n):
        largest = max(largest, f[scales + j])
    best = unit = np.float32(0)
    if not largest > 0:
        for j in range(n):
            q[factors + j] = 0
        return unit
    for k in range(-8, 5):
        inverse = np.float32((2 * top + 1) * (1 + np.float32(1 / 62) * k)) / largest
        dot = square = np.float32(0)
        for j in range(n):
            multiple = np.float32(2 * _odd_multiple(f[scales + j] * inverse, top) + 1)
            dot += f[squares + j] * f[scales + j] * multiple
            square += f[squares + j] * multiple * multiple
        if square > 0 and dot * dot > best * square:
            unit = dot / square
            best = dot * unit
    for j in range(n):
        q[factors + j] = np.int8(_odd_multiple(f[scales + j] / unit, top) if unit > 0 else 0)
    return np.float32(unit)


# -- 4) the best points ----------------------------------------------------------------------------


def make_choose(lanes, points: NDArray[np.float32]) -> Callable:
    """Return the search of a point of a grid, [n, length]."""
    (n_points, length), width = points.shape, lanes.LANES
    by_weight = np.ascontiguousarray(points.T).ravel()  # [length, n_points]
    load, store, splat, fma = lanes.load, lanes.store, lanes.splat, lanes.fma
    where_less, smaller = lanes.where_less, lanes.smaller

    @register_jitable
    def choose(f, xs, ws, scale, shift, room):
        """Return the point that minimises the sum of w (x - scale * (point + shift))**2.

        And that sum, less what it is for a point of zeros.
        """
        best, found = splat(np.float32(3e38)), splat(0)
        for part in range(n_points // width):
            cost = splat(0)
            for i in range(length):
                value, w = load(by_weight, n_points * i + width * part), f[np.uintp(ws + i)]
                slope = np.float32(-2) * scale * w * (f[np.uintp(xs + i)] - scale * shift)
                cost = fma(value, fma(splat(scale * scale * w), value, splat(slope)), cost)
            found = where_less(cost, best, splat(part), found)
            best = smaller(cost, best)
        store(f, room, best)
        store(f, room + width, found)
        lane = 0
        for i in range(1, width):
            if f[np.uintp(room + i)] < f[np.uintp(room + lane)]:
                lane = i
        point = width * np.int64(f[np.uintp(room + width + lane)]) + lane
        return point, np.float32(f[np.uintp(room + lane)])

    return choose


# -- all of it -------------------------------------------------------------------------------------


def _make_search(lanes, grid: Grid, *, is_weighted: bool) -> Callable:
    """Return what finds signs, scales and points of a super-block, and its unit."""
    prepare, fit = _make_prepare(lanes, grid, is_weighted=is_weighted), _make_fit(grid)
    choose, points = make_choose(lanes, grid.points), grid.points.ravel()
    length, group = grid.length, grid.group
    n_groups, n_units = 256 // grid.group, grid.group // grid.length

    @register_jitable
    def search(f, x, importance, q, qo, scratch):
        xs, ws, factors = scratch + _XS, scratch + _WS, qo + _FACTORS
        scales, squares = scratch + _SCALES, scratch + _SQUARES
        prepare(f, x, importance, q, qo, scratch)
        for j in range(n_groups):
            total = np.float32(0)
            for i in range(group):
                total += f[np.uintp(ws + group * j + i)]
            f[np.uintp(scales + j)] = fit(f, xs + group * j, ws + group * j)
            f[np.uintp(squares + j)] = total
        unit = round_scales(f, scales, squares, q, factors, n_groups, 15)
        dot = square = np.float32(0)
        for j in range(n_groups):
            multiple = np.float32(2 * at(q, factors + j) + 1)
            for k in range(n_units):
                run = group * j + length * k
                scale = np.float32(unit * multiple)
                point, _ = choose(f, xs + run, ws + run, scale, np.float32(0), scratch + _LANES)
                f[np.uintp(scratch + _POINTS + n_units * j + k)] = np.float32(point)
                for i in range(length):
                    value = multiple * points[length * point + i]
                    weighted = f[np.uintp(ws + run + i)] * value
                    dot += weighted * f[np.uintp(xs + run + i)]
                    square += weighted * value
        return np.float32(dot / square) if square > 0 and dot > 0 else np.float32(0)

    return search


# -- 5) packing ------------------------------------------------------------------------------------


@register_jitable
def point_of(f, scratch, i):
    """Return the number of the point that was found for the i-th run of weights."""
    return np.int32(f[np.uintp(scratch + _POINTS + i)])


@register_jitable
def _signs(q, qo, k):
    return np.int32(q[np.uintp(qo + _SIGNS + k)]) & 255


@register_jitable
def _put_word(w, o, value):
    for i in range(4):
        w[np.uintp(o + i)] = np.uint8(value >> 8 * i & 255)


@register_jitable
def _seven_signs(q, qo, j):
    """Return four times seven signs of a group of 32, and its scale above them."""
    word = np.int64(at(q, qo + _FACTORS + j)) << 28
    for k in range(4):
        word |= np.int64(_signs(q, qo, 4 * j + k) & 127) << 7 * k
    return word


@register_jitable
def _pack_scales(q, qo, w, o, n):
    """Write ``n`` bytes of two scales each."""
    for j in range(n):
        low, high = at(q, qo + _FACTORS + 2 * j), at(q, qo + _FACTORS + 2 * j + 1)
        w[np.uintp(o + j)] = np.uint8(low | high << 4)


@register_jitable
def _pack_iq2_xxs(f, q, qo, w, block, scratch):
    for j in range(8):
        for k in range(4):
            w[np.uintp(block + 2 + 8 * j + k)] = np.uint8(point_of(f, scratch, 4 * j + k))
        _put_word(w, block + 6 + 8 * j, _seven_signs(q, qo, j))


@register_jitable
def _pack_iq2_xs(f, q, qo, w, block, scratch):
    for i in range(32):
        code = point_of(f, scratch, i) | (_signs(q, qo, i) & 127) << 9
        w[np.uintp(block + 2 + 2 * i)] = np.uint8(code & 255)
        w[np.uintp(block + 3 + 2 * i)] = np.uint8(code >> 8)
    _pack_scales(q, qo, w, block + 66, 8)


@register_jitable
def _pack_iq2_s(f, q, qo, w, block, scratch):
    for i in range(8):
        high = np.int32(0)
        for k in range(4):
            point = point_of(f, scratch, 4 * i + k)
            w[np.uintp(block + 2 + 4 * i + k)] = np.uint8(point & 255)
            w[np.uintp(block + 34 + 4 * i + k)] = np.uint8(_signs(q, qo, 4 * i + k))
            high |= point >> 8 << 2 * k
        w[np.uintp(block + 66 + i)] = np.uint8(high)
    _pack_scales(q, qo, w, block + 74, 8)


@register_jitable
def _pack_iq3_xxs(f, q, qo, w, block, scratch):
    for i in range(64):
        w[np.uintp(block + 2 + i)] = np.uint8(point_of(f, scratch, i))
    for j in range(8):
        _put_word(w, block + 66 + 4 * j, _seven_signs(q, qo, j))


@register_jitable
def _pack_iq3_s(f, q, qo, w, block, scratch):
    for i in range(8):
        high = np.int32(0)
        for k in range(8):
            point = point_of(f, scratch, 8 * i + k)
            w[np.uintp(block + 2 + 8 * i + k)] = np.uint8(point & 255)
            high |= point >> 8 << k
        w[np.uintp(block + 66 + i)] = np.uint8(high)
    for i in range(32):
        w[np.uintp(block + 74 + i)] = np.uint8(_signs(q, qo, i))
    _pack_scales(q, qo, w, block + 106, 4)


_PACKS = {
    "IQ2_XXS": (_pack_iq2_xxs, 66), "IQ2_XS": (_pack_iq2_xs, 74), "IQ2_S": (_pack_iq2_s, 82),
    "IQ3_XXS": (_pack_iq3_xxs, 98), "IQ3_S": (_pack_iq3_s, 110),
}  # fmt: skip


def make_grid_encoder(weight_type: str, lanes, *, is_weighted: bool = False) -> Callable:
    """Return the encoder of a type of ``GRIDS``."""
    grid, (pack, type_size) = GRIDS[weight_type], _PACKS[weight_type]
    search, unit = _make_search(lanes, grid, is_weighted=is_weighted), np.float32(grid.unit)

    @register_jitable
    def encode(f, x, w, o, n, q, qo, scratch, importance):
        for b in range(n // 256):
            block, own = o + type_size * b, importance + 256 * b
            found = search(f, x + 256 * b, own, q, qo, scratch)
            store_half(w, block, found / unit)
            pack(f, q, qo, w, block, scratch)

    return encode
