"""AWQ: 4-bit codes with a zero point for each group, in one of two packings.

``gemm``: ``qweight`` [n_in, n_out / 8], ``qzeros`` [groups, n_out / 8], ``scales`` [groups, n_out];
the nibbles of a word, lowest first, are rows 0 2 4 6 1 3 5 7 of its eight: row 1 is nibble 4.

``gemv``: ``qweight`` [n_out, n_in / 8] and ``qzeros`` [n_out, words] in plain order, ``scales``
[n_out, 8 words], padded with zeros.

Source: WQLinear_GEMM, WQLinear_GEMV and packing_utils of AutoAWQ 0.2.9. Its version ``exllama``
repacks ``gemm`` when it loads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.convert.checkpoint import StoredTensor
from gguf_hub.run.convert.encode import decode
from gguf_hub.run.convert.stored.bits import pick, unpack
from gguf_hub.run.convert.stored.codes import Codes, group_of
from gguf_hub.run.convert.stored.matrix import Rows
from gguf_hub.run.convert.stored.module import FLOATS, WORDS, Module

_BITS = 4
_NIBBLE_OF_ROW = np.array([0, 4, 1, 5, 2, 6, 3, 7], np.int64)


@dataclass(frozen=True)
class AwqGemm(Codes):
    """A matrix in the packing ``gemm``."""

    qweight: StoredTensor
    qzeros: StoredTensor
    stored_scales: StoredTensor

    def codes(self, rows: Rows) -> NDArray[np.uint8]:
        """Return codes, [rows, row length]."""
        return np.ascontiguousarray(self._pick(self.qweight, rows))

    def scales(self, rows: Rows) -> NDArray[np.float32]:
        """Return scales, [rows, groups]."""
        return decode(self.stored_scales.open()[:, rows].T, self.stored_scales.dtype)

    def zeros(self, rows: Rows) -> NDArray[np.int16]:
        """Return zero points, [rows, groups]."""
        return self._pick(self.qzeros, rows).astype(np.int16)

    def _pick(self, words: StoredTensor, rows: Rows) -> NDArray[np.uint8]:
        """Return the nibbles of rows, [rows, words]."""
        numbers = np.arange(self.shape[0], dtype=np.int64)[rows]
        starts = numbers // 8 * 32 + _NIBBLE_OF_ROW[numbers % 8] * _BITS
        nibbles: NDArray[np.uint8] = pick(words.open(), starts, _BITS).T
        return nibbles


@dataclass(frozen=True)
class AwqGemv(Codes):
    """A matrix in the packing ``gemv``."""

    qweight: StoredTensor
    qzeros: StoredTensor
    stored_scales: StoredTensor

    @property
    def _n_group(self) -> int:
        return int(self.groups[-1]) + 1

    def codes(self, rows: Rows) -> NDArray[np.uint8]:
        """Return codes, [rows, row length]."""
        return unpack(self.qweight.open()[rows], _BITS, self.n_in)

    def scales(self, rows: Rows) -> NDArray[np.float32]:
        """Return scales, [rows, groups]."""
        scales = self.stored_scales.open()[rows][:, : self._n_group]
        return decode(scales, self.stored_scales.dtype)

    def zeros(self, rows: Rows) -> NDArray[np.int16]:
        """Return zero points, [rows, groups]."""
        return unpack(self.qzeros.open()[rows], _BITS, self._n_group).astype(np.int16)


def read_awq(module: Module, group_size: int, version: str) -> Codes | None:
    """Return the matrix of a module; None, and its problems noted, where it makes no sense."""
    qweight, qzeros = module.need("qweight", WORDS), module.need("qzeros", WORDS)
    scales = module.need("scales", FLOATS)
    if qweight is None or qzeros is None or scales is None or not module.is_sound():
        return None
    is_gemv = version == "gemv"
    n_out, n_in = (qweight.shape[0], qweight.shape[1] * 8) if is_gemv else (
        qweight.shape[1] * 8, qweight.shape[0])  # fmt: skip
    size = n_in if group_size < 0 else group_size
    n_group, source = -(-n_in // size), f"`group_size` {group_size}"
    if is_gemv:
        n_words = qzeros.shape[1]
        module.expect_shape(qzeros, (n_out, n_words), source)
        module.expect_shape(scales, (n_out, 8 * n_words), source)
        module.expect(n_words * 8 >= n_group, f"fewer scales than {n_group} groups")
    else:
        module.expect_shape(qzeros, (n_group, n_out // 8), source)
        module.expect_shape(scales, (n_group, n_out), source)
    if not module.is_sound():
        return None
    kind = AwqGemv if is_gemv else AwqGemm
    return kind(
        module.name, qweight.path, (n_out, n_in), "AWQ of 4 bits", _BITS, group_of(n_in, size),
        qweight, qzeros, scales,
    )  # fmt: skip
