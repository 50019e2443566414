"""SIMD operations that unpack sixteen weight rows at once: a 32-bit lane of a vector to a row.

Needs AVX512.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.vectors import (
    Vector,
    f32x16,
    i32,
    i32x16,
    join,
    pick,
    pointer_to,
    shuffle,
    splat,
)


def _columns(context, builder, sig, args):
    """Load sixteen bytes of each of sixteen rows; return vector i with the rows' 32 bits i.

    Rows r, r + 4, r + 8 and r + 12 fill one register; what is then a transposition of four times
    four 32-bit elements in each quarter of the registers leaves the rows in order.
    """
    quarter = ir.VectorType(ir.IntType(32), 4)
    rows = []
    for r in range(16):
        index = builder.add(args[1], builder.mul(args[2], ir.Constant(ir.IntType(64), r)))
        pointer = pointer_to(context, builder, sig.args[0], args[0], index, quarter)
        rows.append(builder.load(pointer, align=1))
    a, b, c, d = (join(builder, [rows[r + 4 * lane] for lane in range(4)]) for r in range(4))
    ab = [_unpack(builder, a, b, first, 1) for first in (0, 2)]
    cd = [_unpack(builder, c, d, first, 1) for first in (0, 2)]
    return [
        _unpack(builder, ab[i // 2], cd[i // 2], first, 2) for i, first in enumerate((0, 2, 0, 2))
    ]


def _unpack(builder, low, high, first: int, width: int):
    """Take ``2 / width`` runs of ``width`` elements from ``first`` on, in turn, lane by lane."""
    lanes = []
    for base in range(0, 16, 4):
        for element in range(first, first + 2, width):
            for source in (0, 16):
                lanes += range(source + base + element, source + base + element + width)
    return shuffle(builder, low, high, lanes)


@intrinsic
def load_columns(typingctx, w, offset, row_bytes):
    """Return four i32x16: 32 bits 0, 1, 2, 3 of sixteen rows ``row_bytes`` apart."""
    result = types.UniTuple(i32x16, 4)

    def _codegen(context, builder, sig, args):
        return context.make_tuple(builder, result, _columns(context, builder, sig, args))

    return result(w, types.int64, types.int64), _codegen


@intrinsic
def load_columns_i32x64(typingctx, w, offset, row_bytes):
    """Return the four vectors of ``load_columns`` side by side, as in a weight tile."""
    result = Vector("i32", 64)

    def _codegen(context, builder, sig, args):
        return join(builder, _columns(context, builder, sig, args))

    return result(w, types.int64, types.int64), _codegen


@intrinsic
def load_halves(typingctx, w, offset, row_bytes):
    """Return the half at ``offset`` of sixteen rows ``row_bytes`` apart, as f32x16."""

    def _codegen(context, builder, sig, args):
        halves = ir.Constant(ir.VectorType(ir.HalfType(), 16), ir.Undefined)
        for r in range(16):
            index = builder.add(args[1], builder.mul(args[2], ir.Constant(ir.IntType(64), r)))
            pointer = pointer_to(context, builder, sig.args[0], args[0], index, ir.HalfType())
            halves = builder.insert_element(halves, builder.load(pointer, align=1), i32(r))
        return builder.fpext(halves, f32x16.ir())

    return f32x16(w, types.int64, types.int64), _codegen


@intrinsic
def load_words(typingctx, w, offset, row_bytes):
    """Return the 32 bits at ``offset`` of sixteen rows ``row_bytes`` apart, as i32x16."""

    def _codegen(context, builder, sig, args):
        words = ir.Constant(i32x16.ir(), ir.Undefined)
        for r in range(16):
            index = builder.add(args[1], builder.mul(args[2], ir.Constant(ir.IntType(64), r)))
            pointer = pointer_to(context, builder, sig.args[0], args[0], index, ir.IntType(32))
            words = builder.insert_element(words, builder.load(pointer, align=1), i32(r))
        return words

    return i32x16(w, types.int64, types.int64), _codegen


@intrinsic
def repeat_four(typingctx, value):
    """Return an i32x16 four times side by side."""

    def _codegen(context, builder, sig, args):
        return pick(builder, args[0], list(range(16)) * 4)

    return Vector("i32", 64)(i32x16), _codegen


@intrinsic
def spread_bits(typingctx, value, first):
    """Return an i32x64 of bytes that are 16 or 0, by the sixteen bits from ``first`` on.

    Vector k of the four gets four of them: four bits, times 1 + 2**7 + 2**14 + 2**21, come to stand
    eight apart.
    """

    def _codegen(context, builder, sig, args):
        def constant(n):
            return splat(builder, i32(n), i32x16)

        parts = []
        for k in range(4):
            bits = builder.add(builder.trunc(args[1], ir.IntType(32)), i32(4 * k))
            four = builder.lshr(args[0], splat(builder, bits, i32x16))
            four = builder.and_(four, constant(15))
            apart = builder.mul(four, constant(0x00204081 << 4))
            parts.append(builder.and_(apart, constant(0x10101010)))
        return join(builder, parts)

    return Vector("i32", 64)(i32x16, types.int64), _codegen


@intrinsic
def splat_i32x16(typingctx, value):
    """Fill sixteen lanes with one number."""

    def _codegen(context, builder, sig, args):
        return splat(builder, builder.trunc(args[0], ir.IntType(32)), i32x16)

    return i32x16(types.int64), _codegen


@intrinsic
def signed_byte(typingctx, value, k):
    """Return byte ``k`` of each lane, a signed one."""

    def _codegen(context, builder, sig, args):
        k = builder.trunc(args[1], ir.IntType(32))
        bits = builder.sub(i32(24), builder.shl(k, i32(3)))
        shifted = builder.shl(args[0], splat(builder, bits, i32x16))
        return builder.ashr(shifted, splat(builder, i32(24), i32x16))

    return i32x16(i32x16, types.int64), _codegen


@intrinsic
def low_halves(typingctx, value):
    """Return the low 16 bits of each lane, a half, as f32x16."""

    def _codegen(context, builder, sig, args):
        bits = builder.trunc(args[0], ir.VectorType(ir.IntType(16), 16))
        halves = builder.bitcast(bits, ir.VectorType(ir.HalfType(), 16))
        return builder.fpext(halves, f32x16.ir())

    return f32x16(i32x16), _codegen


@intrinsic
def negate(typingctx, value):
    """Return floats with their signs turned."""

    def _codegen(context, builder, sig, args):
        return builder.fneg(args[0])

    return value(value), _codegen
