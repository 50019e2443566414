"""SIMD words of panels: sixteen weight rows side by side, multiplied with a tile of tokens.

A *panel* holds weights of 32 rows, unpacked: two vectors of sixteen rows, a 32-bit lane to a row,
four weights (bytes) to a lane. A *tile* is what the rows make with a tuple of tokens: for each
token two vectors of sixteen sums, one for each vector of rows. It is an LLVM array of vectors,
which ends up in as many registers.

Needs AVX512-VNNI.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from gguf_hub.kernels.scratch import ROWS
from gguf_hub.kernels.vectors import (
    Vector,
    call_llvm,
    f32x16,
    i8x64,
    i16x32,
    i32,
    i32x16,
    pick,
    pointer_to,
    splat,
)

HALVES = ROWS // 16
"""Vectors of sixteen rows in a panel."""


class Tile(types.Type):
    """``HALVES`` vectors of sixteen lanes for each of ``tokens``; token t's are 2 t and 2 t + 1."""

    def __init__(self, element: str, tokens: int) -> None:
        self.element = element
        self.vector = Vector(element, 16)
        self.tokens = tokens
        super().__init__(name=f"tile_{element}x{tokens}")

    def ir(self) -> ir.ArrayType:
        """Return the LLVM type."""
        return ir.ArrayType(self.vector.ir(), HALVES * self.tokens)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, tile) -> None:
        super().__init__(manager, tile, tile.ir())


def _parts(builder, tile):
    return [builder.extract_value(tile, i) for i in range(tile.type.count)]


def _tile_of(builder, parts):
    tile = ir.Constant(ir.ArrayType(parts[0].type, len(parts)), ir.Undefined)
    for i, part in enumerate(parts):
        tile = builder.insert_value(tile, part, i)
    return tile


class _Bytes:
    """Addresses in a byte array, and what is loaded from them."""

    def __init__(self, context, builder, array_type, array) -> None:
        self._builder = builder
        data = context.make_array(array_type)(context, builder, array).data
        self._data = builder.bitcast(data, ir.IntType(8).as_pointer())

    def at(self, *offsets):
        """Return the address at the sum of int64 offsets, Python's or LLVM's."""
        address = self._data
        for offset in offsets:
            if isinstance(offset, int):
                offset = ir.Constant(ir.IntType(64), offset)
            address = self._builder.gep(address, [offset])
        return address

    def vector(self, vector: Vector, *offsets):
        """Load a vector from a panel, whose vectors are aligned."""
        pointer = self._builder.bitcast(self.at(*offsets), vector.ir().as_pointer())
        return self._builder.load(pointer, align=64)

    def splat_i32(self, vector: Vector, *offsets):
        """Load 32 bits and repeat them through a vector of any element."""
        pointer = self._builder.bitcast(self.at(*offsets), ir.IntType(32).as_pointer())
        wide = splat(self._builder, self._builder.load(pointer, align=1), i32x16)
        return self._builder.bitcast(wide, vector.ir())


def _zeros(element: str):
    @intrinsic
    def zeros(typingctx, tokens):
        tile = Tile(element, len(tokens))

        def codegen(context, builder, sig, args):
            lanes = [0.0 if tile.vector.is_float else 0] * 16
            return ir.Constant(tile.ir(), [ir.Constant(tile.vector.ir(), lanes)] * tile.ir().count)

        return tile(tokens), codegen

    return zeros


zeros_i32, zeros_f32 = _zeros("i32"), _zeros("f32")
"""A tile of zeros for a tuple of tokens."""


@intrinsic
def splat_sums(typingctx, q, starts, offset, factor):
    """Return a tile that is, for each token, ``factor`` times the int32 at ``start + offset``."""
    tile = Tile("i32", len(starts))

    def codegen(context, builder, sig, args):
        memory = _Bytes(context, builder, sig.args[0], args[0])
        factor = splat(builder, builder.trunc(args[3], ir.IntType(32)), i32x16)
        parts = []
        for t in range(tile.tokens):
            start = builder.extract_value(args[1], t)
            value = builder.mul(memory.splat_i32(i32x16, start, args[2]), factor)
            parts += [value] * HALVES
        return _tile_of(builder, parts)

    return tile(q, starts, types.int64, types.int64), codegen


def _multiplier(instruction: str, weights: Vector, steps: int):
    """Return a compiled function that adds ``steps`` vectors of products to a tile.

    Args:
        instruction: Multiplies a vector of weights with one of activations and adds neighbours to
            32-bit lanes.
        weights: The vector it wants.
        steps: How many vectors of weights follow one another; each meets 32 bits of activations.
    """

    @intrinsic
    def multiply(typingctx, total, q, panel, half_bytes, starts, offset):
        """Add the products of panel vectors at ``panel`` with bytes at each ``start + offset``."""

        def codegen(context, builder, sig, args):
            tile, _, panel, half_bytes, starts, offset = args
            memory = _Bytes(context, builder, sig.args[1], args[1])
            parts = _parts(builder, tile)
            rows = [panel, builder.add(panel, half_bytes)]
            places = [
                builder.add(builder.extract_value(starts, t), offset) for t in range(total.tokens)
            ]
            for k in range(steps):
                w = [memory.vector(weights, row, 64 * k) for row in rows]
                for t, place in enumerate(places):
                    x = memory.splat_i32(weights, place, 4 * k)
                    for half in range(HALVES):
                        i = HALVES * t + half
                        call = [parts[i], w[half], x]
                        parts[i] = call_llvm(builder, instruction, i32x16.ir(), call)
            return _tile_of(builder, parts)

        int64 = types.int64
        return total(total, q, int64, int64, starts, int64), codegen

    return multiply


_BYTES, _PAIRS = "llvm.x86.avx512.vpdpbusd.512", "llvm.x86.avx512.vpdpwssd.512"
multiply_32 = _multiplier(_BYTES, i8x64, 8)
"""32 weights a row, unsigned bytes, with as many activations."""
multiply_16 = _multiplier(_BYTES, i8x64, 4)
"""16 weights a row, unsigned bytes, with as many activations."""
multiply_4_pairs = _multiplier(_PAIRS, i16x32, 4)
"""Four pairs of 16-bit factors a row with four pairs of 16-bit sums."""
multiply_8_pairs = _multiplier(_PAIRS, i16x32, 8)
"""Eight pairs of 16-bit factors a row with eight pairs of 16-bit sums."""


@intrinsic
def add_scaled(typingctx, total, products, q, panel, half_bytes):
    """Return ``total`` plus ``products`` times the integer scales of the rows at ``panel``."""

    def codegen(context, builder, sig, args):
        memory = _Bytes(context, builder, sig.args[2], args[2])
        scales = [memory.vector(i32x16, args[3])]
        scales.append(memory.vector(i32x16, args[3], args[4]))
        parts = [
            builder.add(a, builder.mul(b, scales[i % HALVES]))
            for i, (a, b) in enumerate(
                zip(_parts(builder, args[0]), _parts(builder, args[1]), strict=True)
            )
        ]
        return _tile_of(builder, parts)

    return total(total, total, q, types.int64, types.int64), codegen


def _adder(is_scaled: bool):
    """Return a compiled function that adds rows' floats times tokens' floats to a tile."""

    def codegen(context, builder, sig, args):
        total, integers, _, panel, half_bytes, _, starts, offset = args
        memory = _Bytes(context, builder, sig.args[2], args[2])
        f = context.make_array(sig.args[5])(context, builder, args[5]).data
        rows = [memory.vector(f32x16, panel), memory.vector(f32x16, panel, half_bytes)]
        parts = _parts(builder, total)
        for i in range(len(parts)):
            place = builder.add(builder.extract_value(starts, i // HALVES), offset)
            token = splat(builder, builder.load(builder.gep(f, [place])), f32x16)
            factors = [rows[i % HALVES], token]
            if is_scaled:
                integer = builder.extract_value(integers, i)
                factors = [builder.fmul(*factors), builder.sitofp(integer, f32x16.ir())]
            parts[i] = call_llvm(builder, "llvm.fma.v16f32", f32x16.ir(), [*factors, parts[i]])
        return _tile_of(builder, parts)

    return codegen


@intrinsic
def add_floats(typingctx, total, integers, q, panel, half_bytes, f, starts, offset):
    """Return total + (rows' floats at ``panel`` x tokens' floats) x integers, rounded once."""
    int64 = types.int64
    arguments = (total, integers, q, int64, int64, f, starts, int64)
    return total(*arguments), _adder(is_scaled=True)


@intrinsic
def add_minima(typingctx, total, q, panel, half_bytes, f, starts, offset):
    """Return total + rows' floats at ``panel`` x tokens' floats, rounded once."""
    int64 = types.int64
    with_scale = _adder(is_scaled=False)

    def codegen(context, builder, sig, args):
        filled = sig.replace(args=(total, total, *sig.args[1:]))
        return with_scale(context, builder, filled, [args[0], args[0], *args[1:]])

    return total(total, q, int64, int64, f, starts, int64), codegen


@intrinsic
def add_from(typingctx, tile, f, places):
    """Return the floats at ``f[place:place+32]`` of each token plus the tile."""

    def codegen(context, builder, sig, args):
        parts = _parts(builder, args[0])
        for i, pointer in enumerate(_outputs(context, builder, sig, args)):
            parts[i] = builder.fadd(builder.load(pointer, align=4), parts[i])
        return _tile_of(builder, parts)

    return tile(tile, f, places), codegen


@intrinsic
def store_tile(typingctx, tile, f, places):
    """Store each token's 32 sums at ``f[place:place+32]``."""

    def codegen(context, builder, sig, args):
        parts = _parts(builder, args[0])
        for part, pointer in zip(parts, _outputs(context, builder, sig, args), strict=True):
            builder.store(part, pointer, align=4)
        return context.get_dummy_value()

    return types.void(tile, f, places), codegen


def _outputs(context, builder, sig, args):
    """Return pointers to where the vectors of a tile lie in ``f``."""
    pointers = []
    for t in range(sig.args[0].tokens):
        for half in range(HALVES):
            place = builder.extract_value(args[2], t)
            place = builder.add(place, ir.Constant(ir.IntType(64), 16 * half))
            array_type, array = sig.args[1], args[1]
            pointers.append(pointer_to(context, builder, array_type, array, place, f32x16.ir()))
    return pointers


# -- tuples of places ------------------------------------------------------------------------------


@intrinsic
def next_slots(typingctx, ahead, first, count):
    """Return ``first`` plus each of a tuple, but no more than ``count - 1``: the last one again."""
    result = types.UniTuple(types.int64, len(ahead))

    def codegen(context, builder, sig, args):
        last = builder.sub(args[2], ir.Constant(ir.IntType(64), 1))
        slots = []
        for t in range(len(ahead)):
            slot = builder.add(args[1], ir.Constant(ir.IntType(64), t))
            slots.append(builder.select(builder.icmp_signed("<", slot, last), slot, last))
        return context.make_tuple(builder, result, slots)

    return result(ahead, types.int64, types.int64), codegen


@intrinsic
def pairs_at(typingctx, n, order, begin, slots):
    """Return ``n[order + begin + slot]`` for each slot of a tuple; itself where order is -1."""
    result = types.UniTuple(types.int64, len(slots))

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        is_listed = builder.icmp_signed(">=", args[1], ir.Constant(ir.IntType(64), 0))
        pairs = []
        for t in range(len(slots)):
            slot = builder.add(args[2], builder.extract_value(args[3], t))
            place = builder.select(is_listed, builder.add(args[1], slot), slot)
            value = builder.load(builder.gep(data, [place]))
            pairs.append(builder.select(is_listed, value, slot))
        return context.make_tuple(builder, result, pairs)

    return result(n, types.int64, types.int64, types.UniTuple(types.int64, len(slots))), codegen


@intrinsic
def places_of(typingctx, pairs, pairs_per_row, start, stride):
    """Return where the row of each pair of a tuple begins."""
    int64 = types.int64

    def codegen(context, builder, sig, args):
        places = []
        for t in range(len(pairs)):
            row = builder.udiv(builder.extract_value(args[0], t), args[1])
            places.append(builder.add(args[2], builder.mul(row, args[3])))
        return context.make_tuple(builder, sig.return_type, places)

    return pairs(pairs, int64, int64, int64), codegen


# -- panels in memory ------------------------------------------------------------------------------


@intrinsic
def store_panel(typingctx, q, offset, value):
    """Store vectors side by side at byte ``offset`` of a panel."""

    def codegen(context, builder, sig, args):
        memory = _Bytes(context, builder, sig.args[0], args[0])
        lanes = value.lanes
        for i in range(lanes // 16):
            part = args[2] if lanes == 16 else pick(builder, args[2], range(16 * i, 16 * i + 16))
            pointer = memory.at(args[1], 64 * i)
            builder.store(part, builder.bitcast(pointer, part.type.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(q, types.int64, value), codegen


@intrinsic
def prefetch(typingctx, w, offset):
    """Ask for the cache line at byte ``offset``, into the second cache; never fails."""

    def codegen(context, builder, sig, args):
        memory = _Bytes(context, builder, sig.args[0], args[0])
        pointer = memory.at(args[1])
        i32_type = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, i32_type, i32_type, i32_type])
        name = "llvm.prefetch.p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        builder.call(function, [pointer, i32(0), i32(2), i32(1)])
        return context.get_dummy_value()

    return types.void(w, types.int64), codegen
