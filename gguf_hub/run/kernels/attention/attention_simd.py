"""Inner loops of attention over SIMD registers (see ``attention``).

A row's 32 results are one vector, or two halves of it where registers are few: with AVX2's sixteen,
four rows of sixteen results fill eight; with NEON's 32, half as wide, sixteen of them. One source
serves one row and four.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache as once

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.gguf.memory.cache import LANES
from gguf_hub.run.kernels.attention import attention_generic as generic
from gguf_hub.run.kernels.attention.attention import Keys, Values, n_tiles
from gguf_hub.run.kernels.attention.attention_generic import (
    FLOAT_LAYOUTS,
    q8_0_key_block,
    q8_0_value_tile,
)
from gguf_hub.run.kernels.simd.simd import first_lane_f32x8, fma, splat_f32x8, sum_f32x8
from gguf_hub.run.kernels.simd.simd_memory import (
    FLOATS,
    load_f32x8,
    store_f16,
    store_f32,
    widening_loader,
)
from gguf_hub.run.kernels.simd.simd_rows import repeat, rows_loader, rows_of_zeros, rows_splatter
from gguf_hub.run.kernels.simd.vectors import Vector, machine_code, parts_of, pointer_to

_WIDTHS = {"avx2": 16, "avxvnni": 16, "avx512vnni": 32, "dotprod": 16}
_HALF = LANES // 2  # elements of a tile in bytes


# -- vectors of a given width, one for each element of a tuple, side by side -----------------------


def _store_rows(width: int):
    """Store a vector at ``array[start + offset]`` for each start."""
    single = Vector("f32", width)

    @intrinsic
    def store_rows(typingctx, array, starts, offset, values):
        """Store ``values``, a vector of ``width`` floats for each start, side by side."""

        def codegen(context, builder, sig, args):
            """Cut the vector into ``width`` lanes each; emit an unaligned store for each start."""
            parts = parts_of(builder, args[3], width, len(starts))
            for t, part in enumerate(parts):
                index = builder.add(builder.extract_value(args[1], t), args[2])
                pointer = pointer_to(context, builder, sig.args[0], args[0], index, single.ir())
                builder.store(part, pointer, align=1)
            return context.get_dummy_value()

        return types.void(array, starts, types.int64, values), codegen

    return store_rows


@intrinsic
def _store_quant(typingctx, array, index, byte, value):
    """Store ``value``, rounded, as signed byte ``byte`` behind element ``index``."""

    def codegen(context, builder, sig, args):
        """Emit ``llvm.rint.f32``, ``fptosi`` and a store of the low byte."""
        data = pointer_to(context, builder, sig.args[0], args[0], args[1], ir.IntType(8))
        name, kind = "llvm.rint.f32", ir.FunctionType(ir.FloatType(), [ir.FloatType()])
        rint = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        quant = builder.fptosi(builder.call(rint, [args[3]]), ir.IntType(32))
        builder.store(builder.trunc(quant, ir.IntType(8)), builder.gep(data, [args[2]]))
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, types.float32), codegen


_STORES = generic.make_stores({"F32": store_f32, "F16": store_f16}, _store_quant)


# -- products --------------------------------------------------------------------------------------


def _float_of_byte(builder, value, target):
    return builder.sitofp(value, target)


def _float_keys(width: int, key_type: str) -> Keys:
    floats, (size, key_block, _) = Vector("f32", width), FLOAT_LAYOUTS[key_type]
    zeros, splat_rows = rows_of_zeros(floats), rows_splatter(floats)
    store_rows = _store_rows(width)
    load = widening_loader(width, *FLOATS[key_type])

    @machine_code
    def scores(f, qs, kv, block, n_dims, ys):
        """Multiply queries with 32 keys: ``fma`` of a query's number and ``width`` keys."""
        for part in range(LANES // width):
            total = zeros(qs)
            at = block + size * width * part
            for i in range(n_dims):
                key = load(kv, at + size * LANES * i)
                total = fma(splat_rows(f, qs, i), repeat(key, qs), total)
            store_rows(f, ys, width * part, total)

    return Keys(_STORES[key_type][0], scores, key_block)


def _q8_0_keys(width: int) -> Keys:
    floats = Vector("f32", width)
    zeros, splat_rows = rows_of_zeros(floats), rows_splatter(floats)
    store_rows = _store_rows(width)
    load_halves = widening_loader(width, *FLOATS["F16"])
    load_bytes = widening_loader(width, ir.IntType(8), _float_of_byte)

    @machine_code
    def q8_0_scores(f, qs, kv, block, n_dims, ys):
        """As ``scores``, of bytes: the sums of each 32 dimensions meet their scales."""
        for part in range(LANES // width):
            total = zeros(qs)
            for tile in range(n_tiles(n_dims)):
                inner = zeros(qs)
                at = block + width // 2 * part
                for i in range(LANES * tile, min(LANES * tile + LANES, n_dims)):
                    key = load_bytes(kv, at + _HALF * i)
                    inner = fma(splat_rows(f, qs, i), repeat(key, qs), inner)
                scale = load_halves(kv, block + _HALF * n_dims + LANES * tile + width * part)
                total = fma(inner, repeat(scale, qs), total)
            store_rows(f, ys, width * part, total)

    return Keys(_STORES["Q8_0"][0], q8_0_scores, q8_0_key_block)


def _sum_joiner(width: int) -> Callable:
    floats = Vector("f32", width)
    splat_rows, load_rows, store_rows = (
        rows_splatter(floats), rows_loader(floats), _store_rows(width)
    )  # fmt: skip

    @machine_code
    def join_sums(f, sums, offset, factors, total):
        """Bring the rows' sums up to date with those of a chunk."""
        before = load_rows(f, sums, offset) * splat_rows(f, factors, 0)
        store_rows(f, sums, offset, fma(total, splat_rows(f, factors, 1), before))

    return join_sums


def _float_values(width: int, value_type: str) -> Values:
    floats, (size, _, value_tile) = Vector("f32", width), FLOAT_LAYOUTS[value_type]
    zeros, splat_rows = rows_of_zeros(floats), rows_splatter(floats)
    load, join_sums = widening_loader(width, *FLOATS[value_type]), _sum_joiner(width)

    @machine_code
    def weigh(f, ps, n, kv, base, first, n_dims, n_ctx, sums, factors, spares):
        """Add up values: ``fma`` of a position's weight and ``width`` dimensions of its value."""
        for tile in range(n_tiles(n_dims)):
            for part in range(LANES // width):
                at = base + value_tile(n_ctx) * tile + size * (LANES * first + width * part)
                total = zeros(ps)
                for j in range(n):
                    value = load(kv, at + size * LANES * j)
                    total = fma(splat_rows(f, ps, j), repeat(value, ps), total)
                join_sums(f, sums, LANES * tile + width * part, factors, total)

    return Values(_STORES[value_type][1], weigh, value_tile, _total)


def _q8_0_values(width: int) -> Values:
    floats = Vector("f32", width)
    zeros, splat_rows = rows_of_zeros(floats), rows_splatter(floats)
    load_rows, store_rows = rows_loader(floats), _store_rows(width)
    load_halves = widening_loader(width, *FLOATS["F16"])
    load_bytes = widening_loader(width, ir.IntType(8), _float_of_byte)
    join_sums = _sum_joiner(width)

    @machine_code
    def q8_0_weigh(f, ps, n, kv, base, first, n_dims, n_ctx, sums, factors, spares):
        """As ``weigh``, of bytes: weights times positions' scales lie at ``spares`` first."""
        for tile in range(n_tiles(n_dims)):
            start = base + q8_0_value_tile(n_ctx) * tile
            scales = start + _HALF * n_ctx + first
            for j in range((n + width - 1) // width):
                scale = repeat(load_halves(kv, scales + width * j), ps)
                store_rows(f, spares, width * j, load_rows(f, ps, width * j) * scale)
            for part in range(LANES // width):
                at = start + _HALF * first + width // 2 * part
                total = zeros(ps)
                for j in range(n):
                    value = load_bytes(kv, at + _HALF * j)
                    total = fma(splat_rows(f, spares, j), repeat(value, ps), total)
                join_sums(f, sums, LANES * tile + width * part, factors, total)

    return Values(_STORES["Q8_0"][1], q8_0_weigh, q8_0_value_tile, _total)


@machine_code
def _total(f, x, n):
    """Return the sum of ``n`` floats: ``elementary.sum_of``, eight at a time."""
    sums = splat_f32x8(0)
    n_vectors = n // 8
    for i in range(n_vectors):
        sums = sums + load_f32x8(f, x + 8 * i)
    for i in range(8 * n_vectors, n):
        sums = sums + first_lane_f32x8(f[x + i])
    return sum_f32x8(sums)


@once
def keys_of(key_type: str, isa: str) -> Keys:
    """Return the inner loops over keys of a type, for an instruction set."""
    if isa == "generic":
        return generic.KEYS[key_type]
    width = _WIDTHS[isa]
    return _q8_0_keys(width) if key_type == "Q8_0" else _float_keys(width, key_type)


@once
def values_of(value_type: str, isa: str) -> Values:
    """Return the inner loops over values of a type, for an instruction set."""
    if isa == "generic":
        return generic.VALUES[value_type]
    width = _WIDTHS[isa]
    return _q8_0_values(width) if value_type == "Q8_0" else _float_values(width, value_type)
