"""SIMD registers as numba types, so that kernels read like intrinsics C and compile to the same.

A ``Vector`` is an LLVM vector, held in a register. Operators work lane by lane (``a + b``, ``a &
b``, ``a >> 4``); the functions below load, store, convert, shuffle and reduce. None checks
bounds.

Widths are 256 bits: AVX2's, and what 512-bit CPUs run without loss of clock.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_jitable, register_model

machine_code = register_jitable
"""Marks a function that works on vectors: it exists only compiled, never as plain Python."""

_ELEMENTS = {
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
        return ir.VectorType(_ELEMENTS[self.element], self.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector) -> None:
        super().__init__(manager, vector, vector.ir())


i8x16, i8x32 = Vector("i8", 16), Vector("i8", 32)
i16x8, i16x16 = Vector("i16", 8), Vector("i16", 16)
i32x8 = Vector("i32", 8)
f32x8 = Vector("f32", 8)

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
            right = _splat(builder, builder.trunc(scalar, element), vector)
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


def _splat(builder, scalar, vector: Vector):
    """Fill every lane with one value."""
    one = builder.insert_element(ir.Constant(vector.ir(), ir.Undefined), scalar, _i32(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(one, one, mask)


def _i32(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), value)


# -- memory ------------------------------------------------------------------------------------


def _pointer(context, builder, array_type, array, index, pointee):
    """Address of element ``index`` of a 1-d array, as a pointer to ``pointee``."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), pointee.as_pointer())


def _loader(vector: Vector):
    @intrinsic
    def load(typingctx, array, index):
        def codegen(context, builder, sig, args):
            pointer = _pointer(context, builder, sig.args[0], args[0], args[1], vector.ir())
            return builder.load(pointer, align=1)

        return vector(array, types.int64), codegen

    return load


load_i8x16 = _loader(i8x16)
load_i8x32 = _loader(i8x32)
load_i16x8 = _loader(i16x8)
load_i32x8 = _loader(i32x8)
load_f32x8 = _loader(f32x8)


@intrinsic
def store_f32x8(typingctx, array, index, value):
    """Store eight floats at ``array[index:index+8]``."""

    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], f32x8.ir())
        builder.store(args[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, f32x8), codegen


def _scalar_loader(element: ir.Type, numba_type, widen):
    """Load one unaligned scalar at a byte offset of a byte array."""

    @intrinsic
    def load(typingctx, array, offset):
        def codegen(context, builder, sig, args):
            pointer = _pointer(context, builder, sig.args[0], args[0], args[1], element)
            return widen(builder, builder.load(pointer, align=1))

        return numba_type(array, types.int64), codegen

    return load


load_u32 = _scalar_loader(ir.IntType(32), types.uint32, lambda b, x: x)
load_u64 = _scalar_loader(ir.IntType(64), types.uint64, lambda b, x: x)
load_f32 = _scalar_loader(ir.FloatType(), types.float32, lambda b, x: x)
load_f16 = _scalar_loader(ir.HalfType(), types.float32, lambda b, x: b.fpext(x, ir.FloatType()))
"""A half at a byte offset, as float32 (one instruction where the CPU has F16C)."""
load_bf16 = _scalar_loader(
    ir.IntType(16),
    types.float32,
    lambda b, x: b.bitcast(b.shl(b.zext(x, ir.IntType(32)), _i32(16)), ir.FloatType()),
)


def _half_loader(element: str):
    """Load eight halves and widen them to float32; the index counts array elements."""

    @intrinsic
    def load(typingctx, array, index):
        def codegen(context, builder, sig, args):
            if element == "f16":
                halves = ir.VectorType(ir.HalfType(), 8)
                pointer = _pointer(context, builder, sig.args[0], args[0], args[1], halves)
                return builder.fpext(builder.load(pointer, align=1), f32x8.ir())
            halves = ir.VectorType(ir.IntType(16), 8)
            pointer = _pointer(context, builder, sig.args[0], args[0], args[1], halves)
            wide = builder.zext(builder.load(pointer, align=1), i32x8.ir())
            shift = _splat(builder, _i32(16), i32x8)
            return builder.bitcast(builder.shl(wide, shift), f32x8.ir())

        return f32x8(array, types.int64), codegen

    return load


load_f16x8 = _half_loader("f16")
load_bf16x8 = _half_loader("bf16")


@intrinsic
def load_strided_f16x8(typingctx, array, offset, stride):
    """Load eight halves of a byte array, ``stride`` bytes apart, and widen them to float32."""

    def codegen(context, builder, sig, args):
        halves = ir.Constant(ir.VectorType(ir.HalfType(), 8), ir.Undefined)
        place = args[1]
        for i in range(8):
            pointer = _pointer(context, builder, sig.args[0], args[0], place, ir.HalfType())
            halves = builder.insert_element(halves, builder.load(pointer, align=1), _i32(i))
            place = builder.add(place, context.cast(builder, args[2], sig.args[2], types.int64))
        return builder.fpext(halves, f32x8.ir())

    return f32x8(array, types.int64, stride), codegen


@intrinsic
def store_f16(typingctx, array, index, value):
    """Store one float32 as a half at ``array[index]`` (uint16), rounded to nearest even."""

    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], ir.HalfType())
        builder.store(builder.fptrunc(args[2], ir.HalfType()), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.float32), codegen


# -- several tokens side by side -----------------------------------------------------------------


@intrinsic
def repeat(typingctx, vector, tokens):
    """Put a vector side by side with itself, once for each of a tuple's elements."""
    wide = Vector(vector.element, vector.lanes * len(tokens))

    def codegen(context, builder, sig, args):
        return _pick(builder, args[0], list(range(vector.lanes)) * len(tokens))

    return wide(vector, tokens), codegen


def _rows_loader(single: Vector):
    @intrinsic
    def load(typingctx, array, starts, offset):
        wide = Vector(single.element, single.lanes * len(starts))

        def codegen(context, builder, sig, args):
            parts = []
            for t in range(len(starts)):
                index = builder.add(builder.extract_value(args[1], t), args[2])
                pointer = _pointer(context, builder, sig.args[0], args[0], index, single.ir())
                parts.append(builder.load(pointer, align=1))
            return _join(builder, parts)

        return wide(array, starts, types.int64), codegen

    return load


load_rows_i8x32 = _rows_loader(i8x32)
"""Load 32 bytes at ``array[start + offset]`` for each start of a tuple, side by side."""
load_rows_f32x8 = _rows_loader(f32x8)


@intrinsic
def splat_rows_f32x8(typingctx, array, starts, offset):
    """Fill eight lanes with ``array[start + offset]`` for each start of a tuple, side by side."""
    wide = Vector("f32", 8 * len(starts))

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        parts = []
        for t in range(len(starts)):
            index = builder.add(builder.extract_value(args[1], t), args[2])
            parts.append(_splat(builder, builder.load(builder.gep(data, [index])), f32x8))
        return _join(builder, parts)

    return wide(array, starts, types.int64), codegen


@intrinsic
def splat_lanes(typingctx, vector, lane):
    """Fill each eight lanes with one of them: lane 3 of 8 T gives 8 x lane 3, 8 x lane 11, ..."""
    count = vector.lanes // 8

    def codegen(context, builder, sig, args):
        parts = _parts(builder, args[0], 8, count)
        return _join(
            builder, [_splat(builder, builder.extract_element(p, args[1]), f32x8) for p in parts]
        )

    return vector(vector, types.int64), codegen


def _zeros(single: Vector):
    @intrinsic
    def zeros(typingctx, tokens):
        wide = Vector(single.element, single.lanes * len(tokens))

        def codegen(context, builder, sig, args):
            zero = 0.0 if wide.is_float else 0
            return ir.Constant(wide.ir(), [zero] * wide.lanes)

        return wide(tokens), codegen

    return zeros


zeros_f32x8 = _zeros(f32x8)
"""Zeros, eight floats for each element of a tuple."""
zeros_i32x8 = _zeros(i32x8)


@intrinsic
def first_lane_f32x8(typingctx, value):
    """Return eight floats: ``value``, then zeros."""

    def codegen(context, builder, sig, args):
        return builder.insert_element(ir.Constant(f32x8.ir(), [0.0] * 8), args[0], _i32(0))

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
                value = builder.extract_element(value, _i32(t))
            place = builder.gep(data, [builder.extract_value(args[1], t)])
            total = builder.fadd(builder.load(place), value)
            builder.store(builder.select(is_added, total, value), place)
        return context.get_dummy_value()

    return types.void(array, places, values, types.int64), codegen


# -- making and taking apart -------------------------------------------------------------------


def _filler(vector: Vector, numba_type):
    @intrinsic
    def fill(typingctx, value):
        def codegen(context, builder, sig, args):
            scalar = context.cast(builder, args[0], sig.args[0], numba_type)
            return _splat(builder, scalar, vector)

        return vector(value), codegen

    return fill


splat_f32x8 = _filler(f32x8, types.float32)
splat_i8x32 = _filler(i8x32, types.int8)
splat_i16x16 = _filler(i16x16, types.int16)
splat_i32x8 = _filler(i32x8, types.int32)


def _bitcast(target: Vector):
    @intrinsic
    def cast(typingctx, value):
        def codegen(context, builder, sig, args):
            return builder.bitcast(args[0], target.ir())

        return target(value), codegen

    return cast


as_i8x16, as_i8x32 = _bitcast(i8x16), _bitcast(i8x32)
as_i16x16 = _bitcast(i16x16)
i8x8_of = _bitcast(Vector("i8", 8))  # from a uint64


@intrinsic
def concat(typingctx, low, high):
    """Join two vectors into one of twice the lanes."""
    joined = Vector(low.element, 2 * low.lanes)

    def codegen(context, builder, sig, args):
        lanes = list(range(joined.lanes))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), joined.lanes), lanes)
        return builder.shuffle_vector(args[0], args[1], mask)

    return joined(low, high), codegen


def _shuffler(source: Vector, lanes: tuple[int, ...]):
    """Return a compiled function that picks ``lanes`` of a vector, in that order."""
    result = Vector(source.element, len(lanes))

    @intrinsic
    def pick(typingctx, value):
        def codegen(context, builder, sig, args):
            mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
            return builder.shuffle_vector(args[0], args[0], mask)

        return result(source), codegen

    return pick


low_i8x8 = _shuffler(i8x16, tuple(range(8)))
high_i8x8 = _shuffler(i8x16, tuple(range(8, 16)))


def _widener(source: Vector, target: Vector, signed: bool):
    @intrinsic
    def widen(typingctx, value):
        def codegen(context, builder, sig, args):
            extend = builder.sext if signed else builder.zext
            return extend(args[0], target.ir())

        return target(source), codegen

    return widen


i16x8_from_i8 = _widener(Vector("i8", 8), i16x8, signed=True)
i16x8_from_u8 = _widener(Vector("i8", 8), i16x8, signed=False)
i16x16_from_i8 = _widener(i8x16, i16x16, signed=True)
i32x8_from_u8 = _widener(Vector("i8", 8), i32x8, signed=False)
i32x8_from_i8 = _widener(Vector("i8", 8), i32x8, signed=True)


@intrinsic
def floats(typingctx, integers):
    """Convert 32-bit integers to float32."""
    result = Vector("f32", integers.lanes)

    def codegen(context, builder, sig, args):
        return builder.sitofp(args[0], result.ir())

    return result(integers), codegen


@intrinsic
def bits_i8x32(typingctx, bits, ones):
    """Spread 32 bits over 32 lanes: lane i is ``ones`` where bit i is set, else 0."""

    def codegen(context, builder, sig, args):
        mask = builder.bitcast(args[0], ir.VectorType(ir.IntType(1), 32))
        value = context.cast(builder, args[1], sig.args[1], types.int8)
        zero = ir.Constant(i8x32.ir(), [0] * 32)
        return builder.select(mask, _splat(builder, value, i8x32), zero)

    return i8x32(types.uint32, ones), codegen


# -- arithmetic --------------------------------------------------------------------------------


def _llvm(builder, name: str, result: ir.Type, args):
    function_type = ir.FunctionType(result, [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, args)


@intrinsic
def fma(typingctx, a, b, c):
    """Return ``a * b + c``, rounded once; float32 scalars or vectors."""

    def codegen(context, builder, sig, args):
        suffix = f"v{c.lanes}f32" if isinstance(c, Vector) else "f32"
        return _llvm(builder, f"llvm.fma.{suffix}", args[2].type, args)

    return c(c, c, c), codegen


def _parts(builder, vector, lanes: int, count: int):
    """Cut a vector into ``count`` pieces of ``lanes``."""
    if count == 1:
        return [vector]
    starts = range(0, lanes * count, lanes)
    return [_pick(builder, vector, range(start, start + lanes)) for start in starts]


def _pick(builder, vector, lanes):
    """Return some lanes of a vector, in the order given."""
    lanes = list(lanes)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(vector, vector, mask)


def _join(builder, parts):
    """Put pieces of one length side by side."""
    joined = parts[0]
    for n, part in enumerate(parts[1:], start=1):
        width = part.type.count
        if n > 1:  # shuffles want two operands of one length
            undefined = ir.Constant(part.type, ir.Undefined)
            lanes = [*range(width), *[width] * (width * (n - 1))]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), width * n), lanes)
            part = builder.shuffle_vector(part, undefined, mask)
        lanes = [*range(width * n), *range(width * n, width * (n + 1))]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        joined = builder.shuffle_vector(joined, part, mask)
    return joined


@intrinsic
def sums_f32x8(typingctx, vector):
    """Add up each eight lanes, pairwise: f32 x 8 T -> f32 x T (a scalar for T = 1)."""
    count = vector.lanes // 8
    result = types.float32 if count == 1 else Vector("f32", count)

    def codegen(context, builder, sig, args):
        sums = []
        for part in _parts(builder, args[0], 8, count):
            lanes = 8
            while lanes > 1:
                lanes //= 2
                low = _pick(builder, part, range(lanes))
                part = builder.fadd(low, _pick(builder, part, range(lanes, 2 * lanes)))
            sums.append(builder.extract_element(part, _i32(0)))
        if count == 1:
            return sums[0]
        joined = ir.Constant(result.ir(), ir.Undefined)
        for i, value in enumerate(sums):
            joined = builder.insert_element(joined, value, _i32(i))
        return joined

    return result(vector), codegen


def _instruction(name: str, *sources: str, result: str):
    """Return a compiled function that runs a 256-bit instruction on each 256 bits of vectors.

    Args:
        name: LLVM's name of it.
        sources: Element kinds of the arguments.
        result: Element kind of the result.
    """

    def typed(*vectors):
        bits = {"i8": 8, "i16": 16, "i32": 32, "f32": 32}
        count = vectors[0].lanes * bits[sources[0]] // 256
        target = Vector(result, 256 // bits[result] * count)

        def codegen(context, builder, sig, args):
            columns = [
                _parts(builder, arg, 256 // bits[kind], count)
                for arg, kind in zip(args, sources, strict=True)
            ]
            piece = ir.VectorType(_ELEMENTS[result], 256 // bits[result])
            parts = [_llvm(builder, name, piece, list(row)) for row in zip(*columns, strict=True)]
            return _join(builder, parts)

        return target(*vectors), codegen

    if len(sources) == 2:
        return intrinsic(lambda typingctx, a, b: typed(a, b))
    return intrinsic(lambda typingctx, a, b, c: typed(a, b, c))


maddubs = _instruction("llvm.x86.avx2.pmadd.ub.sw", "i8", "i8", result="i16")
"""Multiply bytes (unsigned x signed) and add neighbours, saturating: i8 x 32 -> i16 x 16."""

madd = _instruction("llvm.x86.avx2.pmadd.wd", "i16", "i16", result="i32")
"""Multiply 16-bit lanes and add neighbours: i16 x 16 -> i32 x 8."""

sign = _instruction("llvm.x86.avx2.psign.b", "i8", "i8", result="i8")
"""The first with the sign of the second applied, byte by byte (0 where that is 0)."""

dpbusd = _instruction("llvm.x86.avx512.vpdpbusd.256", "i32", "i8", "i8", result="i32")
"""Add four products of bytes (unsigned x signed) to each 32-bit lane (AVX512-VNNI)."""


# -- what the CPU is told about memory and waiting ------------------------------------------------


@intrinsic
def prefetch(typingctx, array, index):
    """Ask for the cache line of ``array[index]``, soon to be read once."""

    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], ir.IntType(8))
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer.type] + [ir.IntType(32)] * 3),
            "llvm.prefetch.p0",
        )
        builder.call(function, [pointer, _i32(0), _i32(3), _i32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@intrinsic
def get(typingctx, array, index):
    """Return ``array[index]`` for an index known not to be negative: one load, nothing else."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.int64), codegen


@intrinsic
def get_half(typingctx, array, index):
    """Return the half at ``array[index]`` (uint16) as float32."""

    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], ir.HalfType())
        return builder.fpext(builder.load(pointer, align=1), ir.FloatType())

    return types.float32(array, types.int64), codegen


@intrinsic
def splat_lane(typingctx, vector, lane):
    """Fill sixteen 16-bit lanes with one lane of ``vector``.

    The lane may be a loop variable: once LLVM has unrolled the loop it is one shuffle.
    """

    def codegen(context, builder, sig, args):
        return _splat(builder, builder.extract_element(args[0], args[1]), i16x16)

    return i16x16(vector, types.int64), codegen


@intrinsic
def splat_lane_pair(typingctx, vector, pair):
    """Return eight times lane ``2 * pair`` of an i16x16, then eight times lane ``2 * pair + 1``."""

    def codegen(context, builder, sig, args):
        first = builder.mul(args[1], ir.Constant(ir.IntType(64), 2))
        second = builder.add(first, ir.Constant(ir.IntType(64), 1))
        low, high = (
            _splat(builder, builder.extract_element(args[0], lane), i16x16)
            for lane in (first, second)
        )
        lanes = [*range(8), *range(16, 24)]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 16), lanes)
        return builder.shuffle_vector(low, high, mask)

    return i16x16(i16x16, types.int64), codegen


# -- for quantising activations ------------------------------------------------------------------


@intrinsic
def max_i32x8(typingctx, a, b):
    """Return the larger of each lane."""

    def codegen(context, builder, sig, args):
        return _llvm(builder, "llvm.smax.v8i32", i32x8.ir(), args)

    return i32x8(i32x8, i32x8), codegen


@intrinsic
def round_i32x8(typingctx, value):
    """Convert eight floats to integers, halves to even."""

    def codegen(context, builder, sig, args):
        return _llvm(builder, "llvm.x86.avx.cvt.ps2dq.256", i32x8.ir(), args)

    return i32x8(f32x8), codegen


@intrinsic
def store_i8_of_i32x8(typingctx, array, index, value):
    """Store the low bytes of eight integers at ``array[index:index+8]``."""

    def codegen(context, builder, sig, args):
        bytes8 = ir.VectorType(ir.IntType(8), 8)
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], bytes8)
        builder.store(builder.trunc(args[2], bytes8), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, i32x8), codegen


@intrinsic
def sum_i32x8(typingctx, value):
    """Return the sum of eight integers."""

    def codegen(context, builder, sig, args):
        return _llvm(builder, "llvm.vector.reduce.add.v8i32", ir.IntType(32), args)

    return types.int32(i32x8), codegen


@intrinsic
def top_i32x8(typingctx, value):
    """Return the largest lane."""

    def codegen(context, builder, sig, args):
        return _llvm(builder, "llvm.vector.reduce.smax.v8i32", ir.IntType(32), args)

    return types.int32(i32x8), codegen
