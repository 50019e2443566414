"""Eight weights at a time: ``lanes`` over SIMD registers. Exists only compiled.

Nothing here is bound to one CPU: LLVM turns it into whatever registers there are.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd import simd
from gguf_hub.run.kernels.simd.simd import fma
from gguf_hub.run.kernels.simd.simd_memory import (
    load_bf16,
    load_bf16x8,
    load_f16,
    load_f16x8,
    load_f32,
    load_f32x8,
    load_i8x16,
    store_f32x8,
    store_i8x16,
)
from gguf_hub.run.kernels.simd.vectors import f32x8, instruction, machine_code, pick, pointer_to

__all__ = ["fma"]

LANES = 8
load = load_f32x8
store = store_f32x8
splat = simd.splat_f32x8

_I32, _FLOAT = ir.IntType(32), ir.FloatType()
_INTEGERS = ir.VectorType(_I32, 8)


def _make_choose(operator: str, count: int):
    """Return an intrinsic that compares its first two vectors and chooses by that.

    Args:
        operator: LLVM's ordered comparison.
        count: 2 to choose between the compared vectors, 4 to choose between two others.
    """
    if count == 2:

        @intrinsic
        def choose(typingctx, a, b):
            def _codegen(context, builder, sig, args):
                return builder.select(builder.fcmp_ordered(operator, *args), *args)

            return f32x8(f32x8, f32x8), _codegen

    else:

        @intrinsic
        def choose(typingctx, a, b, yes, no):
            def _codegen(context, builder, sig, args):
                return builder.select(builder.fcmp_ordered(operator, *args[:2]), *args[2:])

            return f32x8(f32x8, f32x8, f32x8, f32x8), _codegen

    return choose


smaller, larger, where_less = _make_choose("<", 2), _make_choose(">", 2), _make_choose("<", 4)


magnitude, root, nearest, truncate = (
    instruction(f"llvm.{name}.v8f32", f32x8, result=f32x8)
    for name in ("fabs", "sqrt", "rint", "trunc")
)


def _make_reduce(operator: str):
    """Return an intrinsic that reduces a vector to the lane that wins every comparison."""

    @intrinsic
    def reduce(typingctx, a):
        """Return the winning lane, by three comparisons of halves."""

        def _codegen(context, builder, sig, args):
            vector, lanes = args[0], 8
            while lanes > 1:
                lanes //= 2
                low, high = (
                    pick(builder, vector, range(first, first + lanes)) for first in (0, lanes)
                )
                vector = builder.select(builder.fcmp_ordered(operator, low, high), low, high)
            return builder.extract_element(vector, ir.Constant(_I32, 0))

        return types.float32(f32x8), _codegen

    return reduce


highest, lowest = _make_reduce(">"), _make_reduce("<")


@intrinsic
def gather(typingctx, array, index, stride):
    """Return eight floats, ``stride`` apart."""

    def _codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        vector, at = ir.Constant(f32x8.ir(), ir.Undefined), args[1]
        for lane in range(8):
            value = builder.load(builder.gep(data, [at]))
            vector = builder.insert_element(vector, value, ir.Constant(_I32, lane))
            at = builder.add(at, args[2])
        return vector

    return f32x8(array, types.int64, types.int64), _codegen


def _byte_pointer(context, builder, sig, args, pointee):
    return pointer_to(context, builder, sig.args[0], args[0], args[1], pointee)


def _make_store(change, lanes_type: ir.Type):
    """Return an intrinsic that changes a vector and stores it at a byte offset."""

    @intrinsic
    def put(typingctx, array, index, value):
        """Store ``change(value)``, eight lanes, from byte ``index`` of the array on."""

        def _codegen(context, builder, sig, args):
            pointer = _byte_pointer(context, builder, sig, args, lanes_type)
            builder.store(change(builder, args[2]), pointer, align=1)
            return context.get_dummy_value()

        return types.void(array, types.int64, f32x8), _codegen

    return put


def _as_bytes(builder, value):
    return builder.trunc(builder.fptosi(value, _INTEGERS), ir.VectorType(ir.IntType(8), 8))


def _as_bfloats(builder, value):
    """Round to nearest even; there are no NaN here."""
    bits = builder.bitcast(value, _INTEGERS)
    sixteen, one, below = (ir.Constant(_INTEGERS, [n] * 8) for n in (16, 1, 0x7FFF))
    odd = builder.and_(builder.lshr(bits, sixteen), one)
    rounded = builder.lshr(builder.add(builder.add(bits, below), odd), sixteen)
    return builder.trunc(rounded, ir.VectorType(ir.IntType(16), 8))


_HALVES = ir.VectorType(ir.HalfType(), 8)
store_quants = store_bytes = _make_store(_as_bytes, ir.VectorType(ir.IntType(8), 8))
store_halves = _make_store(lambda builder, value: builder.fptrunc(value, _HALVES), _HALVES)
store_bfloats = _make_store(_as_bfloats, ir.VectorType(ir.IntType(16), 8))
store_floats = _make_store(lambda builder, value: value, f32x8.ir())


@machine_code
def pack_nibbles(q, at, w, to, n):
    """Write ``n`` bytes, a multiple of 16: quants ``at ...`` below, ``at + n ...`` above."""
    for i in range(n // 16):
        low = load_i8x16(q, at + 16 * i) & 15
        high = load_i8x16(q, at + n + 16 * i) << 4
        store_i8x16(w, to + 16 * i, low | high)


# -- rows of unpacked types to floats -------------------------------------------------------------


def _make_dequantize(load8, load1, size: int):
    """Return ``dequantize`` for floats of ``size`` bytes."""

    @machine_code
    def dequantize(w, o, y, yo, n):
        """Write ``n`` weights from byte ``o`` on as float32, by eights and then singly."""
        n_vectors = n // 8
        for i in range(n_vectors):
            store_f32x8(y, yo + 8 * i, load8(w, o + 8 * size * i))
        for i in range(8 * n_vectors, n):
            y[yo + i] = load1(w, o + size * i)

    return dequantize


dequantize_f32 = _make_dequantize(load_f32x8, load_f32, 4)
dequantize_f16 = _make_dequantize(load_f16x8, load_f16, 2)
dequantize_bf16 = _make_dequantize(load_bf16x8, load_bf16, 2)
