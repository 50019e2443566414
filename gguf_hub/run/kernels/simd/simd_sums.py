"""Adding up the lanes of vectors of four or eight integers, several of them together."""

from __future__ import annotations

from numba.extending import intrinsic

from gguf_hub.run.kernels.simd.vectors import Vector, i32x8, pick, shuffle

_I32X4 = Vector("i32", 4)


def add_neighbours(builder, a, b):
    """Add neighbours within each four lanes: a0+a1 a2+a3 b0+b1 b2+b3."""
    n = a.type.count
    even = [at + base for base in range(0, n, 4) for at in (0, 2, n, n + 2)]
    odd = [lane + 1 for lane in even]
    return builder.add(shuffle(builder, a, b, even), shuffle(builder, a, b, odd))


@intrinsic
def sums_of_four(typingctx, a, b, c, d):
    """Return the sums of four vectors of four or eight integers each, as i32x4."""

    def codegen(context, builder, sig, args):
        ab = add_neighbours(builder, args[0], args[1])
        sums = add_neighbours(builder, ab, add_neighbours(builder, args[2], args[3]))
        if sums.type.count == 4:
            return sums
        return builder.add(pick(builder, sums, range(4)), pick(builder, sums, range(4, 8)))

    return _I32X4(a, a, a, a), codegen


@intrinsic
def shift_in_four(typingctx, vector, four):
    """Move the last four lanes of eight to the front and put ``four`` behind them."""

    def codegen(context, builder, sig, args):
        last = pick(builder, args[0], range(4, 8))
        return shuffle(builder, last, args[1], range(8))

    return i32x8(i32x8, _I32X4), codegen
