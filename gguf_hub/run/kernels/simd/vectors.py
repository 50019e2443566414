"""SIMD registers as numba types: the type, its operators, and what intrinsics are written with.

A ``Vector`` is an LLVM vector, held in a register. Operators work lane by lane (``a + b``,
``a & b``, ``a >> 4``). Widths are 256 bits, AVX2's and what 512-bit CPUs run without loss of clock,
or several of those side by side.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from llvmlite.binding import llvm_version_info
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_jitable, register_model

machine_code = register_jitable
"""Marks a function that works on vectors: it exists only compiled, never as plain Python."""

_DOT_PRODUCTS = "llvm.x86.avx512.vpdp"
ELEMENTS = {
    "i8": ir.IntType(8),
    "i16": ir.IntType(16),
    "i32": ir.IntType(32),
    "i64": ir.IntType(64),
    "f16": ir.HalfType(),
    "f32": ir.FloatType(),
}


class Vector(types.Type):
    """``lanes`` elements of one kind in a register, e.g. ``i8 x 32``."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"{element}x{lanes}")

    @property
    def is_float(self) -> bool:
        """Whether the lanes are floating point."""
        return self.element[0] == "f"

    def ir(self) -> ir.VectorType:
        """Return the LLVM type."""
        return ir.VectorType(ELEMENTS[self.element], self.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector) -> None:
        super().__init__(manager, vector, vector.ir())


i8x16, i8x32 = Vector("i8", 16), Vector("i8", 32)
i16x8, i16x16 = Vector("i16", 8), Vector("i16", 16)
i32x8 = Vector("i32", 8)
f32x8 = Vector("f32", 8)
i8x64, i16x32, i32x16, f32x16 = (
    Vector("i8", 64), Vector("i16", 32), Vector("i32", 16), Vector("f32", 16),
)  # fmt: skip

# -- operators ---------------------------------------------------------------------------------


def _operator(python_operator, name: str) -> None:
    """Give vectors a lane-wise operator; the right side may be a constant for shifts."""

    @infer_global(python_operator)
    class _Typing(AbstractTemplate):
        def generic(self, args, keywords):
            left, right = args
            if isinstance(left, Vector) and left == right:
                return signature(left, left, right)
            if isinstance(left, Vector) and isinstance(right, types.Integer):
                return signature(left, left, right)
            return None

    def lower(context, builder, sig, args):
        vector = sig.args[0]
        right = args[1]
        if isinstance(sig.args[1], types.Integer):
            element = vector.ir().element
            scalar = context.cast(builder, right, sig.args[1], types.int64)
            right = splat(builder, builder.trunc(scalar, element), vector)
        method = f"f{name}" if vector.is_float else name
        return getattr(builder, method)(args[0], right)

    lower_builtin(python_operator, Vector, Vector)(lower)
    lower_builtin(python_operator, Vector, types.Integer)(lower)


for _python_operator, _name in (
    (operator.add, "add"),
    (operator.sub, "sub"),
    (operator.mul, "mul"),
    (operator.truediv, "div"),
    (operator.and_, "and_"),
    (operator.or_, "or_"),
    (operator.xor, "xor"),
    (operator.lshift, "shl"),
    (operator.rshift, "lshr"),
):
    _operator(_python_operator, _name)


def splat(builder, scalar, vector: Vector):
    """Fill every lane with one value."""
    one = builder.insert_element(ir.Constant(vector.ir(), ir.Undefined), scalar, i32(0))
    return pick(builder, one, [0] * vector.lanes)


def i32(value: int) -> ir.Constant:
    """Return a 32-bit constant."""
    return ir.Constant(ir.IntType(32), value)


def pointer_to(context, builder, array_type, array, index, pointee):
    """Address of element ``index`` of a 1-d array, as a pointer to ``pointee``."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), pointee.as_pointer())


def call_llvm(builder, name: str, result: ir.Type, args):
    """Call a function of LLVM's own, e.g. ``llvm.fma.v8f32``."""
    if name.startswith(_DOT_PRODUCTS) and llvm_version_info[0] < 22:
        args = [builder.bitcast(arg, result) for arg in args]  # it had them as 32-bit lanes
    function_type = ir.FunctionType(result, [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, args)


def parts_of(builder, vector, lanes: int, count: int):
    """Cut a vector into ``count`` parts of ``lanes``."""
    if count == 1:
        return [vector]
    starts = range(0, lanes * count, lanes)
    return [pick(builder, vector, range(start, start + lanes)) for start in starts]


def shuffle(builder, a, b, lanes):
    """Return some lanes of two vectors of one type, those of ``b`` counted on after ``a``'s."""
    lanes = list(lanes)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(a, b, mask)


def pick(builder, vector, lanes):
    """Return some lanes of a vector, in the order given."""
    return shuffle(builder, vector, vector, lanes)


def join(builder, parts):
    """Put parts of one length side by side."""
    joined = parts[0]
    for n, part in enumerate(parts[1:], start=1):
        width = part.type.count
        if n > 1:  # shuffles want two operands of one length
            undefined = ir.Constant(part.type, ir.Undefined)
            part = shuffle(builder, part, undefined, [*range(width), *[width] * (width * (n - 1))])
        joined = shuffle(builder, joined, part, range(width * (n + 1)))
    return joined


def fold(builder, vector, lanes: int):
    """Add the upper half of a vector to the lower, until there are ``lanes``."""
    while vector.type.count > lanes:
        half = vector.type.count // 2
        low, high = pick(builder, vector, range(half)), pick(builder, vector, range(half, 2 * half))
        vector = builder.fadd(low, high)
    return vector


def instruction(name: str, *sources: Vector, result: Vector):
    """Return a compiled function that is one instruction, under LLVM's name of it."""

    def codegen(context, builder, sig, args):
        return call_llvm(builder, name, result.ir(), args)

    if len(sources) == 1:
        return intrinsic(lambda typingctx, a: (result(*sources), codegen))
    if len(sources) == 2:
        return intrinsic(lambda typingctx, a, b: (result(*sources), codegen))
    return intrinsic(lambda typingctx, a, b, c: (result(*sources), codegen))
