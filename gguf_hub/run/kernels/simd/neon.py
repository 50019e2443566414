"""SIMD operations for ARM: NEON with the dot product extension, four 32-bit lanes to a register.

Source: Arm Architecture Reference Manual for A-profile, SDOT (by element, vector), FEAT_DotProd.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.vectors import Vector, call_llvm, join, parts_of, pick, splat

_I32X4 = Vector("i32", 4)


def zeros_ir() -> ir.Constant:
    """Return four zeros."""
    return ir.Constant(_I32X4.ir(), [0] * 4)


def sdot(builder, total, a, b):
    """Add four products of signed bytes to each of four lanes."""
    return call_llvm(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", _I32X4.ir(), [total, a, b])


def smull(builder, a, b):
    """Multiply four 16-bit numbers."""
    return call_llvm(builder, "llvm.aarch64.neon.smull.v4i32", _I32X4.ir(), [a, b])


@intrinsic
def zeros(typingctx):
    """Return four zeros, i32x4."""

    def _codegen(context, builder, sig, args):
        return zeros_ir()

    return _I32X4(), _codegen


@intrinsic
def dot(typingctx, a, b):
    """Return four integers that add up to the products of 16 or 32 signed bytes."""

    def _codegen(context, builder, sig, args):
        total = zeros_ir()
        parts = (parts_of(builder, arg, 16, a.lanes // 16) for arg in args)
        for pair in zip(*parts, strict=True):
            total = sdot(builder, total, *pair)
        return total

    return _I32X4(a, a), _codegen


@intrinsic
def pairs(typingctx, a, b):
    """Return four integers that add up to the products of 16-bit numbers."""

    def _codegen(context, builder, sig, args):
        total = None
        parts = (parts_of(builder, arg, 4, a.lanes // 4) for arg in args)
        for pair in zip(*parts, strict=True):
            product = builder.mul(*(builder.sext(part, _I32X4.ir()) for part in pair))
            total = builder.add(total, product) if total else product
        return total

    return _I32X4(a, a), _codegen


def _widen(builder, vector):
    """Return 16-bit numbers as 32-bit ones, which stay vectors.

    LLVM would take lanes out first and widen them one by one, if nothing hid from it how they were
    widened: a product of zeros that is added does.
    """
    count = vector.type.count // 4
    nothing = ir.Constant(Vector("i8", 16).ir(), [0] * 16)
    parts = (builder.sext(part, _I32X4.ir()) for part in parts_of(builder, vector, 4, count))
    return join(builder, [sdot(builder, part, nothing, nothing) for part in parts])


@intrinsic
def splat_lane(typingctx, vector, lane):
    """Fill four 32-bit lanes with one 16-bit lane of ``vector``.

    The lane may be a loop variable: once LLVM has unrolled the loop, it is a part of the
    instruction that multiplies.
    """

    def _codegen(context, builder, sig, args):
        wide = _widen(builder, args[0])
        return splat(builder, builder.extract_element(wide, args[1]), _I32X4)

    return _I32X4(vector, types.int64), _codegen


@intrinsic
def bits(typingctx, value, ones):
    """Spread 32 bits over 32 bytes: byte i is ``ones`` where bit i is set, else 0."""
    result = Vector("i8", 32)

    def _codegen(context, builder, sig, args):
        four = builder.bitcast(args[0], Vector("i8", 4).ir())
        each = pick(builder, four, [bit // 8 for bit in range(32)])
        masks = ir.Constant(result.ir(), [1 << bit % 8 for bit in range(32)])
        zero = ir.Constant(result.ir(), [0] * 32)
        is_set = builder.icmp_unsigned("!=", builder.and_(each, masks), zero)
        number = builder.trunc(args[1], ir.IntType(8))
        return builder.select(is_set, splat(builder, number, result), zero)

    return result(types.uint32, types.int64), _codegen


def _half(index: int):
    """Return a compiled function that takes a half of an i8x32."""

    @intrinsic
    def half(typingctx, vector):
        def _codegen(context, builder, sig, args):
            return pick(builder, args[0], range(16 * index, 16 * index + 16))

        return Vector("i8", 16)(vector), _codegen

    return half


first_half, last_half = _half(0), _half(1)
