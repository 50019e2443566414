"""compressed-tensors: integers with a scale for each row, or for groups of its columns.

``pack-quantized``: ``weight_packed`` [n_out, words] holds codes along the columns, each more by
half the range than the integer; ``weight_shape`` the shape, ``weight_zero_point`` [words, groups]
is packed along the rows, ``weight_g_idx`` as in GPTQ. ``int-quantized``: ``weight`` is int8.

Source: compressors/pack_quantized of compressed-tensors 0.20.1.
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


@dataclass(frozen=True)
class Compressed(Codes):
    """A matrix of integers, packed or as bytes."""

    stored: StoredTensor
    stored_scales: StoredTensor
    zero_points: StoredTensor | None

    @property
    def _middle(self) -> int:
        return 1 << self.bits - 1

    def codes(self, rows: Rows) -> NDArray[np.uint8]:
        """Return codes, [rows, row length]."""
        values = self.stored.open()[rows]
        if self.stored.dtype == "I8":
            codes: NDArray[np.uint8] = values.view(np.uint8) ^ np.uint8(128)
            return codes
        return unpack(values, self.bits, self.n_in)

    def scales(self, rows: Rows) -> NDArray[np.float32]:
        """Return scales, [rows, groups]."""
        scales = self.stored_scales.open().reshape(-1, self._n_group)
        if len(scales) == 1 < self.shape[0]:  # one for the whole matrix
            scales = np.broadcast_to(scales, (self.shape[0], 1))
        return decode(scales[rows], self.stored_scales.dtype)

    def zeros(self, rows: Rows) -> NDArray[np.int16]:
        """Return zero points, [rows, groups]."""
        numbers = np.arange(self.shape[0], dtype=np.int64)[rows]
        if self.zero_points is None:
            return np.full((len(numbers), self._n_group), self._middle, np.int16)
        stored = self.zero_points.open()
        zeros: NDArray[np.int16]
        if self.zero_points.dtype == "I8":
            zeros = stored.reshape(-1, self._n_group)[numbers].astype(np.int16)
            zeros += np.int16(self._middle)
        else:
            zeros = pick(stored.T, numbers * self.bits, self.bits).T.astype(np.int16)
        return zeros

    @property
    def _n_group(self) -> int:
        return int(self.groups.max()) + 1


def read_compressed(module: Module, bits: int, group_size: int | None) -> Compressed | None:
    """Return the matrix of a module; None, and its problems noted, where it makes no sense.

    Args:
        module: Its tensors.
        bits: Of a code.
        group_size: Columns; None for one scale a row.
    """
    shape = module.need("weight_shape", ("I64", "I32"), (1,))
    packed = module.need("weight_packed", WORDS)
    if shape is None or packed is None:
        return None
    sizes = tuple(int(n) for n in shape.open())
    module.expect(len(sizes) == 2 and min(sizes) > 0, f"`weight_shape` is {list(sizes)}")
    if not module.is_sound():
        return None
    n_words = -(-sizes[1] * bits // 32)
    module.expect_shape(packed, (sizes[0], n_words), f"`weight_shape` and {bits} bits")
    return _with_scales(module, packed, sizes, bits, group_size)


def read_int8(module: Module, group_size: int | None) -> Compressed | None:
    """Return a matrix of int8; None, and its problems noted, where it makes no sense."""
    stored = module.need("weight", ("I8",))
    if stored is None:
        return None
    return _with_scales(module, stored, stored.shape, 8, group_size)


def _with_scales(
    module: Module, stored: StoredTensor, shape: tuple[int, ...], bits: int, group_size: int | None
) -> Compressed | None:
    n_out, n_in = shape
    scales = module.need("weight_scale", FLOATS, (0, 1, 2))
    zeros = module.find("weight_zero_point", ("I32", "I8"))
    g_idx = module.find("weight_g_idx", WORDS, (1,))
    if scales is None:
        return None
    size = group_size or n_in
    n_group = -(-n_in // size)
    if scales.shape not in ((), (1,), (n_out,)) or group_size:
        module.expect_shape(scales, (n_out, n_group), f"groups of {size} columns")
    if zeros is not None:
        rows = n_out if zeros.dtype == "I8" else -(-n_out * bits // 32)
        module.expect_shape(zeros, (rows, n_group), f"groups of {size} columns")
    groups = group_of(n_in, size)
    if g_idx is not None:
        module.expect_shape(g_idx, (n_in,), "`weight_shape`")
        groups = np.array(g_idx.open(), np.int64)
        is_inside = bool(((groups >= 0) & (groups < n_group)).all())
        module.expect(is_inside, f"`weight_g_idx` holds a group beyond the {n_group} of the scales")
    if not module.is_sound():
        return None
    return Compressed(
        module.name, stored.path, (n_out, n_in), f"integers of {bits} bits", bits, groups,
        stored, scales, zeros,
    )  # fmt: skip
