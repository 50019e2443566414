"""Panels of each weight type for AVX512-VNNI: how rows are unpacked, and multiplied with tokens.

A panel holds one *lane* of 32 weight rows: blocks lane, lane + 8, lane + 16 ... of each row. For
each block and each sixteen of the rows it has a record: the weights as unsigned bytes,
[4 weights][row][4 bytes], then what goes with them, vectors with an element for each row.

Sums are those of ``x512_rows``, to the last bit: the integer sum of a block is exact, and each
block adds to its lane's float sum by one ``fma``, in ascending order.

Block layouts: ggml-common.h at ggml c2cdd2b2; the arithmetic is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gguf_hub.kernels.scratch import LANES, PANEL_BYTES
from gguf_hub.kernels.simd_columns import (
    load_columns,
    load_columns_i32x64,
    load_halves,
    load_words,
    low_halves,
    negative,
    repeated,
    signed_byte,
    splat_i32x16,
    spread_bits,
)
from gguf_hub.kernels.simd_panels import (
    add_floats,
    add_minima,
    add_scaled,
    multiply_4_pairs,
    multiply_8_pairs,
    multiply_16,
    multiply_32,
    prefetch,
    splat_sums,
    store_panel,
    zeros_f32,
    zeros_i32,
)
from gguf_hub.kernels.vectors import machine_code

_LOW = 0x0F0F0F0F


@dataclass(frozen=True)
class PanelType:
    """What a panel of a weight type is.

    Attributes:
        block: Weights of a block.
        type_size: Bytes of a block in the file.
        record: Bytes of a block of sixteen rows in a panel.
        unpack: ``(w, o, row_bytes, q, p)``: write the record at ``q[p:]`` of the block at byte
            ``o`` and of those in the fifteen rows after it.
        multiply: ``(total, q, p, qs, f, fs, b, blocks)``: add the block of both records at
            ``q[p:]`` times block ``b`` of ``blocks`` of each token to the tile ``total``.
    """

    block: int
    type_size: int
    record: int
    unpack: Callable
    multiply: Callable


def lanes_of(panel_type: PanelType) -> tuple[Callable, Callable]:
    """Return the unpacking of one lane of 32 rows, and its product with a tuple of tokens."""
    block, type_size, record = panel_type.block, panel_type.type_size, panel_type.record
    assert 2 * record <= PANEL_BYTES * block
    unpack_block, multiply_block = panel_type.unpack, panel_type.multiply

    @machine_code
    def fetch(w, ahead, lines, i):
        """Ask for some cache lines of the next panel's rows, at each block."""
        for line in range(lines):
            prefetch(w, ahead + 64 * (lines * i + line))

    @machine_code
    def unpack(w, o, row_bytes, n, lane, q, panel, ahead, lines):
        for i in range((n // block - lane + LANES - 1) // LANES):
            fetch(w, ahead, lines, i)
            at = o + type_size * (lane + LANES * i)
            p = panel + 2 * record * i
            unpack_block(w, at, row_bytes, q, p)
            unpack_block(w, at + 16 * row_bytes, row_bytes, q, p + record)

    @machine_code
    def multiply(n, lane, q, panel, qs, f, fs, w, ahead, lines):
        total = zeros_f32(qs)
        blocks = n // block
        for i in range((blocks - lane + LANES - 1) // LANES):
            fetch(w, ahead, lines, i)
            p = panel + 2 * record * i
            total = multiply_block(total, q, p, qs, f, fs, lane + LANES * i, blocks)
        return total

    return unpack, multiply


# -- blocks of 32 ---------------------------------------------------------------------------------


def _small(type_size: int, unpack_weights: Callable, *, offset: int, has_minimum: bool):
    """Return the panels of a type with blocks of 32.

    Args:
        type_size: Bytes of a block, whose first half is the scale, the second perhaps the minimum.
        unpack_weights: ``(w, o, row_bytes, q, p)``: write the bytes.
        offset: What an unsigned byte is too large by.
        has_minimum: Whether a minimum follows the scale.
    """
    record = 512 + 64 + 64 * has_minimum

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        unpack_weights(w, o, row_bytes, q, p)
        if has_minimum:
            halves = load_words(w, o, row_bytes)
            store_panel(q, p + 512, low_halves(halves))
            store_panel(q, p + 576, low_halves(halves >> 16))
        else:
            store_panel(q, p + 512, load_halves(w, o, row_bytes))

    @machine_code
    def multiply(total, q, p, qs, f, fs, b, blocks):
        sums = splat_sums(q, qs, 32 * blocks + 4 * b, -offset) if offset else zeros_i32(qs)
        sums = multiply_32(sums, q, p, record, qs, 32 * b)
        total = add_floats(total, sums, q, p + 512, record, f, fs, b)
        if has_minimum:
            total = add_minima(total, q, p + 576, record, f, fs, blocks + b)
        return total

    return PanelType(32, type_size, record, unpack, multiply)


@machine_code
def _bytes_q8_0(w, o, row_bytes, q, p):
    for i in range(2):
        x = load_columns_i32x64(w, o + 2 + 16 * i, row_bytes)
        store_panel(q, p + 256 * i, x ^ 0x80808080)


def _nibbles(at: int, fifth_bits: int = 0):
    """Return the unpacking of sixteen bytes of nibbles at ``at``, perhaps with a fifth bit."""

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        x = load_columns_i32x64(w, o + at, row_bytes)
        low, high = x & _LOW, (x >> 4) & _LOW
        if fifth_bits:
            bits = load_words(w, o + fifth_bits, row_bytes)
            low = low | spread_bits(bits, 0)
            high = high | spread_bits(bits, 16)
        store_panel(q, p, low)
        store_panel(q, p + 256, high)

    return unpack


# -- blocks of 256 --------------------------------------------------------------------------------


@machine_code
def _store_scales_k4(q, p, mins_at, a, b, c):
    """Write eight scales and four pairs of minima of Q4_K or Q5_K.

    ``a``, ``b`` and ``c`` are the twelve bytes that ``x86.scales_mins_k4`` describes.
    """
    for i in range(4):
        store_panel(q, p + 64 * i, (a >> 8 * i) & 63)
        high = (((a >> 6) >> 8 * i) & 3) << 4
        store_panel(q, p + 64 * (4 + i), ((c >> 8 * i) & 15) | high)
    low = b & 0x3F3F3F3F
    high = ((c >> 4) & _LOW) | (((b >> 6) & 0x03030303) << 4)
    store_panel(q, mins_at, (low & 63) | ((low & 0x3F00) << 8))
    store_panel(q, mins_at + 64, ((low >> 16) & 63) | ((low >> 8) & 0x3F0000))
    store_panel(q, mins_at + 128, (high & 63) | ((high & 0x3F00) << 8))
    store_panel(q, mins_at + 192, ((high >> 16) & 63) | ((high >> 8) & 0x3F0000))


def _q4_or_q5(type_size: int, has_fifth_bit: bool):
    """Return the panels of Q4_K or Q5_K."""
    nibbles = type_size - 128
    scales = 4096
    minima = scales + 8 * 64
    d = minima + 4 * 64
    record = d + 2 * 64

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        halves, a, b, c = load_columns(w, o, row_bytes)
        store_panel(q, p + d, low_halves(halves))
        store_panel(q, p + d + 64, negative(low_halves(halves >> 16)))
        _store_scales_k4(q, p + scales, p + minima, a, b, c)
        for i in range(2):
            if has_fifth_bit:
                fifth = load_columns_i32x64(w, o + 16 + 16 * i, row_bytes)
            for c in range(4):
                x = load_columns_i32x64(w, o + nibbles + 32 * c + 16 * i, row_bytes)
                even, odd = x & _LOW, (x >> 4) & _LOW
                if has_fifth_bit:
                    even = even | (((fifth >> 2 * c) & 0x01010101) << 4)
                    odd = odd | (((fifth >> (2 * c + 1)) & 0x01010101) << 4)
                store_panel(q, p + 1024 * c + 256 * i, even)
                store_panel(q, p + 1024 * c + 512 + 256 * i, odd)

    @machine_code
    def multiply(total, q, p, qs, f, fs, b, blocks):
        zeros = zeros_i32(qs)
        sums_at = 256 * blocks + 32 * blocks + 16 * b
        shift = multiply_4_pairs(zeros, q, p + minima, record, qs, sums_at)
        total = add_floats(total, shift, q, p + d + 64, record, f, fs, b)
        sums = zeros
        for s in range(8):
            products = multiply_32(zeros, q, p + 512 * s, record, qs, 256 * b + 32 * s)
            sums = add_scaled(sums, products, q, p + scales + 64 * s, record)
        return add_floats(total, sums, q, p + d, record, f, fs, b)

    return PanelType(256, type_size, record, unpack, multiply)


@machine_code
def _store_pair(q, p, first, second):
    """Write two numbers of each row as 16 bits."""
    store_panel(q, p, (first & 0xFFFF) | (second << 16))


@machine_code
def _unpack_q6_k(w, o, row_bytes, q, p):
    for half in range(2):
        for i in range(2):  # sixteen of each 32 weights
            first = load_columns_i32x64(w, o + 64 * half + 16 * i, row_bytes)
            second = load_columns_i32x64(w, o + 64 * half + 32 + 16 * i, row_bytes)
            top = load_columns_i32x64(w, o + 128 + 32 * half + 16 * i, row_bytes)
            to = p + 2048 * half + 256 * i
            store_panel(q, to, (first & _LOW) | ((top << 4) & 0x30303030))
            store_panel(q, to + 512, (second & _LOW) | ((top << 2) & 0x30303030))
            store_panel(q, to + 1024, ((first >> 4) & _LOW) | (top & 0x30303030))
            store_panel(q, to + 1536, ((second >> 4) & _LOW) | ((top >> 2) & 0x30303030))
    four = load_columns(w, o + 192, row_bytes)
    minus_32 = splat_i32x16(-32)
    for j in range(4):
        scales = four[j]
        for i in range(4):
            store_panel(q, p + 4096 + 256 * j + 64 * i, signed_byte(scales, i))
        for i in range(2):
            first, second = signed_byte(scales, 2 * i), signed_byte(scales, 2 * i + 1)
            _store_pair(q, p + 5120 + 128 * j + 64 * i, first * minus_32, second * minus_32)
    store_panel(q, p + 5632, load_halves(w, o + 208, row_bytes))


@machine_code
def _multiply_q6_k(total, q, p, qs, f, fs, b, blocks):
    zeros = zeros_i32(qs)
    sums = multiply_8_pairs(zeros, q, p + 5120, _RECORD_Q6_K, qs, 256 * blocks + 32 * b)
    for s in range(16):
        products = multiply_16(zeros, q, p + 256 * s, _RECORD_Q6_K, qs, 256 * b + 16 * s)
        sums = add_scaled(sums, products, q, p + 4096 + 64 * s, _RECORD_Q6_K)
    return add_floats(total, sums, q, p + 5632, _RECORD_Q6_K, f, fs, b)


_RECORD_Q6_K = 4096 + 16 * 64 + 8 * 64 + 64


@machine_code
def _unpack_q3_k(w, o, row_bytes, q, p):
    """Write (weight - 4) x scale + 124: within 0 ... 252, as scales are -32 ... 31.

    Four bytes of a row are multiplied as one number: what a byte lends to the next is given back
    when 124 - 4 x scale is added to each.
    """
    # bytes 94 ... 109: two that are none of ours, twelve of scales, d
    a, b, c, d = load_columns(w, o + 94, row_bytes)
    first, second = (a >> 16) | (b << 16), (b >> 16) | (c << 16)
    top = (c >> 16) | (d << 16)
    for i in range(2):
        third = load_columns_i32x64(w, o + 16 * i, row_bytes)
        for k in range(8):
            j = 2 * k + i  # the group of sixteen: j % 4 is its byte of the scales
            at = 8 * (j % 4)
            low = first if j % 8 < 4 else second
            scale = ((low >> at + 4 * (j // 8)) & 15) | (((top >> at + 2 * (j // 4)) & 3) << 4)
            scale = scale - splat_i32x16(32)
            packed = load_columns_i32x64(w, o + 32 + 32 * (k // 4) + 16 * i, row_bytes)
            weights = (packed >> 2 * (k % 4)) & 0x03030303
            weights = weights | (((third >> k) & 0x01010101) << 2)
            offset = (splat_i32x16(124) - (scale << 2)) * splat_i32x16(0x01010101)
            store_panel(q, p + 256 * j, weights * repeated(scale) + repeated(offset))
    for pair in range(4):
        _store_pair(q, p + 4096 + 64 * pair, splat_i32x16(-124), splat_i32x16(-124))
    store_panel(q, p + 4352, low_halves(d >> 16))


@machine_code
def _multiply_q3_k(total, q, p, qs, f, fs, b, blocks):
    sums_at = 256 * blocks + 32 * blocks + 16 * b
    sums = multiply_4_pairs(zeros_i32(qs), q, p + 4096, _RECORD_Q3_K, qs, sums_at)
    for s in range(8):
        sums = multiply_32(sums, q, p + 512 * s, _RECORD_Q3_K, qs, 256 * b + 32 * s)
    return add_floats(total, sums, q, p + 4352, _RECORD_Q3_K, f, fs, b)


_RECORD_Q3_K = 4096 + 4 * 64 + 64


@machine_code
def _unpack_q2_k(w, o, row_bytes, q, p):
    """Write weight x scale, at most 3 x 15: four bytes of a row are multiplied as one number."""
    four = load_columns(w, o, row_bytes)
    for j in range(4):
        factors = four[j]
        for i in range(2):
            minima = factors >> 16 * i
            _store_pair(q, p + 4096 + 128 * j + 64 * i, (minima >> 4) & 15, (minima >> 12) & 15)
        for i in range(4):
            group = 4 * j + i
            at = o + 16 + 32 * (group // 8) + 16 * (group % 2)
            packed = load_columns_i32x64(w, at, row_bytes)
            weights = (packed >> 2 * (group // 2 % 4)) & 0x03030303
            scale = (factors >> 8 * i) & 15
            store_panel(q, p + 256 * group, weights * repeated(scale))
    halves = load_words(w, o + 80, row_bytes)
    store_panel(q, p + 4608, low_halves(halves))
    store_panel(q, p + 4672, negative(low_halves(halves >> 16)))


@machine_code
def _multiply_q2_k(total, q, p, qs, f, fs, b, blocks):
    zeros = zeros_i32(qs)
    shift = multiply_8_pairs(zeros, q, p + 4096, _RECORD_Q2_K, qs, 256 * blocks + 32 * b)
    total = add_floats(total, shift, q, p + 4672, _RECORD_Q2_K, f, fs, b)
    sums = zeros
    for s in range(8):
        sums = multiply_32(sums, q, p + 512 * s, _RECORD_Q2_K, qs, 256 * b + 32 * s)
    return add_floats(total, sums, q, p + 4608, _RECORD_Q2_K, f, fs, b)


_RECORD_Q2_K = 4096 + 8 * 64 + 2 * 64

PANELS = {
    "Q8_0": _small(34, _bytes_q8_0, offset=128, has_minimum=False),
    "Q4_0": _small(18, _nibbles(2), offset=8, has_minimum=False),
    "Q4_1": _small(20, _nibbles(4), offset=0, has_minimum=True),
    "Q5_0": _small(22, _nibbles(6, fifth_bits=2), offset=16, has_minimum=False),
    "Q5_1": _small(24, _nibbles(8, fifth_bits=4), offset=0, has_minimum=True),
    "Q2_K": PanelType(256, 84, _RECORD_Q2_K, _unpack_q2_k, _multiply_q2_k),
    "Q3_K": PanelType(256, 110, _RECORD_Q3_K, _unpack_q3_k, _multiply_q3_k),
    "Q4_K": _q4_or_q5(144, False),
    "Q5_K": _q4_or_q5(176, True),
    "Q6_K": PanelType(256, 210, _RECORD_Q6_K, _unpack_q6_k, _multiply_q6_k),
}
