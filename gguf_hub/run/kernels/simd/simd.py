"""Operations on vectors: making, converting, multiplying and adding them up.

With ``simd_memory`` and ``simd_rows`` kernels read like intrinsics C and compile to the same.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.vectors import (
    Vector,
    call_llvm,
    f32x8,
    fold,
    i8x16,
    i8x32,
    i16x8,
    i16x16,
    i32,
    i32x8,
    instruction,
    machine_code,
    pick,
    shuffle,
    splat,
)

# -- making and taking apart -------------------------------------------------------------------


def _filler(vector: Vector, numba_type):
    @intrinsic
    def fill(typingctx, value):
        """Return the number, cast to ``numba_type``, in every lane."""

        def _codegen(context, builder, sig, args):
            scalar = context.cast(builder, args[0], sig.args[0], numba_type)
            return splat(builder, scalar, vector)

        return vector(value), _codegen

    return fill


splat_f32x8 = _filler(f32x8, types.float32)
splat_f32x16 = _filler(Vector("f32", 16), types.float32)
splat_i16x16 = _filler(i16x16, types.int16)
splat_i32x8 = _filler(i32x8, types.int32)


@intrinsic
def first_lane_f32x8(typingctx, value):
    """Return eight floats: ``value``, then zeros."""

    def _codegen(context, builder, sig, args):
        return builder.insert_element(ir.Constant(f32x8.ir(), [0.0] * 8), args[0], i32(0))

    return f32x8(types.float32), _codegen


def _bitcast(target: Vector):
    @intrinsic
    def cast(typingctx, value):
        """Return the same bits as lanes of ``target``."""

        def _codegen(context, builder, sig, args):
            return builder.bitcast(args[0], target.ir())

        return target(value), _codegen

    return cast


i8x8_of = _bitcast(Vector("i8", 8))  # from a uint64
f32x8_of = _bitcast(f32x8)  # from the bits, an i32x8


@intrinsic
def concat(typingctx, low, high):
    """Join two vectors into one of twice the lanes."""
    joined = Vector(low.element, 2 * low.lanes)

    def _codegen(context, builder, sig, args):
        return shuffle(builder, *args, range(joined.lanes))

    return joined(low, high), _codegen


@machine_code
def i8x32_of(a, b, c, d):
    """Return four 64-bit numbers as an i8x32."""
    return concat(concat(i8x8_of(a), i8x8_of(b)), concat(i8x8_of(c), i8x8_of(d)))


def _widener(source: Vector, target: Vector, signed: bool):
    @intrinsic
    def widen(typingctx, value):
        """Return the lanes sign-extended or zero-extended to those of ``target``."""

        def _codegen(context, builder, sig, args):
            extend = builder.sext if signed else builder.zext
            return extend(args[0], target.ir())

        return target(source), _codegen

    return widen


i16x8_from_u8 = _widener(Vector("i8", 8), i16x8, signed=False)
i16x8_from_i8 = _widener(Vector("i8", 8), i16x8, signed=True)
i16x16_from_i8 = _widener(i8x16, i16x16, signed=True)


@intrinsic
def floats(typingctx, integers):
    """Convert 32-bit integers to float32."""
    result = Vector("f32", integers.lanes)

    def _codegen(context, builder, sig, args):
        return builder.sitofp(args[0], result.ir())

    return result(integers), _codegen


@intrinsic
def bits_i8x32(typingctx, bits, ones):
    """Spread 32 bits over 32 lanes: lane i is ``ones`` where bit i is set, else 0."""

    def _codegen(context, builder, sig, args):
        mask = builder.bitcast(args[0], ir.VectorType(ir.IntType(1), 32))
        value = context.cast(builder, args[1], sig.args[1], types.int8)
        zero = ir.Constant(i8x32.ir(), [0] * 32)
        return builder.select(mask, splat(builder, value, i8x32), zero)

    return i8x32(types.uint32, ones), _codegen


def _bits_of_two(half: int):
    """Return ``(first, second, ones)``: such lanes of a half of each of two numbers' bits."""

    @intrinsic
    def bits(typingctx, first, second, ones):
        """Return an i8x32: sixteen lanes by bits of ``first``, then by those of ``second``."""

        def _codegen(context, builder, sig, args):
            a, b = (
                builder.bitcast(splat(builder, number, Vector("i32", 4)), i8x16.ir())
                for number in args[:2]
            )
            lanes = [16 * (lane // 16) + 2 * half + lane % 16 // 8 for lane in range(32)]
            bit = ir.Constant(i8x32.ir(), [1 << (lane % 8) for lane in range(32)])
            is_set = builder.icmp_unsigned(
                "==", builder.and_(shuffle(builder, a, b, lanes), bit), bit
            )
            value = context.cast(builder, args[2], sig.args[2], types.int8)
            zero = ir.Constant(i8x32.ir(), [0] * 32)
            return builder.select(is_set, splat(builder, value, i8x32), zero)

        return i8x32(types.uint32, types.uint32, ones), _codegen

    return bits


low_bits_of_two, high_bits_of_two = _bits_of_two(0), _bits_of_two(1)
"""Spread 16 bits, the low or the high ones, of two numbers over 32 lanes, as ``bits_i8x32``."""


# -- arithmetic --------------------------------------------------------------------------------


@intrinsic
def fma(typingctx, a, b, c):
    """Return ``a * b + c``, rounded once; float32 scalars or vectors."""

    def _codegen(context, builder, sig, args):
        suffix = f"v{c.lanes}f32" if isinstance(c, Vector) else "f32"
        return call_llvm(builder, f"llvm.fma.{suffix}", args[2].type, args)

    return c(c, c, c), _codegen


maddubs = instruction("llvm.x86.avx2.pmadd.ub.sw", i8x32, i8x32, result=i16x16)
"""Multiply bytes (unsigned x signed) and add neighbours, saturating: i8 x 32 -> i16 x 16."""


@intrinsic
def madd(typingctx, a, b):
    """Multiply 16-bit lanes and add neighbours: i16 x 16 -> i32 x 8, i16 x 8 -> i32 x 4."""
    name = {8: "llvm.x86.sse2.pmadd.wd", 16: "llvm.x86.avx2.pmadd.wd"}[a.lanes]
    result = Vector("i32", a.lanes // 2)

    def _codegen(context, builder, sig, args):
        return call_llvm(builder, name, result.ir(), args)

    return result(a, a), _codegen


sign = instruction("llvm.x86.avx2.psign.b", i8x32, i8x32, result=i8x32)
"""The first with the sign of the second applied, byte by byte (0 where that is 0)."""


# -- scales of sub-blocks ------------------------------------------------------------------------


@intrinsic
def twice_in_halves(typingctx, scales):
    """Return each eight of a vector of 16-bit scales twice: once for each half of a register.

    One shuffle within halves then fills a register with one of them, or with two neighbours.
    LLVM does not look through: of widened bytes it would take lanes first, and widen each time.
    """
    wide = Vector("i16", 2 * scales.lanes)
    signature = ir.FunctionType(i16x16.ir(), [i16x16.ir()])

    def _codegen(context, builder, sig, args):
        parts = []
        for first in range(0, scales.lanes, 8):
            eight = pick(builder, args[0], [*range(first, first + 8)] * 2)
            parts.append(builder.asm(signature, "", "=x,0", [eight], False))
        return parts[0] if len(parts) == 1 else shuffle(builder, *parts, range(32))

    return wide(scales), _codegen


def _halves_filled(builder, scales, first, second):
    """Fill half of sixteen lanes with one lane of ``scales``, the other half with another."""
    low, high = (
        splat(builder, builder.extract_element(scales, lane), i16x16) for lane in (first, second)
    )
    return shuffle(builder, low, high, [*range(8), *range(16, 24)])


@intrinsic
def splat_lane(typingctx, vector, lane):
    """Fill sixteen 16-bit lanes with one of eight scales.

    The lane may be a loop variable: once LLVM has unrolled the loop it is one shuffle, if scales
    are ``twice_in_halves`` or unsigned bytes that were widened.
    """

    def _codegen(context, builder, sig, args):
        second = builder.add(args[1], ir.Constant(ir.IntType(64), vector.lanes - 8))
        return _halves_filled(builder, *args, second)

    return i16x16(vector, types.int64), _codegen


@intrinsic
def splat_lane_pair(typingctx, vector, pair):
    """Return eight times scale ``2 * pair`` of sixteen, then eight times the next.

    They are ``twice_in_halves``.
    """

    def _codegen(context, builder, sig, args):
        nine, eight, two, four = (ir.Constant(ir.IntType(64), n) for n in (9, 8, 2, 4))
        # sixteen lanes hold four pairs, twice
        behind = builder.mul(builder.udiv(args[1], four), eight)
        first = builder.add(builder.mul(args[1], two), behind)
        second = builder.add(first, nine)
        return _halves_filled(builder, args[0], first, second)

    return i16x16(vector, types.int64), _codegen


# -- for quantising activations ------------------------------------------------------------------


max_i32x8 = instruction("llvm.smax.v8i32", i32x8, i32x8, result=i32x8)
"""The larger of each lane."""
round_i32x8 = instruction("llvm.lrint.v8i32.v8f32", f32x8, result=i32x8)
"""Eight floats as integers, halves to even."""


@intrinsic
def sum_f32x8(typingctx, value):
    """Return the sum of eight floats, upper halves added to lower ones."""

    def _codegen(context, builder, sig, args):
        return builder.extract_element(fold(builder, args[0], 1), i32(0))

    return types.float32(f32x8), _codegen


@intrinsic
def top_i32x8(typingctx, value):
    """Return the largest lane."""

    def _codegen(context, builder, sig, args):
        return call_llvm(builder, "llvm.vector.reduce.smax.v8i32", ir.IntType(32), args)

    return types.int32(i32x8), _codegen
