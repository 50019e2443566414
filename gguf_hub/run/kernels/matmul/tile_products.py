"""Integer products of weight tiles with some tokens, by what instructions the CPU has.

All are exact: vectors of unsigned weights times signed activations, -127 to 127, four neighbours
added to a 32-bit lane.

* AVX-512 VNNI and AVX-VNNI do that in one instruction, ``vpdpbusd``, for sixteen or eight rows.
* AVX2 adds two neighbours to 16 bits, which saturate: as many products are added there as surely
  fit (eight of four-bit weights: 8 x 2 x 15 x 127 = 30,480), then multiplied with their scale.
* NEON's ``sdot`` does it in one instruction for four rows, of signed weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd import neon
from gguf_hub.run.kernels.simd.simd_lookup import by_pshufb, by_tbl
from gguf_hub.run.kernels.simd.simd_tiles import (
    Bytes,
    SumTile,
    sum_tile_of,
    usual_beside,
    vectors_of,
)
from gguf_hub.run.kernels.simd.vectors import (
    Vector,
    call_llvm,
    i8x32,
    i16x16,
    i32x8,
    machine_code,
    pick,
    splat,
)

_MAX_QUANT = 127
"""The largest activation, and the smallest less its sign."""


@dataclass(frozen=True)
class TileOps:
    """Operations that multiply weight tiles on a CPU; ``(...)`` are compiled functions.

    Attributes:
        tokens: How many tokens pass over a weight tile together: usually, and otherwise.
        is_usual: ``(n_left)``: whether the usual number passes where so many are left.
        has_dot: Whether bytes of any size may be multiplied: there is a ``vpdpbusd`` or ``sdot``.
        zeros_i32: ``(tokens)``: a tile for a tuple of tokens.
        zeros_f32: ``(tokens)``: a tile of floats.
        splat_sums: ``(q, starts, offset, factor)``: a tile that is ``factor`` times the int32 at
            ``start + offset`` for each token.
        scale: ``(x)``: 32-bit numbers of rows in the form that ``scaled`` takes.
        products: ``n, largest`` -> ``(total, q, packed, record, starts, offset)``: add the products
            of ``n`` unsigned weights a row, at most ``largest``, with as many activations.
        scaled: ``n, largest`` -> ``(total, q, packed, scales, record, starts, offset)``: add such
            products times the rows' scales.
        signed: As ``products``, for signed weights; None where ``vpdpbusd`` needs unsigned ones.
        signed_scaled: As ``scaled``, for signed weights; None as ``signed``.
        lookup: A function of sixteen int8, see ``simd_lookup``.
        pairs: ``n`` -> ``(total, q, packed, record, starts, offset)``: add the products of ``n``
            pairs of 16-bit factors a row with as many 16-bit sums.
    """

    tokens: tuple[int, int]
    is_usual: Callable
    has_dot: bool
    zeros_i32: Callable
    zeros_f32: Callable
    splat_sums: Callable
    scale: Callable
    products: Callable
    scaled: Callable
    signed: Callable | None
    signed_scaled: Callable | None
    lookup: Callable
    pairs: Callable


# -- tiles to begin with ---------------------------------------------------------------------------


def _zeros(element: str, lanes: int):
    @intrinsic
    def zeros(typingctx, tokens):
        tile = SumTile(element, len(tokens), lanes)

        def codegen(context, builder, sig, args):
            zero = ir.Constant(tile.vector.ir(), [0.0 if tile.vector.is_float else 0] * lanes)
            return ir.Constant(tile.ir(), [zero] * tile.ir().count)

        return tile(tokens), codegen

    return zeros


def _splat_sums(lanes: int):
    vector = Vector("i32", lanes)

    @intrinsic
    def splat_sums(typingctx, q, starts, offset, factor):
        tile = SumTile("i32", len(starts), lanes)

        def codegen(context, builder, sig, args):
            memory = Bytes(context, builder, sig.args[0], args[0])
            factor = splat(builder, builder.trunc(args[3], ir.IntType(32)), vector)
            parts = []
            for t in range(tile.tokens):
                start = builder.extract_value(args[1], t)
                value = builder.mul(memory.splat_i32(vector, start, args[2]), factor)
                parts += [value] * tile.per_token
            return sum_tile_of(builder, parts)

        return tile(q, starts, types.int64, types.int64), codegen

    return splat_sums


# -- products --------------------------------------------------------------------------------------


class _Factors:
    """Vectors of weights, and the activations of each token that they are multiplied with."""

    def __init__(self, memory: Bytes, vector: Vector, tile: SumTile, packed, record, offsets):
        self._memory, self._vector, self.per_token = memory, vector, tile.per_token
        self._packed, self._record, self._offsets = packed, record, offsets

    def each(self, k: int):
        """Yield (index in the tile, weights, activations) of 32 bits number ``k`` of a row.

        A vector of weights is loaded when all tokens' activations are in registers, and then meets
        each: sixteen registers hold twelve sums, three tokens and one such vector.
        """
        tokens = [self._memory.splat_i32(self._vector, offset, 4 * k) for offset in self._offsets]
        rows = self._memory.rows(self._vector, self._packed, self._record, 64 * k)
        for i, w in enumerate(rows):
            for t, x in enumerate(tokens):
                yield self.per_token * t + i, w, x

    def four(self, k: int):
        """Load the 32 bits number ``k`` to ``k + 3`` of each token, as vectors of sixteen bytes."""
        return [self._memory.load(self._vector, offset, 4 * k) for offset in self._offsets]

    def row(self, i: int, k: int):
        """Load 32 bits number ``k`` of rows ``4 i`` to ``4 i + 3``, a vector of sixteen bytes."""
        half, rest = divmod(16 * i, 64)
        offsets = (self._packed, *[self._record] * half, 64 * k + rest)
        return self._memory.load(self._vector, *offsets, align=16)


def _multiplier(add: Callable, vector: Vector, *, is_scaled: bool = False):
    """Return a compiled function that adds products to a tile.

    Args:
        add: ``(builder, factors, totals, scales)``: return the sums; an iterator that loads the
            scales of a token's rows, or None.
        vector: What weights and activations are loaded as.
        is_scaled: Whether there are scales.
    """
    int64 = types.int64

    def codegen(context, builder, sig, args):
        tile, q, packed, *scales, record, starts, offset = args
        total = sig.args[0]
        memory = Bytes(context, builder, sig.args[1], q)
        offsets = [
            builder.add(builder.extract_value(starts, t), offset) for t in range(total.tokens)
        ]
        factors = _Factors(memory, vector, total, packed, record, offsets)
        rows = memory.rows(total.vector, scales[0], record) if is_scaled else None
        return sum_tile_of(builder, add(builder, factors, vectors_of(builder, tile), rows))

    if is_scaled:

        @intrinsic
        def multiply(typingctx, total, q, packed, scales, record, starts, offset):
            return total(total, q, int64, int64, int64, starts, int64), codegen

    else:

        @intrinsic
        def multiply(typingctx, total, q, packed, record, starts, offset):
            return total(total, q, int64, int64, starts, int64), codegen

    return multiply


@machine_code
def _identity(x):
    return x


def _vnni(lanes: int, tokens: tuple[int, int]) -> TileOps:
    """Return the operations of a CPU with ``vpdpbusd`` for vectors of ``lanes`` rows."""
    numbers, bytes_, shorts = (
        Vector("i32", lanes),
        Vector("i8", 4 * lanes),
        Vector("i16", 2 * lanes),
    )

    def instruction(name: str, n_groups: int):
        llvm_name = f"llvm.x86.avx512.{name}.{32 * lanes}"

        def add(builder, factors, totals, scales):
            sums = totals
            if scales:
                scales = [*scales]
                sums = [ir.Constant(numbers.ir(), [0] * lanes)] * len(totals)
            for k in range(n_groups):
                for i, w, x in factors.each(k):
                    sums[i] = call_llvm(builder, llvm_name, numbers.ir(), [sums[i], w, x])
            if not scales:
                return sums
            return [
                builder.add(total, builder.mul(one, scales[i % len(scales)]))
                for i, (total, one) in enumerate(zip(totals, sums, strict=True))
            ]

        return add

    def products(n: int, largest: int):
        return _multiplier(instruction("vpdpbusd", n // 4), bytes_)

    def scaled(n: int, largest: int):
        return _multiplier(instruction("vpdpbusd", n // 4), bytes_, is_scaled=True)

    def pairs(n: int):
        return _multiplier(instruction("vpdpwssd", n), shorts)

    return TileOps(
        tokens, usual_beside(tokens[1]), True, _zeros("i32", lanes), _zeros("f32", lanes),
        _splat_sums(lanes), _identity, products, scaled, None, None, by_pshufb(32), pairs,
    )  # fmt: skip


# -- AVX2 ------------------------------------------------------------------------------------------


def _call(builder, name: str, result: Vector, *args):
    return call_llvm(builder, f"llvm.x86.avx2.{name}", result.ir(), list(args))


def _unsigned(builder, w, x):
    """Multiply unsigned weights with activations and add neighbours to 16 bits."""
    return _call(builder, "pmadd.ub.sw", i16x16, w, x)


def _signed(builder, w, x):
    """Multiply signed weights, at least -128: their signs go over to the activations."""
    magnitude = _call(builder, "psign.b", i8x32, w, w)
    return _unsigned(builder, magnitude, _call(builder, "psign.b", i8x32, x, w))


def _by_16_bits(multiply: Callable, n_groups: int, largest: int):
    """Return the adding of products that are first added to 16 bits, as many as surely fit."""
    fit = 32767 // (2 * _MAX_QUANT * largest)
    assert fit >= 1

    def add(builder, factors, totals, scales):
        ones = ir.Constant(i16x16.ir(), [1] * 16)
        scales = [*scales] if scales else None
        for first in range(0, n_groups, fit):
            sums: dict[int, ir.Value] = {}
            for k in range(first, min(first + fit, n_groups)):
                for i, w, x in factors.each(k):
                    product = multiply(builder, w, x)
                    sums[i] = builder.add(sums[i], product) if i in sums else product
            for i, one in sums.items():
                scale = builder.bitcast(scales[i % 4], i16x16.ir()) if scales else ones
                wide = _call(builder, "pmadd.wd", i32x8, one, scale)
                totals[i] = builder.add(totals[i], wide)
        return totals

    return add


def _pairs_avx2(n: int):
    def add(builder, factors, totals, scales):
        for k in range(n):
            for i, w, x in factors.each(k):
                totals[i] = builder.add(totals[i], _call(builder, "pmadd.wd", i32x8, w, x))
        return totals

    return _multiplier(add, i16x16)


def _avx2() -> TileOps:
    def products(n: int, largest: int):
        return _multiplier(_by_16_bits(_unsigned, n // 4, largest), i8x32)

    def scaled(n: int, largest: int):
        return _multiplier(_by_16_bits(_unsigned, n // 4, largest), i8x32, is_scaled=True)

    def signed(n: int, largest: int):
        return _multiplier(_by_16_bits(_signed, n // 4, largest), i8x32)

    def signed_scaled(n: int, largest: int):
        return _multiplier(_by_16_bits(_signed, n // 4, largest), i8x32, is_scaled=True)

    @machine_code
    def is_usual(n_left):
        return n_left % 2 == 0  # a third token is one too many for the registers

    @machine_code
    def scale(x):
        return (x & 0xFFFF) | (x << 16)

    return TileOps(
        (2, 3), is_usual, False, _zeros("i32", 8), _zeros("f32", 8), _splat_sums(8),
        scale, products, scaled, signed, signed_scaled, by_pshufb(32), _pairs_avx2,
    )  # fmt: skip


# -- NEON ------------------------------------------------------------------------------------------


def _sdot(n_groups: int):
    """Return the adding of products of bytes, four rows after four, each with all tokens.

    Four activations are a lane of the sixteen that were loaded, chosen by the instruction. Products
    that are to be scaled take one register a token this way, and no second tile.

    Args:
        n_groups: How often four weights of a row are multiplied.
    """

    def add(builder, factors, totals, scales):
        tokens = [factors.four(k) for k in range(0, n_groups, 4)]
        for i, scale in enumerate(scales or [None] * factors.per_token):
            indices = range(i, len(totals), factors.per_token)
            sums = [neon.zeros_ir() if scale else totals[index] for index in indices]
            for k in range(n_groups):
                w = factors.row(i, k)
                for t, x in enumerate(tokens[k // 4]):
                    sums[t] = neon.sdot(builder, sums[t], w, _repeat_lane(builder, x, k % 4))
            for index, one in zip(indices, sums, strict=True):
                scaled = builder.add(totals[index], builder.mul(one, scale)) if scale else one
                totals[index] = scaled
        return totals

    return add


def _repeat_lane(builder, vector, lane: int):
    """Return 32 bits of sixteen bytes, four times."""
    quads = builder.bitcast(vector, Vector("i32", 4).ir())
    return builder.bitcast(pick(builder, quads, [lane] * 4), vector.type)


def _pairs_neon(n: int):
    """Multiply even and odd 16-bit factors of four rows, each with a lane of a token's."""
    short = ir.VectorType(ir.IntType(16), 4)

    def halves(builder, row, number):
        """Return even and odd lanes.

        As parts of 32-bit numbers: from lanes LLVM makes loads that take them apart (``ld2``), does
        all of those first, and spills what they load.
        """
        both = builder.bitcast(row, number)
        odd = builder.lshr(both, ir.Constant(number, [16] * 4))
        return builder.trunc(both, short), builder.trunc(odd, short)

    def add(builder, factors, totals, scales):
        for k in range(n):
            tokens = factors.four(k // 4 * 4)
            for i in range(factors.per_token):
                pair = halves(builder, factors.row(i, k), totals[0].type)
                for t, x in enumerate(tokens):
                    index = factors.per_token * t + i
                    for which, one in enumerate(pair):
                        lane = pick(builder, x, [2 * (k % 4) + which] * 4)
                        product = neon.smull(builder, one, lane)
                        totals[index] = builder.add(totals[index], product)
        return totals

    return _multiplier(add, Vector("i16", 8))


def _dotprod() -> TileOps:
    bytes_ = Vector("i8", 16)

    def signed(n: int, largest: int):
        return _multiplier(_sdot(n // 4), bytes_)

    def scaled(n: int, largest: int):
        return _multiplier(_sdot(n // 4), bytes_, is_scaled=True)

    @machine_code
    def is_usual(n_left):
        return n_left > 1  # two tokens' sums, as integers and as floats, are 32 registers

    return TileOps(
        (2, 1), is_usual, True, _zeros("i32", 4), _zeros("f32", 4), _splat_sums(4),
        _identity, signed, scaled, signed, scaled, by_tbl(), _pairs_neon,
    )  # fmt: skip


def ops_of(isa: str) -> TileOps:
    """Return the operations of an instruction set of ``cpu.ISAS``."""
    if isa == "avx512vnni":
        return _vnni(16, (6, 4))
    if isa == "dotprod":
        return _dotprod()
    return _vnni(8, (3, 2)) if isa == "avxvnni" else _avx2()
