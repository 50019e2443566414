"""What is computed with 512-bit vectors, beyond the words of ``simd``.

Needs AVX512-VNNI, but for what loads and what adds up: ``x256_rows`` uses that, too, and LLVM cuts
its wide vectors in two.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.kernels.simd_memory import loader
from gguf_hub.kernels.vectors import (
    Vector,
    call_llvm,
    f32x8,
    i8x32,
    i8x64,
    i16x8,
    i16x16,
    i16x32,
    i32,
    i32x8,
    i32x16,
    pick,
    splat,
)

load_i8x64 = loader(i8x64)
load_i16x16_at = loader(i16x16)
"""Sixteen int16 at a byte offset of a byte array."""
load_i16x8_at = loader(i16x8)
"""Eight int16 at a byte offset of a byte array."""
load_i32x8_at = loader(i32x8)
"""Eight int32 at a byte offset of a byte array."""


@intrinsic
def zeros_i32x16(typingctx):
    """Return sixteen zeros."""

    def codegen(context, builder, sig, args):
        return ir.Constant(i32x16.ir(), [0] * 16)

    return i32x16(), codegen


def _instruction(name: str, *sources: Vector, result: Vector):
    """Return a compiled function that is one instruction."""

    def codegen(context, builder, sig, args):
        return call_llvm(builder, name, result.ir(), args)

    if len(sources) == 2:
        return intrinsic(lambda typingctx, a, b: (result(*sources), codegen))
    return intrinsic(lambda typingctx, a, b, c: (result(*sources), codegen))


dpbusd = _instruction("llvm.x86.avx512.vpdpbusd.512", i32x16, i8x64, i8x64, result=i32x16)
"""Add four products of bytes (unsigned x signed) to each 32-bit lane."""
dpwssd = _instruction("llvm.x86.avx512.vpdpwssd.512", i32x16, i16x32, i16x32, result=i32x16)
"""Add two products of 16-bit numbers to each 32-bit lane."""
maddubs = _instruction("llvm.x86.avx512.pmaddubs.w.512", i8x64, i8x64, result=i16x32)
"""Multiply bytes (unsigned x signed) and add neighbours, saturating."""
madd_i16x8 = _instruction("llvm.x86.sse2.pmadd.wd", i16x8, i16x8, result=Vector("i32", 4))
"""Multiply eight 16-bit numbers and add neighbours."""
permute = _instruction("llvm.x86.avx512.permvar.hi.512", i16x32, i16x32, result=i16x32)
"""Return lanes of the first vector, chosen by those of the second."""


@intrinsic
def twice(typingctx, value):
    """Return an i8x32 side by side with itself."""

    def codegen(context, builder, sig, args):
        return pick(builder, args[0], list(range(32)) * 2)

    return i8x64(i8x32), codegen


@intrinsic
def right(typingctx, value, a, b, c, d):
    """Shift the bits of an i8x64 right, each quarter by its own number; mask the bytes after it."""
    int64 = types.int64

    def codegen(context, builder, sig, args):
        amounts = ir.Constant(i32x16.ir(), ir.Undefined)
        for lane in range(16):
            amount = builder.trunc(args[1 + lane // 4], ir.IntType(32))
            amounts = builder.insert_element(amounts, amount, i32(lane))
        shifted = builder.lshr(builder.bitcast(args[0], i32x16.ir()), amounts)
        return builder.bitcast(shifted, i8x64.ir())

    return i8x64(i8x64, int64, int64, int64, int64), codegen


@intrinsic
def bits_i8x64(typingctx, low, high, ones):
    """Spread twice 32 bits over 64 lanes: a lane is ``ones`` where its bit is set, else 0."""

    def codegen(context, builder, sig, args):
        int64 = ir.IntType(64)
        high = builder.shl(builder.zext(args[1], int64), ir.Constant(int64, 32))
        mask = builder.or_(builder.zext(args[0], int64), high)
        mask = builder.bitcast(mask, ir.VectorType(ir.IntType(1), 64))
        value = context.cast(builder, args[2], sig.args[2], types.int8)
        zero = ir.Constant(i8x64.ir(), [0] * 64)
        return builder.select(mask, splat(builder, value, i8x64), zero)

    return i8x64(types.uint32, types.uint32, ones), codegen


@intrinsic
def widened(typingctx, value):
    """Return the lanes of a vector and as many that are undefined, as ``permute`` wants them."""
    wide = Vector(value.element, 32)

    def codegen(context, builder, sig, args):
        undefined = ir.Constant(value.ir(), ir.Undefined)
        lanes = [*range(value.lanes), *[value.lanes] * (32 - value.lanes)]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 32), lanes)
        return builder.shuffle_vector(args[0], undefined, mask)

    return wide(value), codegen


def _lane_numbers(repeats: int):
    @intrinsic
    def numbers(typingctx, first):
        def codegen(context, builder, sig, args):
            start = splat(builder, builder.trunc(args[0], ir.IntType(16)), i16x32)
            steps = ir.Constant(i16x32.ir(), [lane // repeats for lane in range(32)])
            return builder.add(start, steps)

        return i16x32(types.int64), codegen

    return numbers


halves_from = _lane_numbers(16)
"""Sixteen times ``first``, then sixteen times the next number."""
quarters_from = _lane_numbers(8)
"""Eight times ``first``, then eight times each of the three next numbers."""


# -- adding up ------------------------------------------------------------------------------------


@intrinsic
def sum_of(typingctx, vector):
    """Return the sum of the integers of a vector."""

    def codegen(context, builder, sig, args):
        name = f"llvm.vector.reduce.add.v{vector.lanes}i32"
        return call_llvm(builder, name, ir.IntType(32), args)

    return types.int32(vector), codegen


@intrinsic
def halves_added(typingctx, value):
    """Return the first eight lanes plus the last eight."""

    def codegen(context, builder, sig, args):
        low, high = pick(builder, args[0], range(8)), pick(builder, args[0], range(8, 16))
        return builder.add(low, high)

    return i32x8(i32x16), codegen


@intrinsic
def first_half(typingctx, value):
    """Return the first eight lanes."""

    def codegen(context, builder, sig, args):
        return pick(builder, args[0], range(8))

    return i32x8(i32x16), codegen


@intrinsic
def shift_in(typingctx, vector, value):
    """Move the lanes of a vector down by one and put ``value`` into the last."""
    scalar = types.float32 if vector.is_float else types.int32

    def codegen(context, builder, sig, args):
        last = builder.insert_element(ir.Constant(vector.ir(), ir.Undefined), args[1], i32(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(1, 9)))
        return builder.shuffle_vector(args[0], last, mask)

    return vector(vector, scalar), codegen


@intrinsic
def sums_of_eight(typingctx, a, b, c, d):
    """Add up each eight lanes of four i32x16: the sums of a's halves, b's halves and so on."""

    def codegen(context, builder, sig, args):
        def added(low, high):
            """Add neighbours of two vectors, within each four lanes."""
            even = [
                source + base + lane
                for base in range(0, 16, 4)
                for source in (0, 16)
                for lane in (0, 2)
            ]
            masks = (even, [lane + 1 for lane in even])
            vectors = (
                builder.shuffle_vector(
                    low, high, ir.Constant(ir.VectorType(ir.IntType(32), 16), mask)
                )
                for mask in masks
            )
            return builder.add(*vectors)

        # four lanes at a time: a0+a1 a2+a3 b0+b1 b2+b3, then all of a, b, c, d
        ab, cd = added(args[0], args[1]), added(args[2], args[3])
        quarters = added(ab, cd)
        even = [lane + 8 * half for lane in range(4) for half in range(2)]
        return builder.add(
            pick(builder, quarters, even), pick(builder, quarters, [lane + 4 for lane in even])
        )

    return i32x8(*[i32x16] * 4), codegen


@intrinsic
def add_lanes(typingctx, total, lanes):
    """Add eight floats to ``total``, one after another, the first lane first."""

    def codegen(context, builder, sig, args):
        total = args[0]
        for lane in range(8):
            total = builder.fadd(total, builder.extract_element(args[1], i32(lane)))
        return total

    return types.float32(types.float32, f32x8), codegen
