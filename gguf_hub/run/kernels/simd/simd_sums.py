"""Adding up the lanes of vectors of four or eight integers, several of them together."""

from __future__ import annotations

from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.simd import madd, splat_i16x16
from gguf_hub.run.kernels.simd.vectors import (
    Vector,
    i8x32,
    i16x16,
    i32x8,
    instruction,
    machine_code,
    pick,
    shuffle,
)

_I32X4 = Vector("i32", 4)


def add_neighbours(builder, a, b):
    """Add neighbours within each four lanes: a0+a1 a2+a3 b0+b1 b2+b3."""
    n = a.type.count
    even = [at + base for base in range(0, n, 4) for at in (0, 2, n, n + 2)]
    odd = [lane + 1 for lane in even]
    return builder.add(shuffle(builder, a, b, even), shuffle(builder, a, b, odd))


@intrinsic
def add_neighbours_i32x8(typingctx, a, b):
    """Return sums of neighbours, those of ``b`` after those of ``a`` in each half."""

    def _codegen(context, builder, sig, args):
        return add_neighbours(builder, *args)

    return i32x8(i32x8, i32x8), _codegen


_packed = instruction("llvm.x86.avx2.packssdw", i32x8, i32x8, result=i16x16)


@machine_code
def packed_sums(a, b):
    """Return 16-bit sums of neighbours of 16 bits, those of ``b`` after ``a``'s in each half."""
    ones = splat_i16x16(1)
    return _packed(madd(a, ones), madd(b, ones))


def _lanes_of(lanes, vector: Vector, *, of_two: bool):
    """Return a compiled function that takes some lanes of a vector, or of two."""

    def _codegen(context, builder, sig, args):
        return shuffle(builder, args[0], args[-1], lanes)

    if of_two:
        return intrinsic(lambda typingctx, a, b: (vector(vector, vector), _codegen))
    return intrinsic(lambda typingctx, a: (vector(vector), _codegen))


low_halves = _lanes_of([*range(16), *range(32, 48)], i8x32, of_two=True)
"""The first sixteen bytes of each of two i8x32."""
high_halves = _lanes_of([*range(16, 32), *range(48, 64)], i8x32, of_two=True)
"""The last sixteen bytes of each of two i8x32."""
alternate = _lanes_of([0, 4, 1, 5, 2, 6, 3, 7], i32x8, of_two=False)
"""The lanes of both halves in turns."""


@intrinsic
def sums_of_four(typingctx, a, b, c, d):
    """Return the sums of four vectors of four or eight integers each, as i32x4."""

    def _codegen(context, builder, sig, args):
        ab = add_neighbours(builder, args[0], args[1])
        sums = add_neighbours(builder, ab, add_neighbours(builder, args[2], args[3]))
        if sums.type.count == 4:
            return sums
        return builder.add(pick(builder, sums, range(4)), pick(builder, sums, range(4, 8)))

    return _I32X4(a, a, a, a), _codegen


@intrinsic
def shift_in_four(typingctx, vector, four):
    """Move the last four lanes of eight to the front and put ``four`` behind them."""

    def _codegen(context, builder, sig, args):
        last = pick(builder, args[0], range(4, 8))
        return shuffle(builder, last, args[1], range(8))

    return i32x8(i32x8, _I32X4), _codegen
