"""Lookup in the grids of the IQ types, a block of 256 weights at once.

Tables lie in registers and bytes permute among them, with AVX512-VBMI; the lookups that any CPU can
do are loads, one after another (``matmul.grid_rows``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.vectors import (
    Vector,
    call_llvm,
    i8x32,
    i8x64,
    i16x32,
    pick,
    shuffle,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FOUR = types.UniTuple(i8x64, 4)
# unpacking interleaves within sixteen bytes; with its input in this order its output is in order
_ORDER = [16 * v + 4 * lane + t for lane in range(4) for v in range(4) for t in range(4)]


def fours_of(grid: NDArray[np.uint64]) -> Callable:
    """Return ``(codes, ninth)``: the bytes of 64 vectors of four, as four i8x64 in order.

    A code is a byte of ``codes``; where a grid has more than 256 vectors, its ninth bit is that of
    ``ninth``, uint64.
    """
    tables = [_registers((grid >> np.uint64(8 * j)).astype(np.uint8), i8x64) for j in range(4)]

    @intrinsic
    def fours(typingctx, codes, ninth):
        def codegen(context, builder, sig, args):
            at = pick(builder, args[0], _ORDER)
            bits = [builder.icmp_signed("<", at, ir.Constant(at.type, [0] * 64))]
            if len(grid) > 256:
                high = builder.bitcast(args[1], ir.VectorType(ir.IntType(1), 64))
                bits.append(pick(builder, high, _ORDER))
            planes = [_look_up(builder, table, at, bits, "qi") for table in tables]
            return context.make_tuple(builder, _FOUR, _interleave(builder, planes))

        return _FOUR(i8x64, types.uint64), codegen

    return fours


def eights_of(grid: NDArray[np.uint64]) -> Callable:
    """Return ``(codes)``: the bytes of 32 vectors of eight, as four i8x64 in order.

    A byte is one of at most four values, so that a vector is two bits for each, 16 in all.
    """
    bytes_ = grid.view(np.uint8).reshape(-1, 8)
    values = np.unique(bytes_)
    digits = np.searchsorted(values, bytes_).astype(np.uint64)
    packed = (digits << np.arange(0, 16, 2, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    table = _registers(packed.astype(np.uint16), i16x32)
    n_bits = (len(grid) // 64).bit_length() - 1  # beyond the six that choose within two registers
    # the instruction goes by six bits, of which the upper four are of the digits behind
    of_digit = ir.Constant(i8x64.ir(), [*map(int, np.resize(np.resize(values, 4), 64))])

    @intrinsic
    def eights(typingctx, codes):
        def codegen(context, builder, sig, args):
            bits = [_has_bit(builder, args[0], 6 + n) for n in range(n_bits)]
            found = _look_up(builder, table, args[0], bits, "hi")
            packed = pick(builder, builder.bitcast(found, i8x64.ir()), _ORDER)
            words = builder.bitcast(packed, i16x32.ir())
            planes = []
            for j in range(4):
                shifted = builder.lshr(words, ir.Constant(words.type, [2 * j] * 32))
                name, at = "llvm.x86.avx512.permvar.qi.512", builder.bitcast(shifted, i8x64.ir())
                planes.append(call_llvm(builder, name, i8x64.ir(), [of_digit, at]))
            return context.make_tuple(builder, _FOUR, _interleave(builder, planes))

        return _FOUR(i16x32), codegen

    return eights


def _registers(values: NDArray, vector: Vector) -> list[ir.Constant]:
    """Return a table as registers."""
    return [
        ir.Constant(vector.ir(), [int(value) for value in values[start : start + vector.lanes]])
        for start in range(0, len(values), vector.lanes)
    ]


def _look_up(builder, table, at, bits, suffix: str):
    """Return what ``at`` chooses of a table; ``bits`` are those that tell two registers apart."""
    name = f"llvm.x86.avx512.vpermi2var.{suffix}.512"
    found = [
        call_llvm(builder, name, at.type, [table[i], at, table[i + 1]])
        for i in range(0, len(table), 2)
    ]
    for bit in bits:
        found = [builder.select(bit, found[i + 1], found[i]) for i in range(0, len(found), 2)]
    return found[0]


def _has_bit(builder, words, bit: int):
    masked = builder.and_(words, ir.Constant(words.type, [1 << bit] * 32))
    return builder.icmp_unsigned("!=", masked, ir.Constant(words.type, [0] * 32))


def _interleave(builder, planes):
    """Return bytes a0 b0 c0 d0 a1 ... of four planes, as far as sixteen bytes go."""
    a, b, c, d = planes
    fours = []
    for half in (0, 1):
        ab, cd = _unpacked(builder, a, b, 1, half), _unpacked(builder, c, d, 1, half)
        fours += [_unpacked(builder, ab, cd, 2, quarter) for quarter in (0, 1)]
    return fours


def _unpacked(builder, a, b, size: int, half: int):
    """Interleave elements of ``size`` bytes of a half of each sixteen bytes."""
    lanes = []
    for first in range(0, 64, 16):
        for n in range(first + 8 * half, first + 8 * half + 8, size):
            lanes += [*range(n, n + size), *range(64 + n, 64 + n + size)]
    return shuffle(builder, a, b, lanes)


@intrinsic
def negated(typingctx, weights, signs, i):
    """Return ``128 - weight`` where a sign is set: bit n of word ``i`` of ``signs`` is weight n's.

    ``signs`` has a bit for each of 256 weights, ``weights`` are 32 or 64 of these.
    """
    lanes = weights.lanes
    words = Vector(f"i{lanes}", 256 // lanes)

    def codegen(context, builder, sig, args):
        word = builder.extract_element(builder.bitcast(args[1], words.ir()), args[2])
        is_set = builder.bitcast(word, ir.VectorType(ir.IntType(1), lanes))
        whole = ir.Constant(weights.ir(), [-128] * lanes)
        return builder.select(is_set, builder.sub(whole, args[0]), args[0])

    return weights(weights, i8x32, types.int64), codegen
