"""Floats of eight bits with scales: one for a tensor, one for each row, or one for each block.

Source: FineGrainedFP8Config and fbgemm_fp8 of transformers: weight = float8 * scale, which is
called ``weight_scale_inv`` where activations are divided by its inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.convert.checkpoint import StoredTensor
from gguf_hub.run.convert.encode import decode
from gguf_hub.run.convert.stored.matrix import Matrix, Rows
from gguf_hub.run.convert.stored.module import FLOATS, Module

EIGHT_BITS = ("F8_E4M3", "F8_E5M2")
_SCALES = (*FLOATS, "F8_E8M0")


@dataclass(frozen=True)
class Scaled(Matrix):
    """A matrix of eight-bit floats.

    Attributes:
        stored: The floats.
        stored_scales: Scales.
        block: Rows and columns that share a scale.
    """

    stored: StoredTensor
    stored_scales: StoredTensor
    block: tuple[int, int]

    @property
    def type(self) -> QuantType:
        """BF16: a scale is any number, and no type holds the products exactly but F32."""
        return QuantType.BF16

    @property
    def note(self) -> str:
        """What is lost."""
        return "become BF16: eight-bit floats times their scales, rounded to 8 bits; F32 is exact"

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """Return rows, [rows, row length]."""
        numbers = np.arange(int(np.prod(self.shape[:-1])), dtype=np.int64)[rows]
        values: NDArray[np.float32] = decode(
            self.stored.open().reshape(-1, self.n_in)[numbers], self.stored.dtype
        )
        scales = self._scales()
        n_matrix, n_rows = int(np.prod(self.shape[:-2])), self.shape[-2]
        scales = scales.reshape(n_matrix, -1, scales.shape[-1])  # [experts, row blocks, blocks]
        expert, row = numbers // n_rows, numbers % n_rows
        of_row = scales[expert, row // self.block[0]]
        values *= np.repeat(of_row, self.block[1], axis=1)[:, : self.n_in]
        return values

    def _scales(self) -> NDArray[np.float32]:
        stored = self.stored_scales
        array = stored.open()
        values: NDArray[np.float32]
        if stored.dtype == "F8_E8M0":
            values = np.ldexp(np.float32(1), array.astype(np.int32) - 127)
        else:
            values = decode(array, stored.dtype)
        return values.reshape(-1, 1) if values.ndim < 2 else values


def read_scaled(module: Module, block: tuple[int, int] | None, name: str) -> Scaled | None:
    """Return the matrix of a module; None, and its problems noted, where it makes no sense.

    Args:
        module: Its tensors.
        block: Rows and columns of a block, where there are some.
        name: Of the scales.
    """
    stored = module.need("weight", EIGHT_BITS, (2, 3))
    scales = module.need(name, _SCALES, (0, 1, 2, 3))
    if stored is None or scales is None:
        return None
    return scaled(module, stored, scales, block)


def scaled(
    module: Module, stored: StoredTensor, scales: StoredTensor, block: tuple[int, int] | None
) -> Scaled | None:
    """Return eight-bit floats with their scales; None where the shapes do not go together."""
    *outer, n_out, n_in = stored.shape
    n_scales = int(np.prod(scales.shape))
    if block is not None and n_scales > 1:
        expected = (*outer, -(-n_out // block[0]), -(-n_in // block[1]))
        module.expect_shape(scales, expected, f"blocks of {block[0]} x {block[1]}")
        sizes = block
    elif n_scales == int(np.prod(outer)):
        sizes = (n_out, n_in)
    else:
        column = (*outer, n_out, 1)
        if scales.shape != (n_out,):
            module.expect_shape(scales, column, "one scale for each row")
        sizes = (1, n_in)
    if not module.is_sound():
        return None
    return Scaled(stored.name, stored.path, stored.shape, stored.dtype, stored, scales, sizes)
