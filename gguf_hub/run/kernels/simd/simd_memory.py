"""Loads and stores of vectors and of unaligned scalars. None checks bounds.

An index counts elements of the array; for byte arrays it is the byte.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.vectors import (
    Vector,
    f32x8,
    i8x16,
    i8x32,
    i32,
    i32x8,
    machine_code,
    pointer_to,
    shuffle,
)

# -- floats of the file as float32: a number, or a vector of them ----------------------------------


def _identity(builder, value, result):
    return value


def _float_of_half(builder, value, result):
    """Widen a half (one instruction where the CPU has F16C)."""
    return builder.fpext(value, result)


def _float_of_bfloat(builder, value, result):
    """Widen a bfloat16: it is the upper half of a float."""
    if isinstance(result, ir.VectorType):
        integers = ir.VectorType(ir.IntType(32), result.count)
        sixteen = ir.Constant(integers, [16] * result.count)
    else:
        integers, sixteen = ir.IntType(32), i32(16)
    return builder.bitcast(builder.shl(builder.zext(value, integers), sixteen), result)


FLOATS: dict[str, tuple[ir.Type, Callable]] = {
    "F32": (ir.FloatType(), _identity),
    "F16": (ir.HalfType(), _float_of_half),
    "BF16": (ir.IntType(16), _float_of_bfloat),
}
"""Type of weights -> what lies in memory, and ``(builder, value, result)`` that makes it floats."""

# -- loading and storing ---------------------------------------------------------------------------


def loader(vector: Vector):
    """Return a compiled function ``(array, index)`` that loads a vector."""

    @intrinsic
    def load(typingctx, array, index):
        def _codegen(context, builder, sig, args):
            pointer = pointer_to(context, builder, sig.args[0], args[0], args[1], vector.ir())
            return builder.load(pointer, align=1)

        return vector(array, types.int64), _codegen

    return load


load_i8x16 = loader(i8x16)
load_i8x32 = loader(i8x32)
load_i32x8 = loader(i32x8)
load_f32x8 = loader(f32x8)


def _storer(vector: Vector):
    """Return a compiled function ``(array, index, value)`` that stores a vector."""

    @intrinsic
    def store(typingctx, array, index, value):
        def _codegen(context, builder, sig, args):
            pointer = pointer_to(context, builder, sig.args[0], args[0], args[1], vector.ir())
            builder.store(args[2], pointer, align=1)
            return context.get_dummy_value()

        return types.void(array, types.int64, vector), _codegen

    return store


store_f32x8, store_i8x16 = _storer(f32x8), _storer(i8x16)


def _scalar_loader(element: ir.Type, numba_type, widen):
    """Load one unaligned scalar at a byte offset of a byte array."""

    @intrinsic
    def load(typingctx, array, offset):
        def _codegen(context, builder, sig, args):
            pointer = pointer_to(context, builder, sig.args[0], args[0], args[1], element)
            return widen(builder, builder.load(pointer, align=1))

        return numba_type(array, types.int64), _codegen

    return load


load_u32 = _scalar_loader(ir.IntType(32), types.uint32, lambda b, x: x)
load_u64 = _scalar_loader(ir.IntType(64), types.uint64, lambda b, x: x)


def _float_loader(weight_type: str):
    """Load one float of a type at a byte offset, as float32."""
    element, widen = FLOATS[weight_type]
    return _scalar_loader(element, types.float32, lambda b, x: widen(b, x, ir.FloatType()))


load_f32, load_f16, load_bf16 = map(_float_loader, ("F32", "F16", "BF16"))


def widening_loader(lanes: int, element: ir.Type, widen):
    """Return a compiled function ``(array, index)`` that loads numbers of a type as float32."""
    result = Vector("f32", lanes)

    @intrinsic
    def load(typingctx, array, index):
        """Return ``lanes`` numbers from ``array[index]`` on as float32."""

        def _codegen(context, builder, sig, args):
            narrow = ir.VectorType(element, lanes)
            pointer = pointer_to(context, builder, sig.args[0], args[0], args[1], narrow)
            return widen(builder, builder.load(pointer, align=1), result.ir())

        return result(array, types.int64), _codegen

    return load


load_f16x8, load_bf16x8 = (widening_loader(8, *FLOATS[name]) for name in ("F16", "BF16"))


@intrinsic
def load_strided_f16x8(typingctx, array, offset, stride):
    """Load eight halves of a byte array, ``stride`` bytes apart, and widen them to float32.

    Number i is loaded with what lies around it, so that it comes to lie in lane i: a blend takes it
    from there, where a load by itself would be an insertion. From the first half to the last one,
    no byte outside is read.
    """

    def _codegen(context, builder, sig, args):
        halves = ir.VectorType(ir.HalfType(), 8)
        step = builder.sub(
            context.cast(builder, args[2], sig.args[2], types.int64), ir.Constant(ir.IntType(64), 2)
        )
        found, index = None, args[1]
        for i in range(8):
            pointer = pointer_to(context, builder, sig.args[0], args[0], index, halves)
            loaded = builder.load(pointer, align=1)
            lanes = [8 + lane if lane == i else lane for lane in range(8)]
            found = shuffle(builder, found, loaded, lanes) if i else loaded
            index = builder.add(index, step)
        return builder.fpext(found, f32x8.ir())

    return f32x8(array, types.int64, stride), _codegen


def strided_u8x8(stride: int):
    """Return a compiled ``(array, offset)`` that loads eight bytes, ``stride`` apart, as i32x8."""

    @intrinsic
    def load(typingctx, array, offset):
        """Return the bytes at ``offset``, ``offset + stride`` ..., zero-extended to 32 bits."""

        def _codegen(context, builder, sig, args):
            eight = ir.Constant(ir.VectorType(ir.IntType(8), 8), ir.Undefined)
            for i in range(8):
                at = builder.add(args[1], ir.Constant(args[1].type, stride * i))
                pointer = pointer_to(context, builder, sig.args[0], args[0], at, ir.IntType(8))
                eight = builder.insert_element(eight, builder.load(pointer), i32(i))
            return builder.zext(eight, i32x8.ir())

        return i32x8(array, types.int64), _codegen

    return load


def _float_storer(element: ir.Type, narrow):
    """Store one float32 as a float of a type at ``array[index]``, ``narrow`` making it that."""

    @intrinsic
    def store(typingctx, array, index, value):
        def _codegen(context, builder, sig, args):
            pointer = pointer_to(context, builder, sig.args[0], args[0], args[1], element)
            builder.store(narrow(builder, args[2]), pointer, align=1)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.float32), _codegen

    return store


store_f32 = _float_storer(ir.FloatType(), lambda b, x: x)
store_f16 = _float_storer(ir.HalfType(), lambda b, x: b.fptrunc(x, ir.HalfType()))
"""Store one float32, as it is or as a half, rounded to nearest even."""


@intrinsic
def get(typingctx, array, index):
    """Return ``array[index]`` for an index known not to be negative: one load, nothing else."""

    def _codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.int64), _codegen


@intrinsic
def store_i8_of_i32x8(typingctx, array, index, value):
    """Store the low bytes of eight integers at ``array[index:index+8]``."""

    def _codegen(context, builder, sig, args):
        bytes8 = ir.VectorType(ir.IntType(8), 8)
        pointer = pointer_to(context, builder, sig.args[0], args[0], args[1], bytes8)
        builder.store(builder.trunc(args[2], bytes8), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, i32x8), _codegen


def _integer_storer(bits: int):
    @intrinsic
    def store(typingctx, array, offset, value):
        """Store the low ``bits`` bits of ``value`` at byte ``offset``, unaligned."""

        def _codegen(context, builder, sig, args):
            integer = ir.IntType(bits)
            pointer = pointer_to(context, builder, sig.args[0], args[0], args[1], integer)
            builder.store(builder.trunc(args[2], integer), pointer, align=1)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), _codegen

    return store


store_i16, store_i32 = _integer_storer(16), _integer_storer(32)
"""Store an integer at a byte offset of a byte array."""


@intrinsic
def prefetch(typingctx, w, offset):
    """Prefetch the cache line at byte ``offset`` into the second cache; never fails."""

    def _codegen(context, builder, sig, args):
        pointer = pointer_to(context, builder, sig.args[0], args[0], args[1], ir.IntType(8))
        types_ = [pointer.type, *[ir.IntType(32)] * 3]
        function_type = ir.FunctionType(ir.VoidType(), types_)
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [pointer, i32(0), i32(2), i32(1)])
        return context.get_dummy_value()

    return types.void(w, types.int64), _codegen


AHEAD = 8192
"""How many bytes ahead of the weights being multiplied others are prefetched. The CPU's own
prefetchers stop at each page; this goes on into the next, also where rows follow each other."""


def prefetch_ahead(size_bytes: int):
    """Return a function ``(w, p)`` that prefetches ``size_bytes`` of weights."""
    lines = -(-size_bytes // 64)

    @machine_code
    def prefetch_lines(w, p):
        """Prefetch the cache lines that begin ``AHEAD`` bytes behind ``p``."""
        for line in range(lines):
            prefetch(w, p + AHEAD + 64 * line)

    return prefetch_lines
