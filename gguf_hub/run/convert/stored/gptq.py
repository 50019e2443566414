"""GPTQ: codes packed along the columns of a transposed matrix, zero points along its rows.

``qweight`` [n_in * bits / 32, n_out] and ``qzeros`` [groups, n_out * bits / 32] hold 32-bit words,
``scales`` is [groups, n_out], ``g_idx`` [n_in] the group of each column, which act-order makes
irregular. Checkpoints of format ``gptq`` hold every zero point less 1, ``gptq_v2`` itself.

Source: QuantLinear.pack of AutoGPTQ 0.7 and BaseQuantLinear.dequantize_weight of GPTQModel 7.7.
Kernels for ExLlama and Marlin repack when they load; files hold this layout.
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

SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class Gptq(Codes):
    """A matrix of a GPTQ checkpoint."""

    qweight: StoredTensor
    qzeros: StoredTensor
    stored_scales: StoredTensor
    zero_offset: int

    def codes(self, rows: Rows) -> NDArray[np.uint8]:
        """Return codes, [rows, row length]."""
        return unpack(self.qweight.open()[:, rows].T, self.bits, self.n_in)

    def scales(self, rows: Rows) -> NDArray[np.float32]:
        """Return scales, [rows, groups]."""
        return decode(self.stored_scales.open()[:, rows].T, self.stored_scales.dtype)

    def zeros(self, rows: Rows) -> NDArray[np.int16]:
        """Return zero points, [rows, groups]."""
        starts = np.arange(self.shape[0], dtype=np.int64)[rows] * self.bits
        stored = pick(self.qzeros.open(), starts, self.bits)
        zeros: NDArray[np.int16] = stored.T.astype(np.int16) + np.int16(self.zero_offset)
        return zeros


@dataclass(frozen=True)
class GptqSettings:
    """What a configuration says of all matrices.

    Attributes:
        bits: Of a code; None where matrices differ.
        group_size: Columns; -1 for all; None where matrices differ.
        is_v2: Whether zero points are stored as they are.
    """

    bits: int | None
    group_size: int | None
    is_v2: bool


def read_gptq(module: Module, settings: GptqSettings) -> Gptq | None:
    """Return the matrix of a module; None, and its problems noted, where it makes no sense."""
    qweight, qzeros = module.need("qweight", WORDS), module.need("qzeros", WORDS)
    scales, g_idx = module.need("scales", FLOATS), module.find("g_idx", WORDS, (1,))
    if qweight is None or qzeros is None or scales is None or not module.is_sound():
        return None
    n_group, n_out = scales.shape
    bits = settings.bits or (qzeros.shape[1] * 32 // n_out if n_out else 0)
    module.expect(bits in (2, 3, 4, 8), f"expected codes of 2, 3, 4 or 8 bits, found {bits}")
    if not module.is_sound():
        return None
    n_in = qweight.shape[0] * 32 // bits
    size = settings.group_size
    n_expected = n_group if size is None else 1 if size < 0 else -(-n_in // size)
    source = f"`bits` {bits} and `group_size` {size}"
    module.expect_shape(scales, (n_expected, n_out), source)
    module.expect_shape(qweight, (n_in * bits // 32, n_out), source)
    module.expect_shape(qzeros, (n_group, n_out * bits // 32), source)
    module.expect(n_in * bits % 32 == n_out * bits % 32 == 0, "rows or columns that fill no words")
    if g_idx is not None:
        module.expect_shape(g_idx, (n_in,), source)
    if not module.is_sound():
        return None
    groups = group_of(n_in, -(-n_in // n_group)) if g_idx is None else np.array(g_idx.open(), "i8")
    is_inside = bool(((groups >= 0) & (groups < n_group)).all())
    module.expect(is_inside, f"`g_idx` holds a group beyond the {n_group} of `scales`")
    if not module.is_sound():
        return None
    kind, offset = f"GPTQ of {bits} bits", 0 if settings.is_v2 else 1
    return Gptq(
        module.name, qweight.path, (n_out, n_in), kind, bits, groups, qweight, qzeros, scales,
        offset,
    )  # fmt: skip
