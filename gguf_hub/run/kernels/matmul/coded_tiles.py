"""The weight tiles of types whose weights are codes; see ``tile_types`` and ``CodedType``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gguf_hub.run.kernels.generic.coded import CodedType, table_of, weights_of
from gguf_hub.run.kernels.matmul import tile_products
from gguf_hub.run.kernels.matmul.tile_ops import TileOps
from gguf_hub.run.kernels.matmul.tile_types import WeightTileType, by_groups, small
from gguf_hub.run.kernels.simd.simd import splat_f32x16
from gguf_hub.run.kernels.simd.simd512 import shift_in
from gguf_hub.run.kernels.simd.simd_columns import (
    load_columns,
    load_columns_i32x64,
    load_halves,
    signed_byte,
)
from gguf_hub.run.kernels.simd.simd_memory import store_i32
from gguf_hub.run.kernels.simd.simd_tiles import add_floats, store_packed
from gguf_hub.run.kernels.simd.vectors import machine_code

_LOW = 0x0F0F0F0F


def ops_of(coded: CodedType, ops: TileOps) -> TileOps:
    """Return the operations for a type: AVX2's where it must be signed and ``vpdpbusd`` is not.

    Activations have no sums of sixteen that would take off an offset from groups with factors.
    """
    is_signed = not coded.scale and coded.group == 16
    return tile_products.ops_of("avx2") if is_signed and ops.signed is None else ops


def tile_type_of(coded: CodedType, ops: TileOps) -> WeightTileType:
    """Return the weight tile of a type.

    Bytes are signed where the largest of the unsigned ones is too large for the CPU's products.
    """
    has_offset = coded.largest <= 127 and (coded.scale or coded.group == 32)
    is_signed = ops.signed is not None and not has_offset
    if is_signed:
        coded = replace(coded, offset=0)
    offset = coded.offset
    write = _writer(coded, ops)
    if coded.scale:
        products = ops.signed_scaled if is_signed else ops.scaled
        groups, largest = 256 // coded.group, 128 if is_signed else coded.largest
        multiply = products(coded.group, groups, largest)
        unpack = _unpack_256(coded, write)
        return by_groups(
            ops, coded.type.type_size, unpack, multiply, group=coded.group, offset=offset
        )
    return _small(coded, ops, write, is_signed)


# -- writing bytes ---------------------------------------------------------------------------------


def _writer(coded: CodedType, ops: TileOps) -> Callable:
    """Return ``(w, o, row_bytes, q, p, k)``: write weights 32 k ... 32 k + 31 of sixteen rows."""
    if coded.nibbles is not None:
        return _nibble_writer(coded, ops)
    eight = weights_of(coded)

    @machine_code
    def write(w, o, row_bytes, q, p, k):
        """Write the bytes of eight weights of a row as two of its 32-bit lanes, 64 bytes apart."""
        for r in range(16):
            for i in range(4):
                bytes_ = eight(w, o + row_bytes * r, 4 * k + i)
                at = p + 512 * k + 128 * i + 4 * r
                store_i32(q, at, np.int64(bytes_))
                store_i32(q, at + 64, np.int64(bytes_ >> np.uint64(32)))

    return write


def _nibble_writer(coded: CodedType, ops: TileOps) -> Callable:
    lookup, nibbles = ops.lookup(table_of(coded)), coded.nibbles

    @machine_code
    def write(w, o, row_bytes, q, p, k):
        """Look up the nibbles of sixteen rows: low halves are weights 0-15, high ones 16-31."""
        packed = load_columns_i32x64(w, o + nibbles + 16 * k, row_bytes)
        store_packed(q, p + 512 * k, lookup(packed & _LOW))
        store_packed(q, p + 512 * k + 256, lookup((packed >> 4) & _LOW))

    return write


def _factors_of(factor: Callable) -> Callable:
    """Return ``(w, o, row_bytes, j)``: the factors of group ``j`` of sixteen rows."""

    @machine_code
    def factors(w, o, row_bytes, j):
        """Return the factors of group ``j`` as an f32x16, one for each row."""
        found = splat_f32x16(0)
        for r in range(16):
            found = shift_in(found, factor(w, o + row_bytes * r, j))
        return found

    return factors


# -- blocks of 256 ---------------------------------------------------------------------------------


def _unpack_256(coded: CodedType, write: Callable) -> Callable:
    """Return the unpacking of a block of sixteen rows, as ``by_groups`` takes it."""
    factors, scale, groups = _factors_of(coded.factor), coded.scale, 256 // coded.group

    @machine_code
    def unpack(w, o, row_bytes, q, p, store_four):
        """Write 256 weights and their scales; return the factors of sixteen rows as an f32x16."""
        for k in range(8):
            write(w, o, row_bytes, q, p, k)
        # sixteen bytes of scales for each row, where scales as numbers come to lie then
        scratch = p + 4096
        for r in range(16):
            for word in range(groups // 4):
                four = np.int64(0)
                for i in range(4):
                    byte = np.int64(scale(w, o + row_bytes * r, 4 * word + i)) & 255
                    four |= byte << 8 * i
                store_i32(q, scratch + 16 * r + 4 * word, four)
        columns = load_columns(q, scratch, 16)
        for j in range(groups // 4):
            x = columns[j]
            scales = (signed_byte(x, 0), signed_byte(x, 1), signed_byte(x, 2), signed_byte(x, 3))
            store_four(q, p, j, scales)
        return factors(w, o, row_bytes, 0)

    return unpack


# -- short blocks ----------------------------------------------------------------------------------


def _small(coded: CodedType, ops: TileOps, write: Callable, is_signed: bool) -> WeightTileType:
    type_size, parts = coded.type.type_size, coded.type.block_size // 32
    products, largest = (ops.signed, 128) if is_signed else (ops.products, coded.largest)
    factors = _factors_of(coded.factor)
    if parts > 1:
        return _spanning(coded, ops, write, products, largest)

    @machine_code
    def unpack(w, o, row_bytes, q, p):
        """Write the block's 32 weights, the only part that it has."""
        write(w, o, row_bytes, q, p, 0)

    @machine_code
    def scales(w, o, row_bytes):
        """Return the factors of sixteen blocks, ``row_bytes`` apart, as an f32x16."""
        return factors(w, o, row_bytes, 0)

    has_halves = type_size == 18
    return small(
        ops, type_size, unpack, products(32, largest), offset=coded.offset,
        load_scales=load_halves if has_halves else scales,
    )  # fmt: skip


def _spanning(
    coded: CodedType, ops: TileOps, write: Callable, products: Callable, largest: int
) -> WeightTileType:
    """Return the weight tile of a type whose blocks span several of the activations'.

    Groups of 16 have factors of their own, and no offset: activations have sums of 32 only.
    """
    group, parts, offset = coded.group, coded.type.block_size // 32, coded.offset
    assert group == 32 or not offset
    groups = 32 // group
    record = 512 + 64 * groups
    multiply_group, factors = products(group, largest), _factors_of(coded.factor)
    splat_sums, zeros_i32 = ops.splat_sums, ops.zeros_i32

    @machine_code
    def unpack(w, o, row_bytes, q, p, part):
        """Write 32 weights, part ``part`` of the block, then their one or two factors."""
        write(w, o, row_bytes, q, p - 512 * part, part)
        for j in range(groups):
            store_packed(q, p + 512 + 64 * j, factors(w, o, row_bytes, groups * part + j))

    @machine_code
    def multiply(total, q, p, qs, f, fs, b, blocks):
        """Add the products of 32 weights to ``total``, by one ``fma`` for each group's factor."""
        for j in range(groups):
            sums = splat_sums(q, qs, 32 * blocks + 4 * b, -offset) if offset else zeros_i32(qs)
            sums = multiply_group(sums, q, p + 16 * group * j, record, qs, 32 * b + group * j)
            total = add_floats(total, sums, q, p + 512 + 64 * j, record, f, fs, b)
        return total

    return WeightTileType(32, coded.type.type_size, record, unpack, multiply, parts)
