"""Several tokens side by side in one wide vector, which LLVM keeps in as many registers.

A tuple of starts says how many tokens there are and where each one's row begins.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.vectors import Vector, join, pick, pointer_to, splat


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
