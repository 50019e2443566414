"""Operations on 512-bit vectors, beyond those of ``simd``.

Needs AVX512-VNNI, but for what loads and what adds up: ``x256_rows`` uses that, too, and LLVM cuts
its wide vectors to the CPU's.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gguf_hub.run.kernels.build.cpu import is_compiled_for
from gguf_hub.run.kernels.simd.simd_memory import loader
from gguf_hub.run.kernels.simd.simd_sums import add_neighbours
from gguf_hub.run.kernels.simd.vectors import (
    Vector,
    call_llvm,
    f32x8,
    i8x16,
    i8x32,
    i8x64,
    i16x8,
    i16x16,
    i16x32,
    i32,
    i32x8,
    i32x16,
    instruction,
    pick,
    pointer_to,
    shuffle,
    splat,
)

f16x8_ir = ir.VectorType(ir.HalfType(), 8)
load_i8x64 = loader(i8x64)
load_i16x16_at = loader(i16x16)
"""Sixteen int16 at a byte offset of a byte array."""
load_i16x8_at = loader(i16x8)
"""Eight int16 at a byte offset of a byte array."""
load_i32x8_at = loader(i32x8)
"""Eight int32 at a byte offset of a byte array."""


@intrinsic
def zeros_i32x16(typingctx):
    """Return sixteen zeros."""

    def _codegen(context, builder, sig, args):
        return ir.Constant(i32x16.ir(), [0] * 16)

    return i32x16(), _codegen


dpbusd = instruction("llvm.x86.avx512.vpdpbusd.512", i32x16, i8x64, i8x64, result=i32x16)
"""Add four products of bytes (unsigned x signed) to each 32-bit lane."""
dpwssd = instruction("llvm.x86.avx512.vpdpwssd.512", i32x16, i16x32, i16x32, result=i32x16)
"""Add two products of 16-bit numbers to each 32-bit lane."""
maddubs = instruction("llvm.x86.avx512.pmaddubs.w.512", i8x64, i8x64, result=i16x32)
"""Multiply bytes (unsigned x signed) and add neighbours, saturating."""
permute = instruction("llvm.x86.avx512.permvar.hi.512", i16x32, i16x32, result=i16x32)
"""Return lanes of the first vector, chosen by those of the second."""


@intrinsic
def twice(typingctx, value):
    """Return an i8x32 side by side with itself."""

    def _codegen(context, builder, sig, args):
        return pick(builder, args[0], list(range(32)) * 2)

    return i8x64(i8x32), _codegen


@intrinsic
def right(typingctx, value, a, b, c, d):
    """Shift the bits of an i8x64 right, each quarter by its own number; mask the bytes after it."""
    int64 = types.int64

    def _codegen(context, builder, sig, args):
        amounts = ir.Constant(i32x16.ir(), ir.Undefined)
        for lane in range(16):
            amount = builder.trunc(args[1 + lane // 4], ir.IntType(32))
            amounts = builder.insert_element(amounts, amount, i32(lane))
        shifted = builder.lshr(builder.bitcast(args[0], i32x16.ir()), amounts)
        return builder.bitcast(shifted, i8x64.ir())

    return i8x64(i8x64, int64, int64, int64, int64), _codegen


def bits_of(width: int, to_bit: int = 0, *, has_gfni: bool | None = None):
    """Return a function that takes bits out of bytes, ``(value, a, b, c, d)``.

    It returns for each byte of the first quarter of an i8x64 its ``width`` bits from bit ``a`` on,
    moved to bit ``to_bit``, with zeros around; of the other quarters from ``b``, ``c``, ``d`` on.

    With GFNI that is one instruction, a product of bit matrices: row 7 - i of the matrix, a byte,
    says which bit of the input becomes bit i. Taking them from one bit further up shifts every row.
    """
    int64 = types.int64
    rows = sum(1 << (8 * (7 - i) + i - to_bit) for i in range(to_bit, to_bit + width))
    mask = (1 << width) - 1

    def by_matrix(builder, value, amounts):
        """Emit one ``vgf2p8affineqb``, its eight matrices shifted by ``amounts``, <8 x i64>."""
        matrix = ir.Constant(ir.VectorType(ir.IntType(64), 8), [rows] * 8)
        matrix = builder.bitcast(builder.shl(matrix, amounts), i8x64.ir())
        name = "llvm.x86.vgf2p8affineqb.512"
        return call_llvm(builder, name, i8x64.ir(), [value, matrix, ir.Constant(ir.IntType(8), 0)])

    def by_shifts(builder, value, amounts):
        """Emit two shifts of <8 x i64> and a mask between them: without GFNI."""
        words = builder.lshr(builder.bitcast(value, amounts.type), amounts)
        words = builder.and_(words, ir.Constant(amounts.type, [mask * 0x0101010101010101] * 8))
        return builder.bitcast(
            builder.shl(words, ir.Constant(amounts.type, [to_bit] * 8)), i8x64.ir()
        )

    @intrinsic
    def bits(typingctx, value, a, b, c, d):
        def _codegen(context, builder, sig, args):
            amounts = ir.Constant(ir.VectorType(ir.IntType(64), 8), ir.Undefined)
            for lane in range(8):
                amounts = builder.insert_element(amounts, args[1 + lane // 2], i32(lane))
            use_gfni = is_compiled_for("gfni") if has_gfni is None else has_gfni
            return (by_matrix if use_gfni else by_shifts)(builder, args[0], amounts)

        return i8x64(i8x64, int64, int64, int64, int64), _codegen

    return bits


@intrinsic
def widened(typingctx, value):
    """Return the lanes of a vector and as many that are undefined, as ``permute`` takes them."""
    wide = Vector(value.element, 32)

    def _codegen(context, builder, sig, args):
        undefined = ir.Constant(value.ir(), ir.Undefined)
        lanes = [*range(value.lanes), *[value.lanes] * (32 - value.lanes)]
        return shuffle(builder, args[0], undefined, lanes)

    return wide(value), _codegen


def _lane_numbers(repeats: int):
    @intrinsic
    def numbers(typingctx, first):
        def _codegen(context, builder, sig, args):
            start = splat(builder, builder.trunc(args[0], ir.IntType(16)), i16x32)
            steps = ir.Constant(i16x32.ir(), [lane // repeats for lane in range(32)])
            return builder.add(start, steps)

        return i16x32(types.int64), _codegen

    return numbers


halves_from = _lane_numbers(16)
"""Sixteen times ``first``, then sixteen times the next number."""
quarters_from = _lane_numbers(8)
"""Eight times ``first``, then eight times each of the three next numbers."""


def _words(builder, value, amounts, masks):
    """Shift the 32-bit words of a vector right, each by its own number, then mask each."""
    count = len(amounts)
    words = builder.bitcast(value, ir.VectorType(ir.IntType(32), count))
    words = builder.lshr(words, ir.Constant(words.type, amounts))
    return builder.and_(words, ir.Constant(words.type, masks))


def _six_bits(first: bool):
    """Return a function that reads the header of a block of Q4_K or Q5_K, sixteen bytes."""
    lanes = [*range(4), *range(8, 12)] if first else [*range(4, 8), *range(12, 16)]

    @intrinsic
    def numbers(typingctx, header):
        def _codegen(context, builder, sig, args):
            six, four, two = 0x3F3F3F3F, 0x0F0F0F0F, 0x30303030
            low = pick(builder, args[0], [*range(4, 12), *range(12, 16), *range(12, 16)])
            top = pick(builder, args[0], [*range(8), *range(4, 12)])
            low = _words(builder, low, [0, 0, 0, 4], [six, six, four, four])
            top = _words(builder, top, [2] * 4, [0, 0, two, two])
            both = builder.bitcast(builder.or_(low, top), i8x16.ir())
            return builder.zext(pick(builder, both, lanes), i16x8.ir())

        return i16x8(i8x16), _codegen

    return numbers


scales_of_k4, minima_of_k4 = _six_bits(True), _six_bits(False)
"""Eight 6-bit scales, eight 6-bit minima of the first sixteen bytes of a block of Q4_K or Q5_K.

Behind two halves, four bytes hold scales 0-3 in their low six bits, the next four minima 0-3; the
last four hold the low nibbles of scales 4-7 and, above, of minima 4-7, whose two high bits are the
two high bits of the eight bytes before.
"""


@intrinsic
def scales_of_q3(typingctx, tail):
    """Return the sixteen 6-bit scales of Q3_K, less 32, of the last sixteen bytes of a block.

    Twelve bytes from the third on: low nibbles of scales 0-7 below, of 8-15 above, in the first
    eight; byte 8 + j % 4 has two more bits for each of the scales j, j + 4, j + 8, j + 12.
    """

    def _codegen(context, builder, sig, args):
        low = pick(builder, args[0], [*range(2, 10)] * 2)
        low = _words(builder, low, [0, 0, 4, 4], [0x0F0F0F0F] * 4)
        top = pick(builder, args[0], [*range(10, 14)] * 4)
        top = _words(builder, top, [0, 2, 4, 6], [0x03030303] * 4)
        both = builder.or_(low, builder.shl(top, ir.Constant(top.type, [4] * 4)))
        scales = builder.bitcast(both, i8x16.ir())
        return builder.sub(scales, ir.Constant(i8x16.ir(), [32] * 16))

    return i8x16(i8x16), _codegen


def _of_pairs(type_size: int, make):
    """Return four functions ``(w, p)`` of two blocks each, of the eight that begin at ``p``.

    One load gets both blocks; only bytes of the eight are read.

    Args:
        type_size: Bytes of a block, up to 24.
        make: ``(builder, bytes, first, second)``: the result, given the i8x64 that was loaded and
            where in it the blocks begin.
    """

    def function_of(pair: int):
        """Return the load for blocks ``2 pair`` and ``2 pair + 1`` of the eight."""
        first = 2 * pair * type_size
        start = min(first, 8 * type_size - 64)

        @intrinsic
        def load(typingctx, w, p):
            """Return what ``make`` makes of the 64 bytes that hold both blocks."""

            def _codegen(context, builder, sig, args):
                offset = builder.add(args[1], ir.Constant(args[1].type, start))
                pointer = pointer_to(context, builder, sig.args[0], args[0], offset, i8x64.ir())
                bytes_ = builder.load(pointer, align=1)
                return make(builder, bytes_, first - start, first - start + type_size)

            return i8x64(w, types.int64), _codegen

        return load

    return tuple(function_of(pair) for pair in range(4))


def pairs_twice(type_size: int, at: int):
    """Return what loads sixteen bytes at ``at`` of two blocks, each of them twice.

    See ``_of_pairs``.
    """

    def make(builder, bytes_, *blocks):
        lanes = [block + at + lane for block in blocks for _ in range(2) for lane in range(16)]
        return pick(builder, bytes_, lanes)

    return _of_pairs(type_size, make)


def pairs_of_bits(type_size: int, at: int, ones: int):
    """Return what spreads 32 bits at ``at`` of two blocks over 64 lanes: ``ones`` where one is set.

    See ``_of_pairs``.
    """

    def make(builder, bytes_, *blocks):
        lanes = [block + at + bit // 8 for block in blocks for bit in range(32)]
        bits = ir.Constant(i8x64.ir(), [1 << (bit % 8) for bit in range(64)])
        zero = ir.Constant(i8x64.ir(), [0] * 64)
        is_set = builder.icmp_unsigned("!=", builder.and_(pick(builder, bytes_, lanes), bits), zero)
        return builder.select(is_set, ir.Constant(i8x64.ir(), [ones] * 64), zero)

    return _of_pairs(type_size, make)


def halves_of_eight(type_size: int, at: int):
    """Return a function ``(w, p)`` that widens one half of each of eight blocks to float32.

    Args:
        type_size: Bytes of a block, 16 to 64; the eight begin at ``p``.
        at: Where in a block the half lies. Only bytes of the eight blocks are read.
    """
    offsets = [at + type_size * i for i in range(8)]

    @intrinsic
    def load(typingctx, w, p):
        def _codegen(context, builder, sig, args):
            result, n_done = None, 0
            while n_done < 8:
                start = min(offsets[n_done], 8 * type_size - 64)
                inside = [half for half in offsets[n_done:] if half + 2 <= start + 64]
                offset = builder.add(args[1], ir.Constant(args[1].type, start))
                pointer = pointer_to(context, builder, sig.args[0], args[0], offset, i16x32.ir())
                halves = builder.load(pointer, align=1)
                lanes = [*range(n_done), *(32 + (half - start) // 2 for half in inside)]
                lanes += [0] * (32 - len(lanes))
                result = shuffle(builder, result or halves, halves, lanes)
                n_done += len(inside)
            eight = builder.bitcast(pick(builder, result, range(8)), f16x8_ir)
            return builder.fpext(eight, f32x8.ir())

        return f32x8(w, types.int64), _codegen

    return load


# -- adding up ------------------------------------------------------------------------------------


@intrinsic
def sum_of(typingctx, vector):
    """Return the sum of the integers of a vector."""

    def _codegen(context, builder, sig, args):
        name = f"llvm.vector.reduce.add.v{vector.lanes}i32"
        return call_llvm(builder, name, ir.IntType(32), args)

    return types.int32(vector), _codegen


def bytes_of_eight(type_size: int):
    """Return a function ``(w, p)`` that widens the first byte of eight blocks to 32 bits.

    Args:
        type_size: Bytes of a block, 16 to 21; the eight begin at ``p``.
    """
    offsets = [type_size * i for i in range(4)]

    @intrinsic
    def load(typingctx, w, p):
        def _codegen(context, builder, sig, args):
            fours = []
            for first in (0, 4 * type_size):
                offset = builder.add(args[1], ir.Constant(args[1].type, first))
                pointer = pointer_to(context, builder, sig.args[0], args[0], offset, i8x64.ir())
                fours.append(builder.load(pointer, align=1))
            eight = shuffle(builder, *fours, [*offsets, *(64 + offset for offset in offsets)])
            return builder.zext(eight, i32x8.ir())

        return i32x8(w, types.int64), _codegen

    return load


@intrinsic
def halves_of_two(typingctx, a, b):
    """Return the first eight lanes of ``a`` plus its last eight, then the same of ``b``."""

    def _codegen(context, builder, sig, args):
        def side_by_side(lanes):
            return shuffle(builder, *args, [*lanes, *[16 + lane for lane in lanes]])

        return builder.add(side_by_side(range(8)), side_by_side(range(8, 16)))

    return i32x16(i32x16, i32x16), _codegen


@intrinsic
def with_zeros(typingctx, value):
    """Return an i32x4 and four zeros behind it."""

    def _codegen(context, builder, sig, args):
        zeros = ir.Constant(value.ir(), [0] * 4)
        return shuffle(builder, args[0], zeros, range(8))

    return i32x8(value), _codegen


@intrinsic
def filled_to(typingctx, like, value):
    """Return a vector and zeros behind it, as many lanes as ``like`` has."""

    def _codegen(context, builder, sig, args):
        zeros = ir.Constant(value.ir(), [0] * value.lanes)
        lanes = [min(lane, value.lanes) for lane in range(like.lanes)]
        return shuffle(builder, args[1], zeros, lanes)

    return like(like, value), _codegen


@intrinsic
def splat_halves(typingctx, value, pair):
    """Return eight times lane ``2 * pair`` of an i16x8 as int32, then eight times the next lane."""

    def _codegen(context, builder, sig, args):
        wide = builder.sext(args[0], i32x8.ir())
        first = builder.shl(args[1], ir.Constant(args[1].type, 1))
        lanes = first, builder.add(first, ir.Constant(args[1].type, 1))
        low, high = (splat(builder, builder.extract_element(wide, lane), i32x8) for lane in lanes)
        return shuffle(builder, low, high, range(16))

    return i32x16(i16x8, types.int64), _codegen


@intrinsic
def first_half(typingctx, value):
    """Return the first eight lanes."""

    def _codegen(context, builder, sig, args):
        return pick(builder, args[0], range(8))

    return i32x8(i32x16), _codegen


@intrinsic
def shift_in(typingctx, vector, value):
    """Move the lanes of a vector down by one and put ``value`` into the last."""
    scalar = types.float32 if vector.is_float else types.int32

    def _codegen(context, builder, sig, args):
        last = builder.insert_element(ir.Constant(vector.ir(), ir.Undefined), args[1], i32(0))
        return shuffle(builder, args[0], last, range(1, vector.lanes + 1))

    return vector(vector, scalar), _codegen


@intrinsic
def with_lane(typingctx, vector, lane, value):
    """Return a vector with another number in a lane."""
    scalar = types.float32 if vector.is_float else types.int32

    def _codegen(context, builder, sig, args):
        return builder.insert_element(args[0], args[2], args[1])

    return vector(vector, types.int64, scalar), _codegen


@intrinsic
def sums_of_eight(typingctx, a, b, c, d):
    """Add up each half of four vectors: the sums of a's halves, b's halves and so on.

    Halves have eight lanes, or four.
    """
    n = a.lanes

    def _codegen(context, builder, sig, args):
        # four lanes at a time: a0+a1 a2+a3 b0+b1 b2+b3, then all of a, b, c, d
        ab, cd = add_neighbours(builder, *args[:2]), add_neighbours(builder, *args[2:])
        quarters = add_neighbours(builder, ab, cd)
        first = [lane + n // 2 * half for lane in range(4) for half in range(2)]
        if n == 8:
            return pick(builder, quarters, first)
        return builder.add(
            pick(builder, quarters, first), pick(builder, quarters, [lane + 4 for lane in first])
        )

    return i32x8(a, a, a, a), _codegen


@intrinsic
def add_lanes(typingctx, total, lanes):
    """Add eight floats to ``total``, one after another, the first lane first."""

    def _codegen(context, builder, sig, args):
        total = args[0]
        for lane in range(8):
            total = builder.fadd(total, builder.extract_element(args[1], i32(lane)))
        return total

    return types.float32(types.float32, f32x8), _codegen
