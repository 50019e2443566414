"""Types of codes in short blocks: IQ4_NL, the four-bit floats MXFP4 and NVFP4, Q1_0 and Q2_0.

They meet activations in blocks of 32, of which a block of theirs may span several.

Source: struct block_iq4_nl ... block_q2_0 in ggml/src/ggml-common.h, dequantize_row_iq4_nl ... in
ggml/src/ggml-quants.c at ggml commit c2cdd2b2; OCP Microscaling Formats 1.0, section 5.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.generic import grids
from gguf_hub.run.kernels.generic.coded import (
    CodedType,
    half_bits_at,
    nibbles_at,
)
from gguf_hub.run.kernels.generic.floats import at, half_at

E2M1_OFFSET = 16
_BITS = grids.BITS
_NONE = np.uint64(0)
_SUBNORMAL = np.int32(0x00200000)


def _half_factor(d_at: int):
    @register_jitable
    def factor(w, block, j):
        return half_at(w, block + d_at)

    return factor


def _halves_of_bytes(first: int):
    """Return ``eight`` of 16 bytes from ``first`` on: all low halves, then all high ones."""

    @register_jitable
    def eight(w, block, i):
        return nibbles_at(w, block + first + i % 2 * 8, i // 2 * 4), _NONE

    return eight


@register_jitable
def e8m0_half(w, i):
    """Return half of the power of two whose exponent is byte ``i``: 2**(e - 128).

    As in ggml, 255, which is the NaN of E8M0, is a power like others.
    """
    e = at(w, i)
    bits = np.int32(_SUBNORMAL << e) if e < 2 else np.int32((e - 1) << 23)
    return np.uint32(bits).view(np.float32)


@register_jitable
def _mxfp4_factor(w, block, j):
    return e8m0_half(w, block)


@register_jitable
def _nvfp4(w, block, i):
    """Four scales; of each sixteen weights eight bytes: all low halves, then all high ones."""
    return nibbles_at(w, block + 4 + i // 2 * 8, i % 2 * 4), _NONE


@register_jitable
def _nvfp4_factor(w, block, j):
    """Half of an unsigned E4M3, whose one NaN is a zero here; the top bit says nothing."""
    code = at(w, block + j) & 127
    e, m = code >> 3, code & 7
    if e == 0:
        return np.float32(m) * np.float32(2.0**-10)
    value = np.uint32((e + 119) << 23 | m << 20).view(np.float32)
    return np.float32(0) if code == 127 else value


@register_jitable
def _q1_0(w, block, i):
    """A bit for each weight, 1 or -1; the block is: d, 16 bytes."""
    return _BITS[at(w, block + 2 + i)], _NONE


@register_jitable
def _q2_0(w, block, i):
    """Two bits for each weight, less 1; the block is: d, 16 bytes."""
    bits = np.uint64(half_bits_at(w, block + 2 + 2 * i))
    bits = (bits | bits << np.uint64(24)) & np.uint64(0x000000FF000000FF)
    bits = (bits | bits << np.uint64(12)) & np.uint64(0x000F000F000F000F)
    return (bits | bits << np.uint64(6)) & np.uint64(0x0303030303030303), _NONE


T = QuantType
TYPES = (
    CodedType(
        T.IQ4_NL, _halves_of_bytes(2), _half_factor(0), offset=128, largest=241,
        table=grids.NONLINEAR, nibbles=2,
    ),
    CodedType(
        T.MXFP4, _halves_of_bytes(1), _mxfp4_factor, offset=E2M1_OFFSET, largest=28,
        table=grids.E2M1, nibbles=1,
    ),
    CodedType(
        T.NVFP4, _nvfp4, _nvfp4_factor, group=16, offset=E2M1_OFFSET, largest=28, table=grids.E2M1
    ),
    CodedType(T.Q1_0, _q1_0, _half_factor(0), offset=1, largest=2),
    CodedType(T.Q2_0, _q2_0, _half_factor(0), offset=1, largest=3),
)  # fmt: skip
