"""Integer products of one row with one token, by what instructions the CPU has.

All are exact: bytes of weights times signed activations, -127 to 127, and 32 weights at a time.

* AVX2 adds two neighbouring products to 16 bits, which saturate: unsigned weights are small enough
  for that, of signed ones the signs go over to the activations.
* NEON's ``sdot`` adds four products of signed bytes to each 32-bit lane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gguf_hub.run.kernels.simd import neon
from gguf_hub.run.kernels.simd.simd import (
    bits_i8x32,
    madd,
    maddubs,
    sign,
    splat_i16x16,
    splat_i32x8,
    splat_lane,
    splat_lane_pair,
    twice_in_halves,
)
from gguf_hub.run.kernels.simd.simd_lookup import by_pshufb, by_tbl
from gguf_hub.run.kernels.simd.simd_memory import load_i8x16, load_i8x32
from gguf_hub.run.kernels.simd.vectors import machine_code


@dataclass(frozen=True)
class RowOps:
    """Compiled operations that multiply rows on a CPU.

    ``weights`` are i8x32, which meet the activations at ``q[at:]``. Results have as many 32-bit
    lanes as suit the CPU: only their sum counts.

    Attributes:
        zeros: ``()``: sums to begin with.
        unsigned: ``(weights, q, at)``: the products of weights from 0 to 127.
        signed: As ``unsigned``, for weights from -128 to 127.
        add_scaled: ``(sums, weights, q, at, scales, k)``: add products of weights from 0 to 127,
            times scale ``k``.
        add_scaled_halves: As ``add_scaled``, sixteen products times scale ``2 k``, sixteen times
            scale ``2 k + 1``.
        add_scaled_signed: As ``add_scaled``, for weights from -127 to 127.
        scales: ``(scales)``: eight or sixteen 16-bit scales in the form that these take; where
            they are unsigned bytes that were widened, ``add_scaled`` takes them as they are.
        pairs: ``(a, b)``: the products of 16-bit numbers.
        bits: ``(value, ones)``: 32 bits spread over an i8x32, ``ones`` where one is set.
        lookup: A function of sixteen int8, see ``simd_lookup``.
        adds_in_16_bits: Whether products of bytes are 16-bit sums of two: AVX2's are.
    """

    zeros: Callable
    unsigned: Callable
    signed: Callable
    add_scaled: Callable
    add_scaled_halves: Callable
    add_scaled_signed: Callable
    scales: Callable
    pairs: Callable
    bits: Callable
    lookup: Callable
    adds_in_16_bits: bool


def _avx2() -> RowOps:
    @machine_code
    def zeros():
        """Return an i32x8 of zeros."""
        return splat_i32x8(0)

    @machine_code
    def unsigned(weights, q, at):
        """Return an i32x8, by ``vpmaddubsw`` and ``vpmaddwd`` with ones."""
        return madd(maddubs(weights, load_i8x32(q, at)), splat_i16x16(1))

    @machine_code
    def signed(weights, q, at):
        """As ``unsigned``, of magnitudes; activations take the weights' signs (``vpsignb``)."""
        products = maddubs(sign(weights, weights), sign(load_i8x32(q, at), weights))
        return madd(products, splat_i16x16(1))

    @machine_code
    def add_scaled(sums, weights, q, at, scales, k):
        """Add an i32x8: ``vpmaddwd`` multiplies the 16-bit sums with scale ``k``."""
        scale = splat_lane(scales, k)
        return sums + madd(maddubs(weights, load_i8x32(q, at)), scale)

    @machine_code
    def add_scaled_halves(sums, weights, q, at, scales, k):
        """As ``add_scaled``; each half of the register has a scale of its own."""
        scale = splat_lane_pair(scales, k)
        return sums + madd(maddubs(weights, load_i8x32(q, at)), scale)

    @machine_code
    def add_scaled_signed(sums, weights, q, at, scales, k):
        """As ``add_scaled``, of magnitudes, like ``signed``."""
        products = maddubs(sign(weights, weights), sign(load_i8x32(q, at), weights))
        return sums + madd(products, splat_lane(scales, k))

    return RowOps(
        zeros, unsigned, signed, add_scaled, add_scaled_halves, add_scaled_signed, twice_in_halves,
        madd, bits_i8x32, by_pshufb(32), True,
    )  # fmt: skip


def _dotprod() -> RowOps:
    dot, lane, low, high = neon.dot, neon.splat_lane, neon.first_half, neon.last_half

    @machine_code
    def same(scales):
        """Return the scales as they are: a lane of them is picked where it is used."""
        return scales

    @machine_code
    def products(weights, q, at):
        """Return an i32x4, by two ``sdot``, unsigned and signed weights alike."""
        return dot(weights, load_i8x32(q, at))

    @machine_code
    def add_scaled(sums, weights, q, at, scales, k):
        """Add an i32x4: two ``sdot``, times scale ``k``."""
        return sums + dot(weights, load_i8x32(q, at)) * lane(scales, k)

    @machine_code
    def add_scaled_halves(sums, weights, q, at, scales, k):
        """Add an i32x4: a ``sdot`` of each sixteen, times scales ``2 k`` and ``2 k + 1``."""
        sums = sums + dot(low(weights), load_i8x16(q, at)) * lane(scales, 2 * k)
        return sums + dot(high(weights), load_i8x16(q, at + 16)) * lane(scales, 2 * k + 1)

    return RowOps(
        neon.zeros, products, products, add_scaled, add_scaled_halves, add_scaled, same, neon.pairs,
        neon.bits, by_tbl(), False,
    )  # fmt: skip


def ops_of(isa: str) -> RowOps:
    """Return the operations of an instruction set of ``cpu.ISAS``, but AVX-512's."""
    return _dotprod() if isa == "dotprod" else _avx2()
