"""Integer products of weight tiles with some tokens, by what instructions the CPU has.

All are exact: vectors of unsigned weights times signed activations, -127 to 127, four neighbours
added to a 32-bit lane.

* AVX-512 VNNI and AVX-VNNI do that in one instruction, ``vpdpbusd``, for sixteen or eight rows.
* AVX2 adds two neighbours to 16 bits, which saturate: as many products are added there as surely
  fit (eight of four-bit weights: 8 x 2 x 15 x 127 = 30,480), then multiplied with their scale.
* NEON's ``sdot`` does it in one instruction for four rows, of signed weights.
"""

from __future__ import annotations

from llvmlite import ir

from gguf_hub.run.kernels.matmul.avx2_products import avx2_ops
from gguf_hub.run.kernels.matmul.tile_ops import TileOps, multiplier, splat_sums, zeros
from gguf_hub.run.kernels.simd import neon
from gguf_hub.run.kernels.simd.simd_lookup import by_pshufb, by_tbl
from gguf_hub.run.kernels.simd.simd_tiles import usual_beside
from gguf_hub.run.kernels.simd.vectors import Vector, call_llvm, machine_code, pick


def _by_group(multiply, group: int, groups: int):
    """Return ``TileOps.scaled`` of a function that multiplies one group."""

    @machine_code
    def multiply_groups(total, q, packed, scales, record, starts, offset):
        """Add groups in turn: weights ``16 * group`` bytes apart, scales 64 bytes."""
        for g in range(groups):
            total = multiply(
                total, q, packed + 16 * group * g, scales + 64 * g, record, starts,
                offset + group * g,
            )  # fmt: skip
        return total

    return multiply_groups


@machine_code
def _identity(x):
    return x


def _vnni(lanes: int, tokens: tuple[int, int]) -> TileOps:
    """Return the operations of a CPU with ``vpdpbusd`` for vectors of ``lanes`` rows."""
    numbers, bytes_, shorts = (
        Vector("i32", lanes),
        Vector("i8", 4 * lanes),
        Vector("i16", 2 * lanes),
    )

    def instruction(name: str, n_groups: int):
        """Return ``multiplier``'s ``add``, which calls ``name`` ``n_groups`` times a row."""
        llvm_name = f"llvm.x86.avx512.{name}.{32 * lanes}"

        def add(builder, factors, totals, scales):
            """Add to the totals or, if there are scales, by way of sums that begin at zero."""
            sums = totals
            if scales:
                scales = [*scales]
                sums = [ir.Constant(numbers.ir(), [0] * lanes)] * len(totals)
            for k in range(n_groups):
                for i, w, x in factors.each(k):
                    sums[i] = call_llvm(builder, llvm_name, numbers.ir(), [sums[i], w, x])
            if not scales:
                return sums
            return [
                builder.add(total, builder.mul(one, scales[i % len(scales)]))
                for i, (total, one) in enumerate(zip(totals, sums, strict=True))
            ]

        return add

    def products(n: int, largest: int):
        """Return ``TileOps.products``: one ``vpdpbusd`` for four weights, bytes of any size."""
        return multiplier(instruction("vpdpbusd", n // 4), bytes_)

    def scaled(group: int, groups: int, largest: int):
        """Return ``TileOps.scaled``: ``vpdpbusd`` through a group, then a 32-bit multiplication."""
        multiply = multiplier(instruction("vpdpbusd", group // 4), bytes_, is_scaled=True)
        return _by_group(multiply, group, groups)

    def pairs(n: int):
        """Return ``TileOps.pairs``: one ``vpdpwssd`` for each pair."""
        return multiplier(instruction("vpdpwssd", n), shorts)

    return TileOps(
        tokens, usual_beside(tokens[1]), True, zeros("i32", lanes), zeros("f32", lanes),
        splat_sums(lanes), _identity, products, scaled, None, None, by_pshufb(32), pairs,
    )  # fmt: skip


# -- NEON ------------------------------------------------------------------------------------------


def _sdot(n_groups: int):
    """Return the adding of products of bytes, four rows after four, each with all tokens.

    Four activations are a lane of the sixteen that were loaded, chosen by the instruction. Products
    that are to be scaled take one register a token this way, and no second tile.

    Args:
        n_groups: How often four weights of a row are multiplied.
    """

    def add(builder, factors, totals, scales):
        """Take four rows at a time over all tokens, whose sums stay in registers meanwhile."""
        tokens = [factors.four(k) for k in range(0, n_groups, 4)]
        for i, scale in enumerate(scales or [None] * factors.per_token):
            indices = range(i, len(totals), factors.per_token)
            sums = [neon.zeros_ir() if scale else totals[index] for index in indices]
            for k in range(n_groups):
                w = factors.row(i, k)
                for t, x in enumerate(tokens[k // 4]):
                    sums[t] = neon.sdot(builder, sums[t], w, _repeat_lane(builder, x, k % 4))
            for index, one in zip(indices, sums, strict=True):
                scaled = builder.add(totals[index], builder.mul(one, scale)) if scale else one
                totals[index] = scaled
        return totals

    return add


def _repeat_lane(builder, vector, lane: int):
    """Return 32 bits of sixteen bytes, four times."""
    quads = builder.bitcast(vector, Vector("i32", 4).ir())
    return builder.bitcast(pick(builder, quads, [lane] * 4), vector.type)


def _pairs_neon(n: int):
    """Multiply even and odd 16-bit factors of four rows, each with a lane of a token's."""
    short = ir.VectorType(ir.IntType(16), 4)

    def halves(builder, row, number):
        """Return even and odd lanes.

        As parts of 32-bit numbers: from lanes LLVM makes loads that take them apart (``ld2``), does
        all of those first, and spills what they load.
        """
        both = builder.bitcast(row, number)
        odd = builder.lshr(both, ir.Constant(number, [16] * 4))
        return builder.trunc(both, short), builder.trunc(odd, short)

    def add(builder, factors, totals, scales):
        """Add two ``smull`` for each pair: of even factors, and of odd ones."""
        for k in range(n):
            tokens = factors.four(k // 4 * 4)
            for i in range(factors.per_token):
                pair = halves(builder, factors.row(i, k), totals[0].type)
                for t, x in enumerate(tokens):
                    index = factors.per_token * t + i
                    for which, one in enumerate(pair):
                        lane = pick(builder, x, [2 * (k % 4) + which] * 4)
                        product = neon.smull(builder, one, lane)
                        totals[index] = builder.add(totals[index], product)
        return totals

    return multiplier(add, Vector("i16", 8))


def _dotprod() -> TileOps:
    bytes_ = Vector("i8", 16)

    def signed(n: int, largest: int):
        """Return ``TileOps.products`` and ``signed``, which are one here: ``sdot`` is signed."""
        return multiplier(_sdot(n // 4), bytes_)

    def scaled(group: int, groups: int, largest: int):
        """Return ``TileOps.scaled`` and ``signed_scaled``, which are one here."""
        multiply = multiplier(_sdot(group // 4), bytes_, is_scaled=True)
        return _by_group(multiply, group, groups)

    @machine_code
    def is_usual(n_left):
        """Return whether two tokens pass; the last one of an odd number passes alone."""
        return n_left > 1  # two tokens' sums, as integers and as floats, are 32 registers

    return TileOps(
        (2, 1), is_usual, True, zeros("i32", 4), zeros("f32", 4), splat_sums(4),
        _identity, signed, scaled, signed, scaled, by_tbl(), _pairs_neon,
    )  # fmt: skip


def ops_of(isa: str) -> TileOps:
    """Return the operations of an instruction set of ``cpu.ISAS``."""
    if isa == "avx512vnni":
        return _vnni(16, (6, 4))
    if isa == "dotprod":
        return _dotprod()
    return _vnni(8, (3, 2)) if isa == "avxvnni" else avx2_ops()
