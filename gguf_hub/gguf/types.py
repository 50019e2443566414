"""The tensor types of GGUF: one table of block sizes.

A quantised row is a run of blocks; a block holds ``block_size`` weights in ``type_size`` bytes.

Source: enum ggml_type in ggml/include/ggml.h and the static_asserts of ggml-common.h, at ggml
commit c2cdd2b2 (GGML_TYPE_COUNT = 43); llama_ftype in include/llama.h.
"""

from __future__ import annotations

from enum import IntEnum


class QuantType(IntEnum):
    """Type id of a tensor as stored in a GGUF file."""

    block_size: int
    type_size: int

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 18)
    Q4_1 = (3, 32, 20)
    Q5_0 = (6, 32, 22)
    Q5_1 = (7, 32, 24)
    Q8_0 = (8, 32, 34)
    Q8_1 = (9, 32, 36)
    Q2_K = (10, 256, 84)
    Q3_K = (11, 256, 110)
    Q4_K = (12, 256, 144)
    Q5_K = (13, 256, 176)
    Q6_K = (14, 256, 210)
    Q8_K = (15, 256, 292)
    IQ2_XXS = (16, 256, 66)
    IQ2_XS = (17, 256, 74)
    IQ3_XXS = (18, 256, 98)
    IQ1_S = (19, 256, 50)
    IQ4_NL = (20, 32, 18)
    IQ3_S = (21, 256, 110)
    IQ2_S = (22, 256, 82)
    IQ4_XS = (23, 256, 136)
    I8 = (24, 1, 1)
    I16 = (25, 1, 2)
    I32 = (26, 1, 4)
    I64 = (27, 1, 8)
    F64 = (28, 1, 8)
    IQ1_M = (29, 256, 56)
    BF16 = (30, 1, 2)
    TQ1_0 = (34, 256, 54)
    TQ2_0 = (35, 256, 66)
    MXFP4 = (39, 32, 17)
    NVFP4 = (40, 64, 36)
    Q1_0 = (41, 128, 18)
    Q2_0 = (42, 64, 18)

    def __new__(cls, value: int, block_size: int, type_size: int) -> QuantType:
        """Keep the sizes beside the id, so that a type is an int and a row of the table."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.block_size = block_size
        member.type_size = type_size
        return member

    @property
    def bits_per_weight(self) -> float:
        """Bits of storage for one weight, scales included."""
        return self.type_size * 8 / self.block_size

    def row_bytes(self, n: int) -> int:
        """Return the bytes of a row of ``n`` weights; ``n`` must fill whole blocks."""
        assert n % self.block_size == 0, f"{n} weights do not fill {self.name} blocks"
        return n // self.block_size * self.type_size


REMOVED_TYPE_IDS = frozenset({4, 5, 31, 32, 33, 36, 37, 38})
"""Ids that once meant something (Q4_2, Q4_3, Q4_0_4_4 ..., IQ4_NL_4_4 ...)."""

TYPE_COUNT = 43
"""Ids at or above this are newer than this table."""

COMMON_TYPES = frozenset(
    {
        QuantType.F32, QuantType.F16, QuantType.BF16,
        QuantType.Q4_0, QuantType.Q4_1, QuantType.Q5_0, QuantType.Q5_1, QuantType.Q8_0,
        QuantType.Q2_K, QuantType.Q3_K, QuantType.Q4_K, QuantType.Q5_K, QuantType.Q6_K,
    }
)  # fmt: skip
"""The types whose weights are floats, or integers with a scale: most files have no others."""

WRITABLE_TYPES = COMMON_TYPES | frozenset(
    {
        QuantType.IQ1_S, QuantType.IQ1_M, QuantType.IQ2_XXS, QuantType.IQ2_XS, QuantType.IQ2_S,
        QuantType.IQ3_XXS, QuantType.IQ3_S, QuantType.IQ4_NL, QuantType.IQ4_XS,
        QuantType.TQ1_0, QuantType.TQ2_0, QuantType.MXFP4,
    }
)  # fmt: skip
"""The types that weights can be turned into."""

RUNNABLE_TYPES = WRITABLE_TYPES | frozenset(
    {
        QuantType.Q1_0, QuantType.Q2_0, QuantType.NVFP4,
    }
)  # fmt: skip
"""The types that the runner computes with: all that models' weights are stored in."""


class FileType(IntEnum):
    """``general.file_type``: the mix of types that a file was quantised to (llama_ftype)."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q8_0 = 7
    Q5_0 = 8
    Q5_1 = 9
    Q2_K = 10
    Q3_K_S = 11
    Q3_K_M = 12
    Q3_K_L = 13
    Q4_K_S = 14
    Q4_K_M = 15
    Q5_K_S = 16
    Q5_K_M = 17
    Q6_K = 18
    IQ2_XXS = 19
    IQ2_XS = 20
    Q2_K_S = 21
    IQ3_XS = 22
    IQ3_XXS = 23
    IQ1_S = 24
    IQ4_NL = 25
    IQ3_S = 26
    IQ3_M = 27
    IQ2_S = 28
    IQ2_M = 29
    IQ4_XS = 30
    IQ1_M = 31
    BF16 = 32
    TQ1_0 = 36
    TQ2_0 = 37
    MXFP4_MOE = 38
