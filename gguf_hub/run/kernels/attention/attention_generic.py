"""Inner loops of attention for any CPU (see ``attention``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from gguf_hub.gguf.memory import cache
from gguf_hub.gguf.memory.cache import LANES, ROWS
from gguf_hub.run.kernels.attention.attention import Keys, Values, n_tiles
from gguf_hub.run.kernels.generic.floats import half_bits, half_value

_MAX_QUANT = np.float32(127)
_HALF = LANES // 2  # elements of a tile in bytes

f32_key_block = register_jitable(cache.f32_key_block)
f16_key_block = register_jitable(cache.f16_key_block)
q8_0_key_block = register_jitable(cache.q8_0_key_block)
f32_value_tile = register_jitable(cache.f32_value_tile)
f16_value_tile = register_jitable(cache.f16_value_tile)
q8_0_value_tile = register_jitable(cache.q8_0_value_tile)


class FloatLayout(NamedTuple):
    """How numbers of one type of floats lie in the cache.

    Attributes:
        size: Elements of a number.
        key_block: See ``cache``.
        value_tile: See ``cache``.
    """

    size: int
    key_block: Callable
    value_tile: Callable


FLOAT_LAYOUTS = {
    "F32": FloatLayout(2, f32_key_block, f32_value_tile),
    "F16": FloatLayout(1, f16_key_block, f16_value_tile),
}


# -- bytes and floats in an array of elements of two ----------------------------------------------


@register_jitable
def _byte(kv, at, i):
    """Return signed byte ``i`` behind element ``at``."""
    bits = (np.int64(kv[at + i // 2]) >> (8 * (i % 2))) & 0xFF
    return np.float32(bits - 256 if bits > 127 else bits)


@register_jitable
def _put_byte(kv, at, i, value):
    """Store a signed byte there."""
    shift = 8 * (i % 2)
    rest = np.int64(kv[at + i // 2]) & (0xFF << (8 - shift))
    kv[at + i // 2] = rest | (value & 0xFF) << shift


@register_jitable
def q8_0_scale(f, row, n):
    """Return the scale of ``n`` floats, their largest magnitude over 127, as ggml's q8_0 has it."""
    top = np.float32(0)
    for i in range(n):
        top = max(top, abs(f[row + i]))
    return top / _MAX_QUANT


@register_jitable
def _half(kv, at):
    return half_value(kv[at])


@register_jitable
def _float(kv, at):
    """Return the float32 at two elements, the lower bits in the first."""
    return np.uint32(np.int64(kv[at]) | np.int64(kv[at + 1]) << 16).view(np.float32)


@register_jitable
def _store_half(kv, at, value):
    kv[at] = half_bits(value)


@register_jitable
def _store_float(kv, at, value):
    bits = np.int64(np.float32(value).view(np.uint32))
    kv[at] = bits & 0xFFFF
    kv[at + 1] = bits >> 16


@register_jitable
def _store_quant(kv, at, i, value):
    """Store a value, rounded to nearest even, as signed byte ``i`` behind element ``at``."""
    _put_byte(kv, at, i, np.int64(np.rint(value)))


# -- filling ---------------------------------------------------------------------------------------


def make_stores(
    store_floats: Mapping[str, Callable], store_quant: Callable
) -> dict[str, tuple[Callable, Callable]]:
    """Return type -> ``Keys.store``, ``Values.store``.

    Args:
        store_floats: Type -> ``(kv, at, value)``: store a value as a float of it at element ``at``.
        store_quant: ``(kv, at, i, value)``: store it, rounded, as signed byte ``i`` behind that.
    """
    store_half = store_floats["F16"]

    @register_jitable
    def store_q8_0_key(kv, base, n_dims, position, f, row):
        """Store a key as quants, [d, 32 positions] in bytes, and halves."""
        block = base + q8_0_key_block(n_dims) * (position // LANES)
        for tile in range(n_tiles(n_dims)):
            first, last = LANES * tile, min(LANES * tile + LANES, n_dims)
            d = q8_0_scale(f, row + first, last - first)
            inverse = np.float32(1) / d if d > 0 else np.float32(0)
            store_half(kv, block + _HALF * n_dims + LANES * tile + position % LANES, d)
            for i in range(first, last):
                store_quant(kv, block + _HALF * i, position % LANES, f[row + i] * inverse)

    @register_jitable
    def store_q8_0_value(kv, base, n_dims, n_ctx, position, f, row):
        """Store a value as quants, [S, 32 dimensions] in bytes, and a half for each tile."""
        for tile in range(n_tiles(n_dims)):
            first, last = LANES * tile, min(LANES * tile + LANES, n_dims)
            at = base + q8_0_value_tile(n_ctx) * tile
            d = q8_0_scale(f, row + first, last - first)
            inverse = np.float32(1) / d if d > 0 else np.float32(0)
            store_half(kv, at + _HALF * n_ctx + position, d)
            for i in range(last - first):
                store_quant(kv, at + _HALF * position, i, f[row + first + i] * inverse)

    stores = {type_: _float_stores(type_, store) for type_, store in store_floats.items()}
    return {**stores, "Q8_0": (store_q8_0_key, store_q8_0_value)}


def _float_stores(type_: str, store: Callable) -> tuple[Callable, Callable]:
    """Return ``Keys.store`` and ``Values.store`` of a type of floats."""
    size, key_block, value_tile = FLOAT_LAYOUTS[type_]

    @register_jitable
    def store_key(kv, base, n_dims, position, f, row):
        """Store the key of a position in its block of 32: dimensions lie 32 numbers apart."""
        at = base + key_block(n_dims) * (position // LANES) + size * (position % LANES)
        for i in range(n_dims):
            store(kv, at + size * LANES * i, f[row + i])

    @register_jitable
    def store_value(kv, base, n_dims, n_ctx, position, f, row):
        """Store the value of a position: 32 neighbouring dimensions in each tile."""
        for tile in range(n_tiles(n_dims)):
            at = base + value_tile(n_ctx) * tile + size * LANES * position
            first = LANES * tile
            for i in range(min(LANES, n_dims - first)):
                store(kv, at + size * i, f[row + first + i])

    return store_key, store_value


# -- products --------------------------------------------------------------------------------------


def _scores_of_rows(row_scores):
    """Return the scores of one row, or of four, made of one row after another."""

    @register_jitable
    def scores(f, qs, kv, block, n_dims, ys):
        """Multiply the queries at ``qs``, one or four, with the keys of 32 positions."""
        row_scores(f, qs[0], kv, block, n_dims, ys[0])
        if len(qs) == ROWS:
            row_scores(f, qs[1], kv, block, n_dims, ys[1])
            row_scores(f, qs[2], kv, block, n_dims, ys[2])
            row_scores(f, qs[3], kv, block, n_dims, ys[3])

    return scores


def _sums_of_rows(row_weigh):
    """Return the weighted sums of one row, or of four."""

    @register_jitable
    def weigh(f, ps, n, kv, base, first, n_dims, n_ctx, sums, factors, spares):
        """Add ``n`` positions' values to the sums of rows, one or four; ``spares`` is unused."""
        row_weigh(f, ps[0], n, kv, base, first, n_dims, n_ctx, sums[0], factors[0])
        if len(ps) == ROWS:
            row_weigh(f, ps[1], n, kv, base, first, n_dims, n_ctx, sums[1], factors[1])
            row_weigh(f, ps[2], n, kv, base, first, n_dims, n_ctx, sums[2], factors[2])
            row_weigh(f, ps[3], n, kv, base, first, n_dims, n_ctx, sums[3], factors[3])

    return weigh


def _float_keys(type_: str, load: Callable) -> Keys:
    """Return keys of a type of floats; ``load``, of ``(kv, at)``, returns that at an element."""
    size, key_block, _ = FLOAT_LAYOUTS[type_]

    @register_jitable
    def scores(f, query, kv, block, n_dims, y):
        """Multiply a row with 32 keys."""
        for j in range(LANES):
            f[y + j] = np.float32(0)
        for i in range(n_dims):
            x = f[query + i]
            for j in range(LANES):
                f[y + j] += x * load(kv, block + size * (LANES * i + j))

    return Keys(_STORES[type_][0], _scores_of_rows(scores), key_block)


def _float_values(type_: str, load: Callable) -> Values:
    """Return values of a type of floats."""
    size, _, value_tile = FLOAT_LAYOUTS[type_]

    @register_jitable
    def weigh(f, weights, n, kv, base, first, n_dims, n_ctx, sums, factor):
        """Add up values for a row."""
        for i in range(n_dims):
            at = base + value_tile(n_ctx) * (i // LANES) + size * (LANES * first + i % LANES)
            total = np.float32(0)
            for j in range(n):
                total += f[weights + j] * load(kv, at + size * LANES * j)
            f[sums + i] = f[sums + i] * f[factor] + total * f[factor + 1]

    return Values(_STORES[type_][1], _sums_of_rows(weigh), value_tile)


@register_jitable
def q8_0_scores(f, query, kv, block, n_dims, y):
    """Multiply a row with 32 keys of quants."""
    for j in range(LANES):
        total = np.float32(0)
        for tile in range(n_tiles(n_dims)):
            part = np.float32(0)
            for i in range(LANES * tile, min(LANES * tile + LANES, n_dims)):
                part += f[query + i] * _byte(kv, block + _HALF * i, j)
            total += part * half_value(kv[block + _HALF * n_dims + LANES * tile + j])
        f[y + j] = total


@register_jitable
def q8_0_weigh(f, weights, n, kv, base, first, n_dims, n_ctx, sums, factor):
    """Add up values of quants for a row."""
    for i in range(n_dims):
        tile = base + q8_0_value_tile(n_ctx) * (i // LANES)
        total = np.float32(0)
        for j in range(n):
            weight = f[weights + j] * half_value(kv[tile + _HALF * n_ctx + first + j])
            total += weight * _byte(kv, tile + _HALF * (first + j), i % LANES)
        f[sums + i] = f[sums + i] * f[factor] + total * f[factor + 1]


_STORES = make_stores({"F32": _store_float, "F16": _store_half}, _store_quant)
KEYS = {
    "F32": _float_keys("F32", _float),
    "F16": _float_keys("F16", _half),
    "Q8_0": Keys(_STORES["Q8_0"][0], _scores_of_rows(q8_0_scores), q8_0_key_block),
}
VALUES = {
    "F32": _float_values("F32", _float),
    "F16": _float_values("F16", _half),
    "Q8_0": Values(_STORES["Q8_0"][1], _sums_of_rows(q8_0_weigh), q8_0_value_tile),
}
