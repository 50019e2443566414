"""Finding the scale of a group of weights: weighted least squares over candidates.

Rounding weights x to quants l makes the best scale a matter of least squares, but which quants they
are rounded to depends on the scale. So some scales around the obvious one are tried: each gives
quants, the quants give the best scale for them, and the candidate with the smallest error wins.

One group lies in each lane: element i of all groups is the vector at ``f[xs + LANES * i]``.

Source of the criteria (weights, candidates): make_qx_quants and make_qkx2_quants in
ggml/src/ggml-quants.c at ggml commit c2cdd2b2; the error is computed here in closed form from sums.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

_TINY = np.float32(1e-15)
"""Largest magnitude of a group that is taken for zero."""
_HUGE = np.float32(3e38)
_DISTINCT = np.float32(1e-7)
"""Quants vary enough for a line through them when the determinant is more than this share."""


def make_fit_scale(lanes, *, is_weighted: bool = False) -> Callable:
    """Return the search of a scale for quants -top ... top - 1.

    Args:
        lanes: The module of lanes.
        is_weighted: What errors count for is given; if not, the square of the weight.
    """
    load, splat, fma, where_less = lanes.load, lanes.splat, lanes.fma, lanes.where_less
    smaller, larger, nearest = lanes.smaller, lanes.larger, lanes.nearest
    width, magnitude = lanes.LANES, lanes.magnitude

    @register_jitable
    def extreme(f, xs, n):
        """Return the values of largest magnitude, with their signs."""
        largest = value = splat(0)
        for i in range(n):
            x = load(f, xs + width * i)
            size = magnitude(x)
            value = where_less(largest, size, x, value)
            largest = larger(largest, size)
        return where_less(largest, splat(_TINY), splat(1), value)

    @register_jitable
    def fit_scale(f, xs, ws, n, top):
        """Return scales that minimise the sum of w (x - scale * l)**2.

        The extreme value goes to quant -top - 0.9 ... -top + 0.9 in turn. For given quants the best
        scale is dot / square, and the error then is a constant less dot**2 / square.
        """
        inverse = splat(-1) / extreme(f, xs, n)
        lowest, highest = splat(-top), splat(top - 1)
        zero, one = splat(0), splat(1)
        best = scale = splat(0)
        for k in range(-9, 10):
            factor = splat(top + 0.1 * k) * inverse
            dot = square = splat(0)
            for i in range(n):
                x = load(f, xs + width * i)
                quant = smaller(larger(nearest(factor * x), lowest), highest)
                weight = load(f, ws + width * i) if is_weighted else x * x
                weighted = weight * quant
                dot = fma(weighted, x, dot)
                square = fma(weighted, quant, square)
            candidate = dot / where_less(zero, square, square, one)
            gain = candidate * dot
            scale = where_less(best, gain, candidate, scale)
            best = larger(best, gain)
        return scale

    return fit_scale


def make_fit_line(
    lanes, *, first: float, count: int, by_size: bool, step: float = 0.1, has_obvious: bool = False
) -> Callable:
    """Return the search of scale and minimum for quants 0 ... top.

    Args:
        lanes: The module of lanes.
        first: What the first candidate's range is wider than ``top`` by.
        count: How many candidates there are.
        by_size: Compare sums of weighted magnitudes of errors, not of their squares.
        step: What the range of each is wider by than that of the one before.
        has_obvious: The line from the least to the largest weight is a candidate, too.
    """
    load, splat, fma, where_less = lanes.load, lanes.splat, lanes.fma, lanes.where_less
    smaller, larger, nearest = lanes.smaller, lanes.larger, lanes.nearest
    width, magnitude = lanes.LANES, lanes.magnitude

    @register_jitable
    def total_error(f, xs, ws, n, factor, low, highest, scale, minimum):
        """Return the sum of weighted errors of a candidate: their magnitudes, or squares."""
        zero = total = splat(0)
        for i in range(n):
            x = load(f, xs + width * i)
            quant = smaller(larger(nearest(factor * (x - low)), zero), highest)
            error = fma(scale, quant, minimum - x)
            error = magnitude(error) if by_size else error * error
            total = fma(load(f, ws + width * i), error, total)
        return total

    @register_jitable
    def fit_line(f, xs, ws, n, top):
        """Return scales, and minima with their signs turned round, so that none is negative.

        Minimises the sum of w (x - scale * l + minimum)**2 for l = 0 ... top.
        """
        # 1) the range, from zero if all weights are positive, and the sums that stay
        low, high = splat(0), load(f, xs)
        sum_w = sum_x = sum_xx = splat(0)
        for i in range(n):
            x, w = load(f, xs + width * i), load(f, ws + width * i)
            low, high = smaller(low, x), larger(high, x)
            sum_w = sum_w + w
            sum_x = fma(w, x, sum_x)
            sum_xx = fma(w * x, x, sum_xx)
        zero, one, highest = splat(0), splat(1), splat(top)
        spread = high - low
        quants_per_unit = one / where_less(splat(_TINY), spread, spread, one)

        # 2) the obvious line, and how good it is
        scale, minimum = spread / highest, low
        best = splat(_HUGE)
        if by_size or has_obvious:
            factor = highest * quants_per_unit
            best = total_error(f, xs, ws, n, factor, low, highest, scale, minimum)
            if not by_size:
                best = best - sum_xx  # which the errors of candidates lack

        # 3) candidates: quants, sums, the best line through them, its error. Quants count from the
        # best minimum so far, not from the lowest weight: that tries more, and finds better ones.
        for k in range(count):
            low = minimum
            factor = splat(top + first + step * k) * quants_per_unit
            sum_l = sum_ll = sum_xl = splat(0)
            for i in range(n):
                x = load(f, xs + width * i)
                quant = smaller(larger(nearest(factor * (x - low)), zero), highest)
                weighted = load(f, ws + width * i) * quant
                sum_l = sum_l + weighted
                sum_ll = fma(weighted, quant, sum_ll)
                sum_xl = fma(weighted, x, sum_xl)
            product = sum_w * sum_ll
            determinant = product - sum_l * sum_l
            is_line = determinant - splat(_DISTINCT) * product
            inverse = one / where_less(zero, is_line, determinant, one)
            s = (sum_w * sum_xl - sum_x * sum_l) * inverse
            m = (sum_ll * sum_x - sum_l * sum_xl) * inverse
            # a minimum above zero cannot be stored: the line then goes through zero
            s = where_less(zero, m, sum_xl / where_less(zero, sum_ll, sum_ll, one), s)
            m = smaller(m, zero)
            if by_size:
                error = total_error(f, xs, ws, n, factor, low, highest, s, m)
            else:
                error = s * (s * sum_ll + (m + m) * sum_l - (sum_xl + sum_xl))
                error = error + m * (m * sum_w - (sum_x + sum_x))
            error = where_less(zero, is_line, error, splat(_HUGE))
            scale = where_less(error, best, s, scale)
            minimum = where_less(error, best, m, minimum)
            best = smaller(error, best)
        return scale, zero - minimum

    return fit_line
