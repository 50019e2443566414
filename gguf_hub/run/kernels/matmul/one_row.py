"""The product of one row with one token, as far as it is the same for all widths of vectors."""

from __future__ import annotations

import numpy as np

from gguf_hub.run.kernels.simd.simd import floats, fma, splat_f32x8, splat_i32x8
from gguf_hub.run.kernels.simd.simd512 import (
    add_lanes,
    load_i32x8_at,
    shift_in,
    sums_of_eight,
    with_lane,
)
from gguf_hub.run.kernels.simd.simd_memory import (
    get,
    load_f16,
    load_f32x8,
    load_strided_f16x8,
    load_u32,
    prefetch_ahead,
)
from gguf_hub.run.kernels.simd.vectors import machine_code


def products_of(lanes):
    """Return the ``products`` of ``steps.make_rows``: the result goes to ``f[y]``.

    Args:
        lanes: ``(w, o, q, a, f, x, n)``: the eight floats to add up, as ``x512_rows`` has them.
    """

    @machine_code
    def products(w, o, q, a, f, x, n, y, is_added):
        """Add the eight lanes to ``f[y]``, or to zero, one after another; store the sum."""
        start = f[y] if is_added else np.float32(0)
        f[y] = add_lanes(start, lanes(w, o, q, a, f, x, n))

    return products


def eight_of(scale, type_size: int):
    """Return ``(w, p)``: the scales of the eight blocks at ``p``, each by ``scale(w, p)``."""

    @machine_code
    def eight(w, p):
        """Return eight scales as an f32x8, each read by itself."""
        scales = splat_f32x8(0)
        for b in range(8):
            scales = shift_in(scales, scale(w, p + type_size * b))
        return scales

    return eight


def scales_of(type_size: int, d_at: int, factor=None):
    """Return ``(w, p)`` of one block's scale and of eight: ``factor``, or the half at ``d_at``."""
    if factor:
        return factor, eight_of(factor, type_size)

    @machine_code
    def one(w, p):
        """Return the half at ``d_at`` of the block at ``p`` as float32."""
        return load_f16(w, p + d_at)

    @machine_code
    def eight(w, p):
        """Return the halves of eight blocks as an f32x8."""
        return load_strided_f16x8(w, p + d_at, type_size)

    return one, eight


def sums_by_pairs(first, second, third, fourth):
    """Return ``(w, p, q, at)``: the integer sums of the eight blocks at ``p``, i32x8.

    Arguments are ``(w, p, q, at)``: the products of the first two of the eight blocks at ``p`` with
    the activations at ``at``, of the next two and so on, as many lanes for each block.
    """

    @machine_code
    def sums(w, p, q, at):
        """Return block k's sum in lane k; two blocks meet 64 activations."""
        return sums_of_eight(
            first(w, p, q, at),
            second(w, p, q, at + 64),
            third(w, p, q, at + 128),
            fourth(w, p, q, at + 192),
        )

    return sums


def small_of(
    type_size: int, eight_sums, block_sum, scales, minima, *,
    offset: int = 0, has_minimum: bool = False, scale=load_f16,
):  # fmt: skip
    """Return the eight floats of a type with blocks of 32.

    Args:
        type_size: Bytes of a block, whose first half is the scale, the second perhaps the minimum.
        eight_sums: ``(w, p, q, at)``: the integer sums of the products of the eight blocks at ``p``
            with the activations at ``at``.
        block_sum: ``(w, p, q, at)``: the integer sum of the products of the block at ``p``.
        scales: ``(w, p)``: those of the eight blocks at ``p``.
        minima: The same.
        offset: What a weight is too large by.
        has_minimum: Whether a minimum follows the scale.
        scale: ``(w, p)``: that of the block at ``p``.
    """
    prefetch = prefetch_ahead(8 * type_size)
    add_end = _small_end_of(type_size, block_sum, offset, has_minimum, scale)

    @machine_code
    def lanes(w, o, q, a, f, x, n):
        """Return the eight sums: block b goes to lane b % 8, eight blocks to one ``fma``."""
        blocks = n // 32
        total = splat_f32x8(0)
        for g in range(blocks // 8):
            p, at = o + 8 * type_size * g, a + 256 * g
            prefetch(w, p)
            sums = eight_sums(w, p, q, at)
            if offset:
                sums = sums - load_i32x8_at(q, a + n + 32 * g) * splat_i32x8(offset)
            total = fma(scales(w, p) * load_f32x8(f, x + 8 * g), floats(sums), total)
            if has_minimum:
                total = fma(minima(w, p), load_f32x8(f, x + blocks + 8 * g), total)
        return add_end(w, o, q, a, f, x, n, total) if blocks % 8 else total

    return lanes


def _small_end_of(type_size: int, block_sum, offset: int, has_minimum: bool, scale_of):
    """Return a function that adds a row's last blocks of 32, fewer than eight, to the first lanes.

    Arguments are those of ``small_of``.
    """

    @machine_code
    def add_end(w, o, q, a, f, x, n, total):
        """Return ``total`` plus what the last blocks give; lanes without one add zero."""
        blocks = n // 32
        scale = m = sums_m = splat_f32x8(0)
        sums = splat_i32x8(0)
        first = blocks // 8 * 8
        for lane in range(7):  # fully unrolled, so that lanes are constants
            b = first + lane
            if b >= blocks:
                break
            p = o + type_size * b
            block_total = block_sum(w, p, q, a + 32 * b)
            if offset:
                block_total -= np.int32(load_u32(q, a + n + 4 * b)) * np.int32(offset)
            sums = with_lane(sums, lane, block_total)
            scale = with_lane(scale, lane, scale_of(w, p) * get(f, x + b))
            if has_minimum:
                m = with_lane(m, lane, load_f16(w, p + 2))
                sums_m = with_lane(sums_m, lane, get(f, x + blocks + b))
        total = fma(scale, floats(sums), total)
        return fma(m, sums_m, total) if has_minimum else total

    return add_end
