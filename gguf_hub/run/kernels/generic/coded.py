"""Types whose weights are codes: what tells them apart, and their arithmetic for any CPU.

A ``CodedType`` says how the weights of a type are read, in numbers of one machine word, which
numba compiles and numpy computes; everything else is written once, around it: here what
``generic`` describes, in ``matmul.coded_rows`` and ``matmul.coded_tiles`` what is fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba.extending import register_jitable

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.generic.floats import at

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONES = np.uint64(0x0101010101010101)


@dataclass(frozen=True)
class CodedType:
    """How the weights of a type are read; functions take the bytes ``w`` and where a block begins.

    A weight is the factor of its block, times the scale of its group, times a whole number, which
    is one of the sixteen of ``table``, or what the code says.

    Attributes:
        type: Gives the size of a block.
        eight: ``(w, block, i) -> (codes, flips)``, uint64: byte k of ``whole(codes, flips)`` is
            the whole number of weight 8 i + k, plus ``offset``, or its index in the table.
        factor: ``(w, block, j)``: the float32 factor of group j of blocks that have no scales, or
            of the whole block.
        scale: ``(w, block, j)``: the scale of group j, an int32 of -128 ... 127; only in blocks of
            256, which meet activations in blocks of 256 (``q8_k``).
        group: Weights of a group, 16 or 32.
        offset: What the bytes are too large by.
        largest: Largest of the bytes.
        table: Sixteen whole numbers, int8.
        nibbles: Where runs of sixteen bytes begin, each the halves of 32 weights, low ones first.
    """

    type: QuantType
    eight: Callable
    factor: Callable
    scale: Callable | None = None
    group: int = 32
    offset: int = 0
    largest: int = 127
    table: NDArray[np.int8] | None = None
    nibbles: int | None = None


@register_jitable
def whole(codes, flips):
    """Return eight whole numbers as bytes; no byte overflows into the next."""
    return (codes ^ flips) + (flips & ONES)


@register_jitable
def byte_of(eight, k):
    """Return byte ``k`` of eight, as int32."""
    return np.int32(np.int64(eight >> np.uint64(8 * k)) & 255)


@register_jitable
def half_bits_at(w, i):
    """Return the bytes ``w[i:i+2]`` as int32."""
    return np.int32(at(w, i) | at(w, i + 1) << 8)


@register_jitable
def long_at(w, i):
    """Return the eight bytes ``w[i:i+8]`` as uint64."""
    value = np.uint64(0)
    for k in range(8):
        value |= np.uint64(w[np.uintp(i + k)]) << np.uint64(8 * k)
    return value


@register_jitable
def nibbles_at(w, i, shift):
    """Return the low (``shift`` 0) or high (4) halves of eight bytes."""
    return long_at(w, i) >> np.uint64(shift) & np.uint64(0x0F0F0F0F0F0F0F0F)


def weights_of(coded: CodedType) -> Callable:
    """Return ``(w, block, i)``: whole numbers of eight weights, plus ``offset``, as bytes."""
    eight = coded.eight
    if coded.table is None:

        @register_jitable
        def weights(w, block, i):
            """Return whole numbers 8 i to 8 i + 7 of the block, plus the offset, a byte each."""
            codes, flips = eight(w, block, i)
            return whole(codes, flips)

        return weights
    table = table_of(coded).view(np.uint8).astype(np.uint64)

    @register_jitable
    def table_weights(w, block, i):
        """As ``weights``, each code being the index of its number in the table."""
        codes, _ = eight(w, block, i)
        value = np.uint64(0)
        for k in range(8):
            value |= table[byte_of(codes, k)] << np.uint64(8 * k)
        return value

    return table_weights


def table_of(coded: CodedType) -> NDArray[np.int8]:
    """Return the table plus the offset, as bytes."""
    assert coded.table is not None
    return (coded.table.astype(np.int64) + coded.offset).astype(np.uint8).view(np.int8)


def functions_of(coded: CodedType) -> tuple[Callable, Callable]:
    """Return ``dequantize`` and ``dot`` of a type, as ``generic`` describes them."""
    return _dequantize_of(coded), _dot_256_of(coded) if coded.scale else _dot_32_of(coded)


def _dequantize_of(coded: CodedType) -> Callable:
    block_size, block_bytes = coded.type.block_size, coded.type.type_size
    eight, factor, scale = weights_of(coded), coded.factor, coded.scale or _no_scale
    group, offset, has_scales = coded.group, coded.offset, coded.scale is not None

    @register_jitable
    def dequantize(w, o, y, yo, n):
        """Write ``n`` weights: the factor times the group's scale, then times whole numbers."""
        for b in range(n // block_size):
            block, first = o + block_bytes * b, yo + block_size * b
            for j in range(block_size // group):
                d = factor(w, block, j)
                if has_scales:
                    d = d * np.float32(scale(w, block, j))
                for i in range(group * j // 8, group * (j + 1) // 8):
                    weights = eight(w, block, i)
                    for k in range(8):
                        y[first + 8 * i + k] = d * np.float32(byte_of(weights, k) - offset)

    return dequantize


@register_jitable
def _no_scale(w, block, j):
    return np.int32(1)


def _sum_of_group(coded: CodedType) -> Callable:
    """Return the integer sum of the products of group ``j`` with activations at ``q[p:]``."""
    eight, group, offset = weights_of(coded), coded.group, coded.offset

    @register_jitable
    def group_sum(w, block, j, q, p):
        """Return the sum of weight x activation, int32; the offset is taken off each weight."""
        total = np.int32(0)
        for i in range(group // 8):
            weights = eight(w, block, group // 8 * j + i)
            for k in range(8):
                weight = np.int32(byte_of(weights, k) - offset)
                total = np.int32(total + weight * at(q, p + 8 * i + k))
        return total

    return group_sum


def _dot_256_of(coded: CodedType) -> Callable:
    block_bytes, factor, scale, group = (
        coded.type.type_size, coded.factor, coded.scale, coded.group,
    )  # fmt: skip
    group_sum = _sum_of_group(coded)

    @register_jitable
    def dot(w, o, q, qo, f, fo, n):
        """Return the dot product with a ``q8_k`` row: scaled groups are added up in integers."""
        total = np.float32(0)
        for b in range(n // 256):
            block, p = o + block_bytes * b, qo + 256 * b
            scaled = np.int32(0)  # at most 256 * 127 * 32 * 127 in magnitude (IQ4_XS): 1.3e8
            for j in range(256 // group):
                products = group_sum(w, block, j, q, p + group * j)
                scaled = np.int32(scaled + scale(w, block, j) * products)
            total += factor(w, block, 0) * f[fo + b] * np.float32(scaled)
        return total

    return dot


def _dot_32_of(coded: CodedType) -> Callable:
    block_bytes, factor, group = coded.type.type_size, coded.factor, coded.group
    groups = coded.type.block_size // group
    group_sum = _sum_of_group(coded)

    @register_jitable
    def dot(w, o, q, qo, f, fo, n):
        """Return the dot product with a ``q8_0`` row: each group has a factor of its own."""
        total = np.float32(0)
        for g in range(n // group):
            block, j = o + block_bytes * (g // groups), g % groups
            products = group_sum(w, block, j, q, qo + group * g)
            total += factor(w, block, j) * f[fo + group * g // 32] * np.float32(products)
        return total

    return dot
