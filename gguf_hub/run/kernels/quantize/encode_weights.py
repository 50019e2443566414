"""What errors of weights count for, by an importance matrix, and scales that follow it.

The error of a weight x counts ``importance * sqrt(spread + x**2)``: by its input's importance, and
more where the weight is large. ``spread`` is the mean square of the weights around it.

Source of the criteria: quantize_row_q2_K_impl ... quantize_row_q5_1_impl and make_qp_quants in
ggml/src/ggml-quants.c at ggml 0.25.3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

_MAGIC = np.float32(12582912.0)


def make_range(lanes) -> Callable:
    """Return ``range_of``: the largest and the smallest of 32 values."""
    width, load, smaller, larger = lanes.LANES, lanes.load, lanes.smaller, lanes.larger
    highest, lowest = lanes.highest, lanes.lowest

    @register_jitable
    def range_of(f, x):
        """Return (largest, smallest) of ``f[x:x+32]``."""
        high = low = load(f, x)
        for i in range(1, 32 // width):
            value = load(f, x + width * i)
            high, low = larger(high, value), smaller(low, value)
        return highest(high), lowest(low)

    return range_of


def make_total(lanes) -> Callable:
    """Return the sum of all lanes of a vector; it uses the floats at ``scratch``."""
    width, store = lanes.LANES, lanes.store

    @register_jitable
    def total_of(f, scratch, vector):
        """Return the sum of the lanes, the first lane first, as float32."""
        store(f, scratch, vector)
        total = np.float32(0)
        for i in range(width):
            total += f[np.uintp(scratch + i)]
        return total

    return total_of


def make_mean_square(lanes) -> Callable:
    """Return the mean of the squares of ``n`` floats, a multiple of the lanes."""
    width, load, splat, fma = lanes.LANES, lanes.load, lanes.splat, lanes.fma
    total_of = make_total(lanes)

    @register_jitable
    def mean_square(f, x, n, scratch):
        """Return it for ``f[x:x+n]``, float32; ``scratch`` has room for a vector."""
        total = splat(0)
        for i in range(n // width):
            value = load(f, x + width * i)
            total = fma(value, value, total)
        return np.float32(total_of(f, scratch, total) / np.float32(n))

    return mean_square


def make_gather_weighted(lanes, *, by_size: bool = True) -> Callable:
    """Return what gathers groups, one in each lane, and what their weights count for.

    Args:
        lanes: The module of lanes.
        by_size: Whether the error of a large weight counts more.
    """
    width, gather, store = lanes.LANES, lanes.gather, lanes.store
    splat, root = lanes.splat, lanes.root

    @register_jitable
    def gather_weighted(f, x, importance, group, xs, ws, spread):
        """Write vectors of weights to ``xs`` and of counts to ``ws``; return the sums of these."""
        total, wide = splat(0), splat(spread)
        for i in range(group):
            value, counted = gather(f, x + i, group), gather(f, importance + i, group)
            if by_size:
                counted = counted * root(wide + value * value)
            store(f, xs + width * i, value)
            store(f, ws + width * i, counted)
            total = total + counted
        return total

    return gather_weighted


@register_jitable
def _quant(value, lowest, highest):
    bounded = min(max(value, np.float32(lowest)), np.float32(highest))
    return np.int32(np.float32(bounded + _MAGIC) - _MAGIC)


@register_jitable
def round_weighted(f, values, weights, q, factors, n, lowest, highest, anchor, reach):
    """Round ``n`` values to multiples of a scale by weighted least squares; return the scale.

    Args:
        f: Where values and weights are.
        values: Their offset.
        weights: The offset of what their errors count for.
        q: Where the multiples go.
        factors: Their offset.
        n: How many.
        lowest: The lowest multiple.
        highest: The highest multiple.
        anchor: Where the extreme value goes, give or take ``reach`` tenths.
        reach: See ``anchor``.
    """
    extreme = np.float32(0)
    for j in range(n):
        if abs(f[values + j]) > abs(extreme):
            extreme = f[values + j]
    if not abs(extreme) > np.float32(1e-30):
        for j in range(n):
            q[factors + j] = 0
        return np.float32(0)
    # 1) candidates: the multiples of each give its best scale and how much of the error that takes
    best = inverse = np.float32(0)
    for k in range(-reach, reach + 1):
        candidate = np.float32((anchor + np.float32(0.1) * k) / extreme)
        dot = square = np.float32(0)
        for j in range(n):
            multiple = np.float32(_quant(f[values + j] * candidate, lowest, highest))
            weighted = f[weights + j] * multiple
            dot += weighted * f[values + j]
            square += weighted * multiple
        if square > 0 and dot * dot > best * square:
            best, inverse = np.float32(dot * dot / square), candidate
    # 2) one multiple at a time is moved while that helps
    dot = square = np.float32(0)
    for j in range(n):
        multiple = _quant(f[values + j] * inverse, lowest, highest)
        q[factors + j] = np.int8(multiple)
        weighted = f[weights + j] * np.float32(multiple)
        dot += weighted * f[values + j]
        square += weighted * np.float32(multiple)
    for _ in range(5):
        is_changed = False
        for j in range(n):
            value, weight = f[values + j], f[weights + j]
            old = np.float32(q[factors + j])
            other_dot = np.float32(dot - weight * value * old)
            other_square = np.float32(square - weight * old * old)
            if not (other_dot > 0 and other_square > 0):
                continue
            moved = _quant(value * other_square / other_dot, lowest, highest)
            new = np.float32(moved)
            if new == old:
                continue
            other_dot += weight * value * new
            other_square += weight * new * new
            if other_dot * other_dot * square > dot * dot * other_square:
                q[factors + j] = np.int8(moved)
                dot, square, is_changed = other_dot, other_square, True
        if not is_changed:
            break
    return np.float32(dot / square) if square > 0 else np.float32(0)


def make_refit_lines(lanes, group: int, top: int) -> Callable:
    """Return what fits the units of scales and minima again, to the quants that they give.

    Args:
        lanes: The module of lanes.
        group: Weights in a group.
        top: The largest quant.
    """
    width, load, splat, fma = lanes.LANES, lanes.load, lanes.splat, lanes.fma
    smaller, larger, nearest = lanes.smaller, lanes.larger, lanes.nearest
    total_of = make_total(lanes)

    @register_jitable
    def refit_lines(f, x, importance, q, factors, d, dmin, scratch):
        """Return the units that minimise the sum of w (x - d s l + dmin m)**2."""
        zero, highest = splat(0), splat(top)
        ss = sm = mm = sx = mx = zero
        for j in range(256 // group):
            s, m = np.float32(q[factors + j]), np.float32(q[factors + 16 + j])
            scale = np.float32(d * s)
            inverse = splat(np.float32(1) / scale if scale > 0 else np.float32(0))
            shift = splat(dmin * m)
            sum_w = sum_l = sum_ll = sum_x = sum_xl = zero
            for i in range(group // width):
                at = group * j + width * i
                value, w = load(f, x + at), load(f, importance + at)
                quant = nearest(smaller(larger((value + shift) * inverse, zero), highest))
                weighted = w * quant
                sum_w, sum_l = sum_w + w, sum_l + weighted
                sum_ll, sum_xl = fma(weighted, quant, sum_ll), fma(weighted, value, sum_xl)
                sum_x = fma(w, value, sum_x)
            s_wide, m_wide = splat(s), splat(m)
            ss, sx = fma(s_wide * s_wide, sum_ll, ss), fma(s_wide, sum_xl, sx)
            mm, mx = fma(m_wide * m_wide, sum_w, mm), fma(m_wide, sum_x, mx)
            sm = fma(s_wide * m_wide, sum_l, sm)
        a, b, c = (total_of(f, scratch, ss), total_of(f, scratch, sm), total_of(f, scratch, mm))
        e, g = total_of(f, scratch, sx), total_of(f, scratch, mx)
        determinant = np.float32(a * c - b * b)
        if determinant > np.float32(1e-5) * a * c:
            new_d, new_dmin = (e * c - g * b) / determinant, (e * b - g * a) / determinant
            if new_d > 0 and new_dmin >= 0:
                d, dmin = np.float32(new_d), np.float32(new_dmin)
        elif a > 0 and e > 0 and not c > 0:
            d = np.float32(e / a)
        return d, dmin

    return refit_lines


def make_move_lines(lanes, group: int, top: int, highest: int) -> Callable:
    """Return what moves each group's multiples by one where that lessens its error.

    Args:
        lanes: The module of lanes.
        group: Weights in a group.
        top: The largest quant.
        highest: The largest multiple.
    """
    gather_weighted = make_gather_weighted(lanes, by_size=False)
    width, load, store = lanes.LANES, lanes.load, lanes.store
    splat, fma, where_less = lanes.splat, lanes.fma, lanes.where_less
    smaller, larger, nearest = lanes.smaller, lanes.larger, lanes.nearest

    @register_jitable
    def error_of(f, xs, ws, scale, shift):
        """Return each lane's sum of w (scale x quant - shift - x)**2, of the nearest quants."""
        zero, one, most = splat(0), splat(1), splat(top)
        inverse = where_less(zero, scale, one / where_less(zero, scale, scale, one), zero)
        total = zero
        for i in range(group):
            value = load(f, xs + width * i)
            quant = nearest(smaller(larger((value + shift) * inverse, zero), most))
            error = fma(scale, quant, zero - shift - value)
            total = fma(load(f, ws + width * i) * error, error, total)
        return total

    @register_jitable
    def move_lines(f, x, importance, q, factors, d, dmin, xs, ws, found):
        """Try -1, 0, 1 on both multiples of each group; keep the best in ``q[factors:]``."""
        zero, most, d_wide, dmin_wide = splat(0), splat(highest), splat(d), splat(dmin)
        for part in range(256 // group // width):
            at, first = group * width * part, factors + width * part
            gather_weighted(f, x + at, importance + at, group, xs, ws, 0)
            for j in range(width):
                f[np.uintp(found + j)] = np.float32(q[first + j])
                f[np.uintp(found + 16 + j)] = np.float32(q[first + 16 + j])
            scale = best_scale = load(f, found)
            minimum = best_minimum = load(f, found + 16)
            least = error_of(f, xs, ws, scale * d_wide, minimum * dmin_wide)
            for k in range(9):
                s = smaller(larger(scale + splat(k // 3 - 1), zero), most)
                m = smaller(larger(minimum + splat(k % 3 - 1), zero), most)
                error = error_of(f, xs, ws, s * d_wide, m * dmin_wide)
                best_scale = where_less(error, least, s, best_scale)
                best_minimum = where_less(error, least, m, best_minimum)
                least = smaller(error, least)
            store(f, found, best_scale)
            store(f, found + 16, best_minimum)
            for j in range(width):
                q[first + j] = np.int8(f[np.uintp(found + j)])
                q[first + 16 + j] = np.int8(f[np.uintp(found + 16 + j)])

    return move_lines
