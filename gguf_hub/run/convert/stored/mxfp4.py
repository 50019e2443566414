"""MXFP4 as gpt-oss publishes it: blocks of 32 four-bit floats with one power of two.

``NAME_blocks`` [experts, rows, blocks, 16] holds elements 2i and 2i + 1 in byte i, the first one
low, ``NAME_scales`` [experts, rows, blocks] the exponents plus 127. GGUF's block is the exponent
byte, then elements i and i + 16 in byte i: the same numbers in another order.

Source: OCP Microscaling Formats 1.0, 5.2; convert_moe_packed_tensors of transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.convert.checkpoint import StoredTensor
from gguf_hub.run.convert.encode import encode
from gguf_hub.run.convert.stored.matrix import Matrix, Rows
from gguf_hub.run.convert.stored.module import Module

_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
VALUES = np.concatenate([_VALUES, -_VALUES])


@dataclass(frozen=True)
class Mxfp4(Matrix):
    """Experts in blocks of four-bit floats."""

    blocks: StoredTensor
    exponents: StoredTensor

    @property
    def is_packed(self) -> bool:
        """Always: a GGUF block holds one of these."""
        return True

    @property
    def type(self) -> QuantType:
        """MXFP4, exactly."""
        return QuantType.MXFP4

    def _codes(self, rows: Rows) -> NDArray[np.uint8]:
        """Return codes, [rows, blocks, 32]."""
        octets = self.blocks.open().reshape(-1, self.n_in // 32, 16)[rows]
        return np.stack([octets & 15, octets >> 4], axis=-1).reshape(*octets.shape[:2], 32)

    def _exponents(self, rows: Rows) -> NDArray[np.uint8]:
        return self.exponents.open().reshape(-1, self.n_in // 32)[rows]

    def floats(self, rows: Rows) -> NDArray[np.float32]:
        """Return rows, [rows, row length]."""
        exponents = self._exponents(rows).astype(np.int32) - 127
        values: NDArray[np.float32] = np.ldexp(VALUES[self._codes(rows)], exponents[..., None])
        return values.reshape(len(values), -1)

    def encoded(self, rows: Rows, type: QuantType) -> NDArray[np.uint8]:
        """Return the bytes of rows in a type; as they are, if that is MXFP4."""
        if type is not QuantType.MXFP4:
            return encode(self.floats(rows), type)
        codes = self._codes(rows)
        blocks = np.empty((*codes.shape[:2], 17), np.uint8)
        blocks[..., 0] = self._exponents(rows)
        blocks[..., 1:] = codes[..., :16] | codes[..., 16:] << 4
        return blocks.reshape(-1)


def read_mxfp4(module: Module, name: str) -> Mxfp4 | None:
    """Return experts; None, and their problems noted, where they make no sense.

    Args:
        module: Its tensors.
        name: Of the matrix, without ``_blocks``.
    """
    blocks = module.need(f"{name}_blocks", ("U8",), (4,))
    exponents = module.need(f"{name}_scales", ("U8", "F8_E8M0"), (3,))
    if blocks is None or exponents is None:
        return None
    n_expert, n_out, n_block, _ = blocks.shape
    module.expect_shape(blocks, (n_expert, n_out, n_block, 16), "blocks of 32 four-bit floats")
    module.expect_shape(exponents, (n_expert, n_out, n_block), f"`{blocks.name}`")
    if not module.is_sound():
        return None
    full_name, shape = blocks.name, (n_expert, n_out, n_block * 32)
    return Mxfp4(full_name, blocks.path, shape, "MXFP4", blocks, exponents)
