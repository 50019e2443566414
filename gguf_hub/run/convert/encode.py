"""Floats to bytes: F32, F16, BF16 and Q8_0, rows at a time; weights that do not fit are errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.types import QuantType

TYPES = (QuantType.F32, QuantType.F16, QuantType.BF16, QuantType.Q8_0)
"""What ``encode`` writes."""

_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
"""Added before the fraction is cut off, it rounds halves away from zero, and 0.49999997 to 0."""


class NotEncodableError(ValueError):
    """A weight that a type cannot hold.

    Attributes:
        index: In the flattened rows.
        hint: What to do about it.
    """

    def __init__(self, index: int, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.index = index
        self.hint = hint


def decode(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Return stored weights as float32.

    Args:
        stored: As ``StoredTensor.open`` gives them.
        dtype: ``F32``, ``F16`` or ``BF16``.
    """
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(stored, np.float32)


def encode(weights: NDArray[np.float32], type: QuantType) -> NDArray[np.uint8]:
    """Return the bytes of rows in a type.

    Args:
        weights: [rows, row length]; for Q8_0 rows that fill blocks.
        type: One of ``TYPES``.

    Returns:
        Bytes, [n].

    Raises:
        NotEncodableError: A weight is not finite, or too large for the type.
    """
    _require_finite(weights, weights, "F32")
    if type is QuantType.Q8_0:
        return _encode_q8_0(weights)
    if type is QuantType.BF16:
        return _encode_bf16(weights)
    if type is QuantType.F16:
        with np.errstate(over="ignore"):
            halves = weights.astype("<f2")
        _require_finite(halves, weights, "F16")
        return halves.reshape(-1).view(np.uint8)
    return np.ascontiguousarray(weights, "<f4").reshape(-1).view(np.uint8)


def _encode_bf16(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round to the nearest bfloat16, ties to even."""
    bits = weights.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    _require_finite(decode(rounded, "BF16"), weights, "BF16")
    return rounded.reshape(-1).view(np.uint8)


def _encode_q8_0(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blocks of 32: a half-precision scale, then bytes.

    Source: quantize_row_q8_0_ref in ggml/src/ggml-quants.c at ggml c2cdd2b2: the bytes follow from
    the scale before it is rounded to half precision, and halves are rounded away from zero.
    """
    block_size, type_size = QuantType.Q8_0.block_size, QuantType.Q8_0.type_size
    rows = weights.reshape(-1, block_size)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scale = largest / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        # a scale below the normal numbers may have no finite inverse: such blocks are zero
        inverse = np.float32(1) / scale
        halves = scale.astype("<f2")
    inverse[~np.isfinite(inverse)] = 0
    if not np.isfinite(halves).all():
        row = int(np.argmin(np.isfinite(halves)))
        index = row * block_size + int(np.abs(rows[row]).argmax())
        raise _too_large(index, float(rows.reshape(-1)[index]), "Q8_0")
    blocks = np.empty((len(rows), type_size), np.uint8)
    blocks[:, :2] = halves.view(np.uint8)
    scaled = rows * inverse
    scaled += np.copysign(_BELOW_HALF, scaled)
    blocks[:, 2:] = scaled.astype(np.int8).view(np.uint8)  # cuts the fraction off
    return blocks.reshape(-1)


def _require_finite(encoded: NDArray[Any], weights: NDArray[np.float32], type: str) -> None:
    """Raise for the first weight whose encoding is not finite."""
    finite = np.isfinite(encoded)
    if finite.all():
        return
    index = int(np.argmin(finite.reshape(-1)))
    value = float(weights.reshape(-1)[index])
    if math.isfinite(value):
        raise _too_large(index, value, type)
    reason = "is not a number (NaN)" if math.isnan(value) else "is infinite"
    raise NotEncodableError(index, reason, "the checkpoint is damaged: download it again")


def _too_large(index: int, value: float, type: str) -> NotEncodableError:
    hint = "--outtype f32 holds every weight, bf16 all but the very largest"
    return NotEncodableError(index, f"{value:g} is too large for {type}", hint)
