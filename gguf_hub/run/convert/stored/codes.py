"""Weights as small integers with a scale and a zero point for each group of columns.

weight[r, c] = scale[r, g] * (code[r, c] - zero[r, g]), g being the group of column c.

What GGUF's blocks of 32 hold of it, where a block's columns are of one group:

- Q4_0 is d (q - 8): codes of up to 4 bits with q = code + 8 - zero, if all q are in 0 .. 15.
  Exact. So are all 2- and 3-bit codes, and 4-bit ones whose zero is 8.
- Q4_1 is d q + m: d is the scale, m = -scale * zero rounded to a half. A scale of 11 bits times a
  zero of up to 16 has at most 16 bits, so m is off by at most 2^-11 scale * zero, or 2^-25 below
  the normal numbers: at most 1/128 of a step, the same for all weights of a block.
- Q8_0 is d q with q in -128 .. 127: 8-bit codes whose zero is 128. Exact.

That takes scales that are halves; others are rounded to halves.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.convert.encode import NotEncodableError, encode, too_large
from gguf_hub.run.convert.stored.matrix import Matrix, Rows

BLOCK = 32
_PACKED = {QuantType.Q4_0: 4, QuantType.Q4_1: 4, QuantType.Q8_0: 8}


@dataclass(frozen=True)
class Codes(Matrix):
    """Codes, scales and zero points, however they are packed.

    Attributes:
        bits: Of a code.
        groups: Group of each column, [row length].
    """

    bits: int
    groups: NDArray[np.int64]

    @abstractmethod
    def codes(self, rows: Rows) -> NDArray[np.uint8]:
        """Return codes, [rows, row length]."""

    @abstractmethod
    def scales(self, rows: Rows) -> NDArray[np.float32]:
        """Return scales, [rows, groups]."""

    @abstractmethod
    def zeros(self, rows: Rows) -> NDArray[np.int16]:
        """Return zero points, [rows, groups]."""

    @property
    def is_packed(self) -> bool:
        """Whether blocks of a GGUF type hold the codes."""
        return self.type in _PACKED

    @cached_property
    def type(self) -> QuantType:
        """The type that holds the codes; F16 where none does."""
        if not self._fits_blocks:
            return QuantType.F16
        zeros = self.zeros(slice(None))
        least, most = int(zeros.min()), int(zeros.max())
        if self.bits == 8:
            return QuantType.Q8_0 if least == most == 128 else QuantType.F16
        is_symmetric = 8 - most >= 0 and (1 << self.bits) - 1 + 8 - least <= 15
        return QuantType.Q4_0 if is_symmetric else QuantType.Q4_1

    @cached_property
    def _fits_blocks(self) -> bool:
        """Whether every block's columns are of one group."""
        if self.n_in % BLOCK or self.bits not in (2, 3, 4, 8):
            return False
        blocks = self.groups.reshape(-1, BLOCK)
        return bool((blocks == blocks[:, :1]).all())

    @property
    def note(self) -> str:
        """What is lost, or why no block type holds it."""
        if self.type is QuantType.Q4_1:
            return (
                "become Q4_1: every code and scale is kept, offsets are rounded to halves, which "
                "moves weights by less than 1 % of a step"
            )
        if self.type is not QuantType.F16:
            return ""
        if self._fits_blocks:
            return "become F16: with other zero points than 128 no type holds codes of 8 bits"
        if self.n_in % BLOCK or (np.diff(self.groups) >= 0).all():
            return f"become F16: their groups of columns do not fill blocks of {BLOCK}"
        return (
            "become F16: they were quantised in act-order (`g_idx`), so that neighbouring columns "
            "have other scales, which no block type holds"
        )

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """Return rows, [rows, row length]."""
        scales = self._finite_scales(rows)
        steps = self.codes(rows).astype(np.int16) - self.zeros(rows)[:, self.groups]
        return scales[:, self.groups] * steps

    def encoded(self, rows: Rows, type: QuantType) -> NDArray[np.uint8]:
        """Return the bytes of rows in a type; the codes as they are, if that is ``self.type``.

        Raises:
            NotEncodableError: A scale is not finite, or too large for a half.
        """
        if not self._can_hold(type):
            return encode(self.floats(rows), type)
        first = self.groups[::BLOCK]
        scales, zeros = self._finite_scales(rows)[:, first], self.zeros(rows)[:, first]
        codes = self.codes(rows).reshape(*scales.shape, BLOCK)  # [rows, blocks, 32]
        blocks = np.empty((*scales.shape, type.type_size), np.uint8)
        blocks[..., :2] = self._halves(scales, scales, type)
        if type is QuantType.Q8_0:
            blocks[..., 2:] = codes ^ 128  # as two's complement
            return blocks.reshape(-1)
        if type is QuantType.Q4_0:
            codes = codes + (8 - zeros).astype(np.uint8)[..., None]
        else:
            blocks[..., 2:4] = self._halves(scales * -zeros.astype(np.float32), scales, type)
        blocks[..., -16:] = codes[..., :16] | codes[..., 16:] << 4
        return blocks.reshape(-1)

    def _can_hold(self, type: QuantType) -> bool:
        """Whether a type holds the codes; Q4_1 holds also what Q4_0 does."""
        return (type is self.type and self.is_packed) or (
            type is QuantType.Q4_1 and self.type is QuantType.Q4_0
        )

    def _finite_scales(self, rows: Rows) -> NDArray[np.float32]:
        scales = self.scales(rows)
        if not np.isfinite(scales).all():
            row, group = np.argwhere(~np.isfinite(scales))[0]
            raise NotEncodableError(
                int(row) * self.n_in + int(np.argmax(self.groups == group)),
                f"has a scale that is not finite ({scales[row, group]})",
                "the checkpoint is damaged: download it again",
            )
        return scales

    def _halves(
        self, values: NDArray[np.float32], scales: NDArray[np.float32], type: QuantType
    ) -> NDArray[np.uint8]:
        """Return values as bytes of halves, [rows, blocks, 2]."""
        with np.errstate(over="ignore"):
            halves = values.astype("<f2")
        if not np.isfinite(halves).all():
            row, block = np.argwhere(~np.isfinite(halves))[0]
            index = int(row) * self.n_in + int(block) * BLOCK
            raise too_large(index, float(values[row, block]), type.name)
        return halves[..., None].view(np.uint8)


def group_of(n_in: int, group_size: int) -> NDArray[np.int64]:
    """Return the group of each column, where groups follow one another."""
    return np.arange(n_in, dtype=np.int64) // group_size
