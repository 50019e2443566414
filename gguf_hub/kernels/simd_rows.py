"""Several tokens side by side in one wide vector, which LLVM keeps in as many registers.

A tuple of starts says how many tokens there are and where each one's row begins.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.kernels.vectors import (
    Vector,
    f32x8,
    i32,
    join,
    parts_of,
    pick,
    pointer_to,
    splat,
)


@intrinsic
def repeat(typingctx, vector, tokens):
    """Put a vector side by side with itself, once for each of a tuple's elements."""
    wide = Vector(vector.element, vector.lanes * len(tokens))

    def codegen(context, builder, sig, args):
        return pick(builder, args[0], list(range(vector.lanes)) * len(tokens))

    return wide(vector, tokens), codegen


def rows_loader(single: Vector):
    """Return a load of a vector at ``array[start + offset]`` for each start, side by side."""

    @intrinsic
    def load(typingctx, array, starts, offset):
        wide = Vector(single.element, single.lanes * len(starts))

        def codegen(context, builder, sig, args):
            parts = []
            for t in range(len(starts)):
                index = builder.add(builder.extract_value(args[1], t), args[2])
                pointer = pointer_to(context, builder, sig.args[0], args[0], index, single.ir())
                parts.append(builder.load(pointer, align=1))
            return join(builder, parts)

        return wide(array, starts, types.int64), codegen

    return load


load_rows_f32x8 = rows_loader(f32x8)


def rows_splatter(single: Vector):
    """Return a filling of a vector with ``array[start + offset]`` for each start, side by side."""

    @intrinsic
    def splat_rows(typingctx, array, starts, offset):
        wide = Vector(single.element, single.lanes * len(starts))

        def codegen(context, builder, sig, args):
            data = context.make_array(sig.args[0])(context, builder, args[0]).data
            parts = []
            for t in range(len(starts)):
                index = builder.add(builder.extract_value(args[1], t), args[2])
                parts.append(splat(builder, builder.load(builder.gep(data, [index])), single))
            return join(builder, parts)

        return wide(array, starts, types.int64), codegen

    return splat_rows


splat_rows_f32x8 = rows_splatter(f32x8)


def rows_of_zeros(single: Vector):
    """Return what makes zeros, one vector for each element of a tuple, side by side."""

    @intrinsic
    def zeros(typingctx, tokens):
        wide = Vector(single.element, single.lanes * len(tokens))

        def codegen(context, builder, sig, args):
            zero = 0.0 if wide.is_float else 0
            return ir.Constant(wide.ir(), [zero] * wide.lanes)

        return wide(tokens), codegen

    return zeros


zeros_f32x8 = rows_of_zeros(f32x8)
"""Zeros, eight floats for each element of a tuple."""


@intrinsic
def first_lane_f32x8(typingctx, value):
    """Return eight floats: ``value``, then zeros."""

    def codegen(context, builder, sig, args):
        return builder.insert_element(ir.Constant(f32x8.ir(), [0.0] * 8), args[0], i32(0))

    return f32x8(types.float32), codegen


@intrinsic
def store_rows(typingctx, array, places, values, is_added):
    """Store lane t of ``values`` at ``array[places[t]]``, or add it to what is there.

    ``values`` may be a scalar where there is one place.
    """

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        is_added = builder.icmp_signed("!=", args[3], ir.Constant(args[3].type, 0))
        for t in range(len(places)):
            value = args[2]
            if isinstance(values, Vector):
                value = builder.extract_element(value, i32(t))
            place = builder.gep(data, [builder.extract_value(args[1], t)])
            total = builder.fadd(builder.load(place), value)
            builder.store(builder.select(is_added, total, value), place)
        return context.get_dummy_value()

    return types.void(array, places, values, types.int64), codegen


@intrinsic
def sums_f32x8(typingctx, vector):
    """Add up each eight lanes, pairwise: f32 x 8 T -> f32 x T (a scalar for T = 1)."""
    count = vector.lanes // 8
    result = types.float32 if count == 1 else Vector("f32", count)

    def codegen(context, builder, sig, args):
        sums = []
        for part in parts_of(builder, args[0], 8, count):
            lanes = 8
            while lanes > 1:
                lanes //= 2
                low = pick(builder, part, range(lanes))
                part = builder.fadd(low, pick(builder, part, range(lanes, 2 * lanes)))
            sums.append(builder.extract_element(part, i32(0)))
        if count == 1:
            return sums[0]
        joined = ir.Constant(result.ir(), ir.Undefined)
        for i, value in enumerate(sums):
            joined = builder.insert_element(joined, value, i32(i))
        return joined

    return result(vector), codegen
