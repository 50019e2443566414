"""Products of rows of floats with tokens, several of each at once: F32, F16, BF16.

Weight k of a row times value k of a token is added to sum k % 16 by one ``fma``, in ascending
order. The upper eight sums are added to the lower, then the last weights of a row that is no
multiple of sixteen to the first of them, then upper halves to lower ones until one is left. So a
product does not depend on how many rows and tokens are multiplied together: as many as registers
hold, since each vector that is loaded then meets several others.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.simd.simd_memory import FLOATS, prefetch
from gguf_hub.run.kernels.simd.simd_tiles import Bytes
from gguf_hub.run.kernels.simd.vectors import (
    Vector,
    call_llvm,
    f32x8,
    f32x16,
    fold,
    i32,
    join,
    machine_code,
    parts_of,
    shuffle,
)

TILES = {"avx2": (2, 2), "avxvnni": (2, 2), "avx512vnni": (4, 6), "dotprod": (2, 3)}
"""Rows and tokens whose sums the registers of an instruction set hold, beside what meets them."""


@intrinsic
def _zeros(typingctx, rows, tokens):
    """Return sixteen zeros for each row and token, a row's tokens side by side."""
    result = types.UniTuple(f32x16, len(rows) * len(tokens))

    def codegen(context, builder, sig, args):
        zero = ir.Constant(f32x16.ir(), [0.0] * 16)
        return context.make_tuple(builder, result, [zero] * len(result))

    return result(rows, tokens), codegen


def _adder(weight_type: str, vector: Vector, n: int):
    """Return what adds the products of ``n`` weights a row with as many values to the sums.

    Fewer values than ``vector`` has lanes are followed by zeros.
    """
    element, widen = FLOATS[weight_type]

    def load(builder, address, element, widen):
        lanes = ir.VectorType(element, n) if n > 1 else element
        values = builder.load(builder.bitcast(address, lanes.as_pointer()), align=1)
        if n > 1:
            return widen(builder, values, vector.ir())
        zeros = ir.Constant(vector.ir(), [0.0] * vector.lanes)
        number = widen(builder, values, vector.ir().element)
        return builder.insert_element(zeros, number, i32(0))

    @intrinsic
    def add(typingctx, sums, w, rows, offset, f, tokens, k):
        def codegen(context, builder, sig, args):
            parts = [builder.extract_value(args[0], i) for i in range(len(sums))]
            weights = Bytes(context, builder, sig.args[1], args[1])
            values = Bytes(context, builder, sig.args[4], args[4])
            four = ir.Constant(ir.IntType(64), 4)
            xs = []
            for t in range(len(tokens)):
                at = builder.add(builder.extract_value(args[5], t), args[6])
                address = values.at(builder.mul(at, four))
                xs.append(load(builder, address, *FLOATS["F32"]))
            for r in range(len(rows)):
                address = weights.at(builder.extract_value(args[2], r), args[3])
                weight = load(builder, address, element, widen)
                for t, x in enumerate(xs):
                    i = len(xs) * r + t
                    name = f"llvm.fma.v{vector.lanes}f32"
                    parts[i] = call_llvm(builder, name, vector.ir(), [weight, x, parts[i]])
            return context.make_tuple(builder, sums, parts)

        return sums(sums, w, rows, types.int64, f, tokens, types.int64), codegen

    return add


@intrinsic
def _eights(typingctx, sums):
    result = types.UniTuple(f32x8, len(sums))

    def codegen(context, builder, sig, args):
        parts = [builder.extract_value(args[0], i) for i in range(len(sums))]
        return context.make_tuple(builder, result, [fold(builder, part, 8) for part in parts])

    return result(sums), codegen


def _columns(builder, sums, n_tokens: int):
    """Add up each eight sums; return one vector for each token, with the products of its rows."""
    columns = [sums[t::n_tokens] for t in range(n_tokens)]
    is_paired = len(columns[0]) in (2, 4)
    end = n_tokens - n_tokens % 2 if is_paired else 0
    paired = [_pair(builder, *columns[t : t + 2]) for t in range(0, end, 2)]
    alone = [join(builder, [fold(builder, x, 1) for x in column]) for column in columns[end:]]
    return [*(each for pair in paired for each in pair), *alone]


def _pair(builder, firsts, seconds):
    """Add up the eight sums of each row of two tokens; two or four rows.

    In ``fold``'s order, with the sums of several rows in one vector: a third of its instructions.
    """
    # [row r of the first, of the second]: 4 sums each
    fours = [_halves(builder, a, b, (0, 1, 2, 3, 8, 9, 10, 11), 4)
             for a, b in zip(firsts, seconds, strict=True)]  # fmt: skip
    # [rows r and r + 1 of the first, of the second]: 2 sums each
    twos = [_halves(builder, a, b, (0, 1, 8, 9, 4, 5, 12, 13), 2)
            for a, b in zip(fours[::2], fours[1::2], strict=True)]  # fmt: skip
    # [all rows of the first, of the second]
    lanes = (0, 2, 8, 10, 4, 6, 12, 14) if len(twos) == 2 else (0, 2, 4, 6)
    ones = _halves(builder, twos[0], twos[-1], lanes, 1)
    return parts_of(builder, ones, len(firsts), 2)


def _halves(builder, a, b, lanes, step: int):
    """Add to some lanes of two vectors those that are ``step`` further on."""
    lower, upper = (shuffle(builder, a, b, [i + n for i in lanes]) for n in (0, step))
    return builder.fadd(lower, upper)


@intrinsic
def _store(typingctx, sums, rows, f, ys, is_added):
    """Add up each eight sums and store them: those of row r at ``f[y + r]`` of each token.

    Where ``is_added`` they are added to what is there. All of that is read before any is written,
    as a token may come twice.
    """

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[2])(context, builder, args[2]).data
        is_added = builder.icmp_signed("!=", args[4], ir.Constant(args[4].type, 0))
        parts = [builder.extract_value(args[0], i) for i in range(len(sums))]
        outputs = []
        for t, products in enumerate(_columns(builder, parts, len(ys))):
            at = builder.gep(data, [builder.extract_value(args[3], t)])
            pointer = builder.bitcast(at, products.type.as_pointer())
            total = builder.fadd(builder.load(pointer, align=4), products)
            outputs.append((builder.select(is_added, total, products), pointer))
        for value, pointer in outputs:
            builder.store(value, pointer, align=4)
        return context.get_dummy_value()

    return types.void(sums, rows, f, ys, types.int64), codegen


@intrinsic
def rows_from(typingctx, ahead, start, row_bytes):
    """Return where as many rows as a tuple has elements begin, from byte ``start`` on."""

    def codegen(context, builder, sig, args):
        starts = []
        for r in range(len(ahead)):
            step = builder.mul(args[2], ir.Constant(ir.IntType(64), r))
            starts.append(builder.add(args[1], step))
        return context.make_tuple(builder, sig.return_type, starts)

    result = types.UniTuple(types.int64, len(ahead))
    return result(ahead, types.int64, types.int64), codegen


def tile_of(weight_type: str):
    """Return ``(w, rows, f, tokens, n, ys, is_added, ahead)``.

    It multiplies rows of ``n`` weights at the bytes ``rows`` with the tokens at ``f[tokens]`` and
    puts the product of row r at ``f[y + r]``; weights ``ahead`` bytes further on are prefetched.
    """
    size_bytes = QuantType[weight_type].type_size
    add, add_one = _adder(weight_type, f32x16, 16), _adder(weight_type, f32x8, 1)

    @machine_code
    def tile(w, rows, f, tokens, n, ys, is_added, ahead):
        sums = _zeros(rows, tokens)
        n_vectors = n // 16
        for i in range(n_vectors):
            at = 16 * size_bytes * i
            for line in range((len(rows) * size_bytes * 16 + 63) // 64):
                prefetch(w, rows[0] + ahead + len(rows) * at + 64 * line)
            sums = add(sums, w, rows, at, f, tokens, 16 * i)
        eights = _eights(sums)
        for k in range(16 * n_vectors, n):
            eights = add_one(eights, w, rows, size_bytes * k, f, tokens, k)
        _store(eights, rows, f, ys, is_added)

    return tile
