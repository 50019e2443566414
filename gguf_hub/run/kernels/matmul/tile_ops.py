"""What multiplies weight tiles with some tokens, and what is the same for all CPUs of it.

``tile_products`` has the operations of each CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.simd_tiles import Bytes, SumTile, sum_tile_of, vectors_of
from gguf_hub.run.kernels.simd.vectors import Vector, splat


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
        scaled: ``group, groups, largest`` -> ``(total, q, packed, scales, record, starts,
            offset)``: add such products, of groups that follow each other, times the rows' scales.
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


def zeros(element: str, lanes: int):
    """Return ``(tokens)``: a tile of zeros for a tuple of tokens, in vectors of ``lanes`` rows."""

    @intrinsic
    def zeros(typingctx, tokens):
        tile = SumTile(element, len(tokens), lanes)

        def codegen(context, builder, sig, args):
            zero = ir.Constant(tile.vector.ir(), [0.0 if tile.vector.is_float else 0] * lanes)
            return ir.Constant(tile.ir(), [zero] * tile.ir().count)

        return tile(tokens), codegen

    return zeros


def splat_sums(lanes: int):
    """Return ``TileOps.splat_sums`` for vectors of ``lanes`` rows."""
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


class Factors:
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


def multiplier(add: Callable, vector: Vector, *, is_scaled: bool = False):
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
        factors = Factors(memory, vector, total, packed, record, offsets)
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
