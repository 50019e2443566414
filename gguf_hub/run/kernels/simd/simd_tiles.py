"""SIMD operations on weight tiles: weight rows side by side, multiplied with some tokens.

A *weight tile* holds weights of 32 rows, unpacked: two records of sixteen rows, a 32-bit lane to a
row, four weights (bytes) to a lane. A *sum tile* holds their products with a tuple of tokens: for
each token as many vectors of sums as hold 32 rows: two of sixteen lanes, four of eight or eight of
four. It is an LLVM array of vectors, which ends up in as many registers.

These work for any width of vector; ``tile_products`` has those that depend on the CPU.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from gguf_hub.gguf.memory.scratch import ROWS
from gguf_hub.run.kernels.simd.vectors import (
    Vector,
    call_llvm,
    machine_code,
    pick,
    pointer_to,
    splat,
)


class SumTile(types.Type):
    """Vectors of ``lanes`` rows for each of ``tokens``: all of token 0 first, then token 1's."""

    def __init__(self, element: str, tokens: int, lanes: int) -> None:
        self.element = element
        self.tokens = tokens
        self.lanes = lanes
        self.vector = Vector(element, lanes)
        self.per_token = ROWS // lanes
        super().__init__(name=f"tile_{element}x{tokens}x{lanes}")

    def ir(self) -> ir.ArrayType:
        """Return the LLVM type."""
        return ir.ArrayType(self.vector.ir(), self.per_token * self.tokens)


@register_model(SumTile)
class _SumTileModel(models.PrimitiveModel):
    def __init__(self, manager, tile) -> None:
        super().__init__(manager, tile, tile.ir())


def vectors_of(builder, tile):
    """Return the vectors of a tile."""
    return [builder.extract_value(tile, i) for i in range(tile.type.count)]


def sum_tile_of(builder, vectors):
    """Return the tile of some vectors."""
    tile = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    for i, vector in enumerate(vectors):
        tile = builder.insert_value(tile, vector, i)
    return tile


class Bytes:
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

    def rows(self, vector: Vector, packed, record, offset: int = 0):
        """Load 32 bits of each row of a weight tile: vectors of any element.

        Args:
            vector: Their type.
            packed: Offset of the element of the first sixteen rows.
            record: Distance from there to that of the others.
            offset: Added to both.
        """
        size_bytes = _size_bytes(vector)
        for first in range(0, 4 * ROWS, size_bytes):
            half, rest = divmod(first, 64)
            yield self.load(vector, packed, *[record] * half, offset + rest, align=size_bytes)

    def load(self, vector: Vector, *offsets, align: int = 1):
        """Load a vector at the sum of offsets."""
        pointer = self._builder.bitcast(self.at(*offsets), vector.ir().as_pointer())
        return self._builder.load(pointer, align=align)

    def splat_i32(self, vector: Vector, *offsets):
        """Load 32 bits and repeat them through a vector of any element."""
        pointer = self._builder.bitcast(self.at(*offsets), ir.IntType(32).as_pointer())
        number = self._builder.load(pointer, align=1)
        wide = splat(self._builder, number, Vector("i32", _size_bytes(vector) // 4))
        return self._builder.bitcast(wide, vector.ir())


def _size_bytes(vector: Vector) -> int:
    return vector.lanes * {"i8": 1, "i16": 2, "i32": 4, "f32": 4}[vector.element]


# -- floats ----------------------------------------------------------------------------------------


def _adder(is_scaled: bool):
    """Return a compiled function that adds rows' floats times tokens' floats to a tile."""

    def _codegen(context, builder, sig, args):
        total, integers, _, packed, record, _, starts, offset = args
        vector, per_token = sig.args[0].vector, sig.args[0].per_token
        f = context.make_array(sig.args[5])(context, builder, args[5]).data
        rows = [*Bytes(context, builder, sig.args[2], args[2]).rows(vector, packed, record)]
        parts = vectors_of(builder, total)
        for i in range(len(parts)):
            index = builder.add(builder.extract_value(starts, i // per_token), offset)
            token = splat(builder, builder.load(builder.gep(f, [index])), vector)
            factors = [rows[i % per_token], token]
            if is_scaled:
                integer = builder.extract_value(integers, i)
                factors = [builder.fmul(*factors), builder.sitofp(integer, vector.ir())]
            name = f"llvm.fma.v{vector.lanes}f32"
            parts[i] = call_llvm(builder, name, vector.ir(), [*factors, parts[i]])
        return sum_tile_of(builder, parts)

    return _codegen


@intrinsic
def add_floats(typingctx, total, integers, q, packed, record, f, starts, offset):
    """Return total + (rows' floats at ``packed`` x tokens' floats) x integers, rounded once."""
    int64 = types.int64
    arguments = (total, integers, q, int64, int64, f, starts, int64)
    return total(*arguments), _adder(is_scaled=True)


@intrinsic
def add_minima(typingctx, total, q, packed, record, f, starts, offset):
    """Return total + rows' floats at ``packed`` x tokens' floats, rounded once."""
    int64 = types.int64
    with_scale = _adder(is_scaled=False)

    def _codegen(context, builder, sig, args):
        filled = sig.replace(args=(total, total, *sig.args[1:]))
        return with_scale(context, builder, filled, [args[0], args[0], *args[1:]])

    return total(total, q, int64, int64, f, starts, int64), _codegen


@intrinsic
def add_from(typingctx, tile, f, offsets):
    """Return the floats at ``f[offset:offset+32]`` of each token plus the sum tile."""

    def _codegen(context, builder, sig, args):
        parts = vectors_of(builder, args[0])
        for i, pointer in enumerate(_outputs(context, builder, sig, args)):
            parts[i] = builder.fadd(builder.load(pointer, align=4), parts[i])
        return sum_tile_of(builder, parts)

    return tile(tile, f, offsets), _codegen


@intrinsic
def store_sums(typingctx, tile, f, offsets):
    """Store each token's 32 sums at ``f[offset:offset+32]``."""

    def _codegen(context, builder, sig, args):
        parts = vectors_of(builder, args[0])
        for part, pointer in zip(parts, _outputs(context, builder, sig, args), strict=True):
            builder.store(part, pointer, align=4)
        return context.get_dummy_value()

    return types.void(tile, f, offsets), _codegen


def _outputs(context, builder, sig, args):
    """Return pointers to the vectors of a sum tile in ``f``."""
    tile, array_type, _ = sig.args
    pointers = []
    for t in range(tile.tokens):
        for first in range(0, ROWS, tile.lanes):
            index = builder.extract_value(args[2], t)
            index = builder.add(index, ir.Constant(ir.IntType(64), first))
            address = pointer_to(context, builder, array_type, args[1], index, tile.vector.ir())
            pointers.append(address)
    return pointers


# -- tuples of offsets -----------------------------------------------------------------------------


def usual_beside(other: int):
    """Return ``(n_left)``: whether the usual number of tokens passes where so many are left.

    Otherwise ``other`` do, once or twice, if that fills all of a tile.
    """

    @machine_code
    def is_usual(n_left):
        return n_left > other and n_left != 2 * other

    return is_usual


@intrinsic
def next_slots(typingctx, ahead, first, count):
    """Return ``first`` plus each of a tuple, but no more than ``count - 1``: the last one again."""
    result = types.UniTuple(types.int64, len(ahead))

    def _codegen(context, builder, sig, args):
        last = builder.sub(args[2], ir.Constant(ir.IntType(64), 1))
        slots = []
        for t in range(len(ahead)):
            slot = builder.add(args[1], ir.Constant(ir.IntType(64), t))
            slots.append(builder.select(builder.icmp_signed("<", slot, last), slot, last))
        return context.make_tuple(builder, result, slots)

    return result(ahead, types.int64, types.int64), _codegen


@intrinsic
def pairs_at(typingctx, n, assignments, begin, slots):
    """Return ``n[assignments + begin + slot]`` of each slot; the slot where assignments is -1."""
    result = types.UniTuple(types.int64, len(slots))

    def _codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        is_listed = builder.icmp_signed(">=", args[1], ir.Constant(ir.IntType(64), 0))
        pairs = []
        for t in range(len(slots)):
            slot = builder.add(args[2], builder.extract_value(args[3], t))
            index = builder.select(is_listed, builder.add(args[1], slot), slot)
            value = builder.load(builder.gep(data, [index]))
            pairs.append(builder.select(is_listed, value, slot))
        return context.make_tuple(builder, result, pairs)

    return result(n, types.int64, types.int64, types.UniTuple(types.int64, len(slots))), _codegen


@intrinsic
def row_offsets(typingctx, pairs, pairs_per_row, start, stride):
    """Return the offset of the row of each pair of a tuple."""
    int64 = types.int64

    def _codegen(context, builder, sig, args):
        offsets = []
        for t in range(len(pairs)):
            row = builder.udiv(builder.extract_value(args[0], t), args[1])
            offsets.append(builder.add(args[2], builder.mul(row, args[3])))
        return context.make_tuple(builder, sig.return_type, offsets)

    return pairs(pairs, int64, int64, int64), _codegen


# -- weight tiles in memory ------------------------------------------------------------------------


@intrinsic
def store_packed(typingctx, q, offset, value):
    """Store vectors side by side at byte ``offset`` of a weight tile."""

    def _codegen(context, builder, sig, args):
        memory = Bytes(context, builder, sig.args[0], args[0])
        lanes = value.lanes
        for i in range(lanes // 16):
            part = args[2] if lanes == 16 else pick(builder, args[2], range(16 * i, 16 * i + 16))
            pointer = memory.at(args[1], 64 * i)
            builder.store(part, builder.bitcast(pointer, part.type.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.void(q, types.int64, value), _codegen
