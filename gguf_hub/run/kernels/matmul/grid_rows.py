"""Weights, signs and scales of a block of IQ2 or IQ3, as vectors; see ``coded_256`` for layouts.

Each type is three functions ``(w, p)`` of the block at ``p``: its codes, its 256 signs as an
i8x32 (bit n of byte i is that of weight 8 i + n), and its scales as eight or sixteen int16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from gguf_hub.gguf.types import QuantType as T
from gguf_hub.run.kernels.generic import grids
from gguf_hub.run.kernels.simd import simd
from gguf_hub.run.kernels.simd.simd512 import load_i8x64
from gguf_hub.run.kernels.simd.simd_grids import eights_of, fours_of, negated
from gguf_hub.run.kernels.simd.simd_memory import load_i8x32, load_u32, loader
from gguf_hub.run.kernels.simd.vectors import (
    Vector,
    i8x16,
    i8x32,
    i8x64,
    i16x8,
    i16x16,
    i16x32,
    i32x8,
    i32x16,
    machine_code,
    pick,
)

i8x8 = Vector("i8", 8)
_load_i8x8 = loader(i8x8)
_load_i16x32 = loader(i16x32)
_load_i32x8 = loader(i32x8)
_load_i32x16 = loader(i32x16)


@dataclass(frozen=True)
class GridType:
    """How a block of a type is read.

    Attributes:
        magnitudes: ``(w, p)``: its 256 magnitudes plus ``grids.OFFSET``, as four i8x64.
        signs: ``(w, p)``: an i8x32.
        scales: ``(w, p)``: an i16x8 or i16x16.
    """

    magnitudes: Callable
    signs: Callable
    scales: Callable

    @property
    def begin(self) -> Callable:
        """``(w, p)``: what ``sixty_four`` takes as ``begun``."""
        magnitudes, signs = self.magnitudes, self.signs

        @machine_code
        def begin(w, p):
            return magnitudes(w, p), signs(w, p)

        return begin


@machine_code
def sixty_four(w, p, i, begun):
    """Return weights 64 i ... 64 i + 63 of a block, plus the offset, as an i8x64."""
    magnitudes, signs = begun
    return negated(magnitudes[i], signs, i)


def thirty_two_of(eight: Callable) -> Callable:
    """Return ``(w, p, k, signs)``: weights 32 k ... 32 k + 31 of a block, loaded by eights."""

    @machine_code
    def thirty_two(w, p, k, signs):
        first, _ = eight(w, p, 4 * k)
        second, _ = eight(w, p, 4 * k + 1)
        third, _ = eight(w, p, 4 * k + 2)
        fourth, _ = eight(w, p, 4 * k + 3)
        return negated(simd.i8x32_of(first, second, third, fourth), signs, k)

    return thirty_two


# -- signs -----------------------------------------------------------------------------------------


def _converter(source: Vector, target: Vector, operation: str) -> Callable:
    @intrinsic
    def convert(typingctx, value):
        def codegen(context, builder, sig, args):
            return getattr(builder, operation)(args[0], target.ir())

        return target(source), codegen

    return convert


_narrow_32 = _converter(i16x32, i8x32, "trunc")
_narrow_8 = _converter(i32x8, i16x8, "trunc")
_widen_32 = _converter(i8x32, i16x32, "zext")
_as_sixteen = _converter(i16x8, i8x16, "bitcast")
_as_bytes = _converter(i16x16, i8x32, "bitcast")
_as_halves = _converter(i32x8, i16x16, "bitcast")


@intrinsic
def _first_eight(typingctx, value):
    def codegen(context, builder, sig, args):
        return pick(builder, args[0], range(8))

    return i8x8(i8x16), codegen


@machine_code
def _with_eighth(seven):
    """Add the eighth sign to the seven of each byte: the number of negative weights is even."""
    parity = seven ^ (seven >> 4)
    parity = parity ^ (parity >> 2)
    parity = parity ^ (parity >> 1)
    return seven | ((parity & 0x0101) << 7)


@machine_code
def _signs_of_words(words):
    """Return the signs of eight words that hold seven four times, and four bits above."""
    first, second = words & 0x7F, (words << 1) & 0x7F00
    third, fourth = (words << 2) & 0x7F0000, (words << 3) & 0x7F000000
    return _as_bytes(_with_eighth(_as_halves(first | second | third | fourth)))


def _signs_at(first: int) -> Callable:
    @machine_code
    def signs(w, p):
        return load_i8x32(w, p + first)

    return signs


# -- scales ----------------------------------------------------------------------------------------


@machine_code
def _odd_bytes(packed):
    """Return 2 n + 1 of each nibble of eight bytes, low ones first, as an i8x16."""
    pairs = simd.i16x8_from_u8(packed)
    nibbles = (pairs | (pairs << 4)) & 0x0F0F
    return _as_sixteen((nibbles << 1) | 0x0101)


def _eight_nibbles_at(first: int) -> Callable:
    @machine_code
    def scales(w, p):
        packed = simd.i8x8_of(np.uint64(load_u32(w, p + first)))
        return simd.i16x8_from_i8(_first_eight(_odd_bytes(packed)))

    return scales


def _sixteen_nibbles_at(first: int) -> Callable:
    @machine_code
    def scales(w, p):
        return simd.i16x16_from_i8(_odd_bytes(_load_i8x8(w, p + first)))

    return scales


@machine_code
def _scales_of_words(words):
    """Return 2 n + 1 of the highest nibble of each of eight words."""
    top = _narrow_8(words >> 28)
    return (top << 1) | 1


# -- types -----------------------------------------------------------------------------------------


def _iq2_xxs() -> GridType:
    eights = eights_of(grids.IQ2_XXS)

    @intrinsic
    def grid_bytes(typingctx, value):
        """Four bytes of each eight, widened."""

        def codegen(context, builder, sig, args):
            as_bytes = builder.bitcast(args[0], i8x64.ir())
            lanes = [8 * k + i for k in range(8) for i in range(4)]
            return builder.zext(pick(builder, as_bytes, lanes), i16x32.ir())

        return i16x32(i32x16), codegen

    @intrinsic
    def sign_words(typingctx, value):
        """The other four bytes of each eight."""

        def codegen(context, builder, sig, args):
            return pick(builder, args[0], range(1, 16, 2))

        return i32x8(i32x16), codegen

    @machine_code
    def magnitudes(w, p):
        return eights(grid_bytes(_load_i32x16(w, p + 2)))

    @machine_code
    def signs(w, p):
        return _signs_of_words(sign_words(_load_i32x16(w, p + 2)))

    @machine_code
    def scales(w, p):
        return _scales_of_words(sign_words(_load_i32x16(w, p + 2)))

    return GridType(magnitudes, signs, scales)


def _iq2_xs() -> GridType:
    eights = eights_of(grids.IQ2_XS)

    @machine_code
    def magnitudes(w, p):
        return eights(_load_i16x32(w, p + 2) & 511)

    @machine_code
    def signs(w, p):
        return _narrow_32(_with_eighth(_load_i16x32(w, p + 2) >> 9))

    return GridType(magnitudes, signs, _sixteen_nibbles_at(66))


def _iq2_s() -> GridType:
    eights = eights_of(grids.IQ2_S)

    @intrinsic
    def two_bits(typingctx, value):
        """The 32 pairs of bits of eight bytes, as bits 8 and 9."""

        def codegen(context, builder, sig, args):
            each = builder.zext(pick(builder, args[0], [c // 4 for c in range(32)]), i16x32.ir())
            amounts = ir.Constant(i16x32.ir(), [8 - 2 * (c % 4) for c in range(32)])
            mask = ir.Constant(i16x32.ir(), [0x300] * 32)
            return builder.and_(builder.shl(each, amounts), mask)

        return i16x32(i8x8), codegen

    @machine_code
    def magnitudes(w, p):
        low = _widen_32(load_i8x32(w, p + 2))
        return eights(low | two_bits(_load_i8x8(w, p + 66)))

    return GridType(magnitudes, _signs_at(34), _sixteen_nibbles_at(74))


def _iq3_xxs() -> GridType:
    fours = fours_of(grids.IQ3_XXS)

    @machine_code
    def magnitudes(w, p):
        return fours(load_i8x64(w, p + 2), np.uint64(0))

    @machine_code
    def signs(w, p):
        return _signs_of_words(_load_i32x8(w, p + 66))

    @machine_code
    def scales(w, p):
        return _scales_of_words(_load_i32x8(w, p + 66))

    return GridType(magnitudes, signs, scales)


def _iq3_s() -> GridType:
    fours = fours_of(grids.IQ3_S)

    @machine_code
    def magnitudes(w, p):
        low, high = np.uint64(load_u32(w, p + 66)), np.uint64(load_u32(w, p + 70))
        return fours(load_i8x64(w, p + 2), low | high << np.uint64(32))

    return GridType(magnitudes, _signs_at(74), _eight_nibbles_at(106))


GRID_TYPES = {
    T.IQ2_XXS: _iq2_xxs(), T.IQ2_XS: _iq2_xs(), T.IQ2_S: _iq2_s(),
    T.IQ3_XXS: _iq3_xxs(), T.IQ3_S: _iq3_s(),
}  # fmt: skip
