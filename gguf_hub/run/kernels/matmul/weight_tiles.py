"""The weight tile of each weight type: how rows are unpacked, and multiplied with tokens.

What a weight tile is, ``tile_types`` describes. Block layouts: ggml-common.h at ggml c2cdd2b2; the
arithmetic is ours.
"""

from __future__ import annotations

from collections.abc import Callable

from gguf_hub.run.kernels.matmul.tile_ops import TileOps
from gguf_hub.run.kernels.matmul.tile_types import (
    WeightTileType,
    by_groups,
    small,
    store_pair,
)
from gguf_hub.run.kernels.simd.simd_columns import (
    load_columns,
    load_columns_i32x64,
    load_halves,
    load_words,
    low_halves,
    negate,
    repeat_four,
    signed_byte,
    splat_i32x16,
    spread_bits,
)
from gguf_hub.run.kernels.simd.simd_tiles import add_floats, store_packed
from gguf_hub.run.kernels.simd.vectors import machine_code

_LOW = 0x0F0F0F0F


# -- blocks of 32 ---------------------------------------------------------------------------------


def _q8_0(ops: TileOps) -> WeightTileType:
    """Return the weight tile of Q8_0: bytes are made unsigned where the CPU multiplies such."""
    flip = 0 if ops.signed else 0x80808080

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        """Write 32 bytes a row; turned unsigned, they are 128 too large."""
        for i in range(2):
            x = load_columns_i32x64(w, o + 2 + 16 * i, row_bytes)
            store_packed(q, p + 256 * i, x ^ flip)

    if ops.signed:
        return small(ops, 34, unpack, ops.signed(32, 128))
    return small(ops, 34, unpack, ops.products(32, 255), offset=128)


def _legacy(type_size: int, *, offset: int = 0, has_minimum: bool = False, fifth_bits: int = 0):
    """Return a function of ops: the weight tile of Q4_0, Q4_1, Q5_0 or Q5_1; see ``small``."""
    unpack = _nibbles(type_size - 16, fifth_bits)

    def tile_type(ops: TileOps) -> WeightTileType:
        """Return the weight tile of the type for a CPU's operations."""
        multiply = ops.products(32, 31 if fifth_bits else 15)
        return small(ops, type_size, unpack, multiply, offset=offset, has_minimum=has_minimum)

    return tile_type


def _nibbles(at: int, fifth_bits: int = 0):
    """Return the unpacking of sixteen bytes of nibbles at ``at``, perhaps with a fifth bit."""

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        """Write low nibbles as weights 0-15 and high ones as 16-31, each perhaps plus 16."""
        x = load_columns_i32x64(w, o + at, row_bytes)
        low, high = x & _LOW, (x >> 4) & _LOW
        if fifth_bits:
            bits = load_words(w, o + fifth_bits, row_bytes)
            low = low | spread_bits(bits, 0)
            high = high | spread_bits(bits, 16)
        store_packed(q, p, low)
        store_packed(q, p + 256, high)

    return unpack


# -- blocks of 256 --------------------------------------------------------------------------------


@machine_code
def _store_minima_k4(q, mins_at, b, c):
    """Write four pairs of minima of Q4_K or Q5_K.

    ``b`` and ``c`` are the last eight of the twelve bytes of ``x256_rows.scales_mins_k4``.
    """
    low = b & 0x3F3F3F3F
    high = ((c >> 4) & _LOW) | (((b >> 6) & 0x03030303) << 4)
    store_packed(q, mins_at, (low & 63) | ((low & 0x3F00) << 8))
    store_packed(q, mins_at + 64, ((low >> 16) & 63) | ((low >> 8) & 0x3F0000))
    store_packed(q, mins_at + 128, (high & 63) | ((high & 0x3F00) << 8))
    store_packed(q, mins_at + 192, ((high >> 16) & 63) | ((high >> 8) & 0x3F0000))


def _q4_or_q5(ops: TileOps, type_size: int, has_fifth_bit: bool) -> WeightTileType:
    zeros_i32, multiply_4_pairs, scale_of = ops.zeros_i32, ops.pairs(4), ops.scale
    multiply_groups = ops.scaled(32, 8, 31 if has_fifth_bit else 15)
    nibbles = type_size - 128
    scales = 4096
    minima = scales + 8 * 64
    d = minima + 4 * 64
    record = d + 2 * 64

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        """Write weights, eight scales, four pairs of minima, d and -dmin of sixteen rows."""
        halves, a, b, c = load_columns(w, o, row_bytes)
        store_packed(q, p + d, low_halves(halves))
        store_packed(q, p + d + 64, negate(low_halves(halves >> 16)))
        for i in range(4):
            store_packed(q, p + scales + 64 * i, scale_of((a >> 8 * i) & 63))
            high = (((a >> 6) >> 8 * i) & 3) << 4
            store_packed(q, p + scales + 64 * (4 + i), scale_of(((c >> 8 * i) & 15) | high))
        _store_minima_k4(q, p + minima, b, c)
        for i in range(2):
            if has_fifth_bit:
                fifth = load_columns_i32x64(w, o + 16 + 16 * i, row_bytes)
            for c in range(4):
                x = load_columns_i32x64(w, o + nibbles + 32 * c + 16 * i, row_bytes)
                even, odd = x & _LOW, (x >> 4) & _LOW
                if has_fifth_bit:
                    even = even | (((fifth >> 2 * c) & 0x01010101) << 4)
                    odd = odd | (((fifth >> (2 * c + 1)) & 0x01010101) << 4)
                store_packed(q, p + 1024 * c + 256 * i, even)
                store_packed(q, p + 1024 * c + 512 + 256 * i, odd)

    @machine_code
    def multiply(total, q, p, qs, f, fs, b, blocks):
        """Add -dmin times minima x sums of 32, then d times scales x products."""
        zeros = zeros_i32(qs)
        sums_at = 256 * blocks + 32 * blocks + 16 * b
        shift = multiply_4_pairs(zeros, q, p + minima, record, qs, sums_at)
        total = add_floats(total, shift, q, p + d + 64, record, f, fs, b)
        sums = multiply_groups(zeros, q, p, p + scales, record, qs, 256 * b)
        return add_floats(total, sums, q, p + d, record, f, fs, b)

    return WeightTileType(256, type_size, record, unpack, multiply)


def _by_sixteens(
    ops: TileOps, type_size: int, unpack_weights: Callable, largest: int, offset: int
) -> WeightTileType:
    multiply_groups = ops.scaled(16, 16, largest)
    return by_groups(ops, type_size, unpack_weights, multiply_groups, group=16, offset=offset)


@machine_code
def _unpack_q6_k(w, o, row_bytes, q, p, store_four):
    for half in range(2):
        for i in range(2):  # sixteen of each 32 weights
            first = load_columns_i32x64(w, o + 64 * half + 16 * i, row_bytes)
            second = load_columns_i32x64(w, o + 64 * half + 32 + 16 * i, row_bytes)
            top = load_columns_i32x64(w, o + 128 + 32 * half + 16 * i, row_bytes)
            to = p + 2048 * half + 256 * i
            store_packed(q, to, (first & _LOW) | ((top << 4) & 0x30303030))
            store_packed(q, to + 512, (second & _LOW) | ((top << 2) & 0x30303030))
            store_packed(q, to + 1024, ((first >> 4) & _LOW) | (top & 0x30303030))
            store_packed(q, to + 1536, ((second >> 4) & _LOW) | ((top >> 2) & 0x30303030))
    four = load_columns(w, o + 192, row_bytes)
    for j in range(4):
        x = four[j]
        scales = (signed_byte(x, 0), signed_byte(x, 1), signed_byte(x, 2), signed_byte(x, 3))
        store_four(q, p, j, scales)
    return load_halves(w, o + 208, row_bytes)


@machine_code
def _columns_q3_k(w, o, row_bytes):
    """Return the 12 bytes of scales of Q3_K as three vectors, and d.

    They are read with two bytes before them that are none of ours: bytes 94 to 109.
    """
    a, b, c, d = load_columns(w, o + 94, row_bytes)
    scales = ((a >> 16) | (b << 16), (b >> 16) | (c << 16), (c >> 16) | (d << 16))
    return scales, low_halves(d >> 16)


@machine_code
def _scale_q3_k(scales, j):
    """Return the scale of group ``j``; see ``x256_rows.scales_q3``."""
    first, second, top = scales
    low = first if j % 8 < 4 else second
    at = 8 * (j % 4)
    scale = ((low >> at + 4 * (j // 8)) & 15) | (((top >> at + 2 * (j // 4)) & 3) << 4)
    return scale - splat_i32x16(32)


@machine_code
def _weights_q3_k(w, o, row_bytes, third, k, i):
    """Return sixteen weights plus 4: those from 32 k + 16 i on."""
    packed = load_columns_i32x64(w, o + 32 + 32 * (k // 4) + 16 * i, row_bytes)
    weights = (packed >> 2 * (k % 4)) & 0x03030303
    return weights | (((third >> k) & 0x01010101) << 2)


@machine_code
def _unpack_q3_k(w, o, row_bytes, q, p, store_four):
    for i in range(2):
        third = load_columns_i32x64(w, o + 16 * i, row_bytes)
        for k in range(8):
            weights = _weights_q3_k(w, o, row_bytes, third, k, i)
            store_packed(q, p + 512 * k + 256 * i, weights)
    columns, d = _columns_q3_k(w, o, row_bytes)
    for j in range(4):
        scales = (
            _scale_q3_k(columns, 4 * j), _scale_q3_k(columns, 4 * j + 1),
            _scale_q3_k(columns, 4 * j + 2), _scale_q3_k(columns, 4 * j + 3),
        )  # fmt: skip
        store_four(q, p, j, scales)
    return d


def _q3_k(ops: TileOps) -> WeightTileType:
    """Return the weight tile of Q3_K.

    (weight - 4) x scale + 124 is within 0 ... 252, as scales are -32 ... 31: one byte, where the
    CPU can multiply such; 128 less, if it multiplies signed ones. Four bytes of a row are
    multiplied as one number: what a byte lends to the next is given back when 124 - 4 x scale is
    added to each.
    """
    if not ops.has_dot:
        return _by_sixteens(ops, 110, _unpack_q3_k, 7, 4)
    record = 4096 + 4 * 64 + 64
    zeros_i32, multiply_4_pairs = ops.zeros_i32, ops.pairs(4)
    multiply_32 = ops.signed(32, 128) if ops.signed else ops.products(32, 252)
    flip, less = (0x80808080, 4) if ops.signed else (0, -124)

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        """Write (weight - 4) x scale + 124, or less 128; what takes that off again; and d."""
        columns, d = _columns_q3_k(w, o, row_bytes)
        for i in range(2):
            third = load_columns_i32x64(w, o + 16 * i, row_bytes)
            for k in range(8):
                weights = _weights_q3_k(w, o, row_bytes, third, k, i)
                scale = _scale_q3_k(columns, 2 * k + i)
                offset = (splat_i32x16(124) - (scale << 2)) * splat_i32x16(0x01010101)
                to = p + 512 * k + 256 * i
                store_packed(q, to, (weights * repeat_four(scale) + repeat_four(offset)) ^ flip)
        for pair in range(4):
            store_pair(q, p + 4096 + 64 * pair, splat_i32x16(less), splat_i32x16(less))
        store_packed(q, p + 4352, d)

    @machine_code
    def multiply(total, q, p, qs, f, fs, b, blocks):
        """Add d times the products; pairs of constants times sums take off what was added."""
        sums_at = 256 * blocks + 32 * blocks + 16 * b
        sums = multiply_4_pairs(zeros_i32(qs), q, p + 4096, record, qs, sums_at)
        for s in range(8):
            sums = multiply_32(sums, q, p + 512 * s, record, qs, 256 * b + 32 * s)
        return add_floats(total, sums, q, p + 4352, record, f, fs, b)

    return WeightTileType(256, 110, record, unpack, multiply)


def _q2_k(ops: TileOps) -> WeightTileType:
    """Return the weight tile of Q2_K.

    Weight x scale is at most 3 x 15: where bytes of any size may be multiplied, that is the byte;
    four bytes of a row are multiplied as one number. Otherwise scales follow after the rest.
    """
    is_folded = ops.has_dot
    minima, d, scales = 4096, 4096 + 8 * 64, 4096 + 10 * 64
    record = scales + (0 if is_folded else 16 * 64)
    zeros_i32, multiply_8_pairs, scale_of = ops.zeros_i32, ops.pairs(8), ops.scale
    multiply_32, multiply_groups = ops.products(32, 45), ops.scaled(16, 16, 3)

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        """Write weights, times scales where folded; minima in eight pairs; d and -dmin."""
        four = load_columns(w, o, row_bytes)
        for j in range(4):
            x = four[j]
            for i in range(2):
                pair = x >> 16 * i
                to = p + minima + 128 * j + 64 * i
                store_pair(q, to, (pair >> 4) & 15, (pair >> 12) & 15)
            for i in range(4):
                group = 4 * j + i
                at = o + 16 + 32 * (group // 8) + 16 * (group % 2)
                packed = load_columns_i32x64(w, at, row_bytes)
                weights = (packed >> 2 * (group // 2 % 4)) & 0x03030303
                scale = (x >> 8 * i) & 15
                if is_folded:
                    store_packed(q, p + 256 * group, weights * repeat_four(scale))
                else:
                    store_packed(q, p + 256 * group, weights)
                    store_packed(q, p + scales + 64 * group, scale_of(scale))
        halves = load_words(w, o + 80, row_bytes)
        store_packed(q, p + d, low_halves(halves))
        store_packed(q, p + d + 64, negate(low_halves(halves >> 16)))

    @machine_code
    def products(sums, q, p, qs, at):
        """Add a block's products with the activations at ``at``, times scales, to the sums."""
        if is_folded:
            for s in range(8):
                sums = multiply_32(sums, q, p + 512 * s, record, qs, at + 32 * s)
        else:
            sums = multiply_groups(sums, q, p, p + scales, record, qs, at)
        return sums

    @machine_code
    def multiply(total, q, p, qs, f, fs, b, blocks):
        """Add -dmin times minima x sums of 16, then d times the products."""
        zeros = zeros_i32(qs)
        shift = multiply_8_pairs(zeros, q, p + minima, record, qs, 256 * blocks + 32 * b)
        total = add_floats(total, shift, q, p + d + 64, record, f, fs, b)
        sums = products(zeros, q, p, qs, 256 * b)
        return add_floats(total, sums, q, p + d, record, f, fs, b)

    return WeightTileType(256, 84, record, unpack, multiply)


WEIGHT_TILES: dict[str, Callable[[TileOps], WeightTileType]] = {
    "Q8_0": _q8_0,
    "Q4_0": _legacy(18, offset=8),
    "Q4_1": _legacy(20, has_minimum=True),
    "Q5_0": _legacy(22, offset=16, fifth_bits=2),
    "Q5_1": _legacy(24, has_minimum=True, fifth_bits=4),
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": lambda ops: _q4_or_q5(ops, 144, has_fifth_bit=False),
    "Q5_K": lambda ops: _q4_or_q5(ops, 176, has_fifth_bit=True),
    "Q6_K": lambda ops: _by_sixteens(ops, 210, _unpack_q6_k, largest=63, offset=32),
}
