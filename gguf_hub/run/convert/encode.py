"""Floats to bytes: F32, F16, BF16 and Q8_0, rows at a time; weights that do not fit are errors."""

from __future__ import annotations

import math
from functools import lru_cache
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
        dtype: A key of ``checkpoint.DTYPES``.
    """
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if dtype in _EIGHT_BITS:
        values: NDArray[np.float32] = _values_of_eight_bits(*_EIGHT_BITS[dtype])[stored]
        return values
    return np.asarray(stored, np.float32)


_EIGHT_BITS = {"F8_E4M3": (3, False), "F8_E5M2": (2, True)}
"""Bits of the fraction, and whether the largest exponent is kept for infinities, as in IEEE 754."""


@lru_cache
def _values_of_eight_bits(n_fraction: int, has_infinity: bool) -> NDArray[np.float32]:
    """Return what each of 256 codes stands for, [256].

    Source: arXiv 2209.05433, table 1: E4M3 has no infinities, and NaN where all bits are set.
    """
    codes = np.arange(256)
    n_exponent = 7 - n_fraction
    bias = (1 << n_exponent - 1) - 1
    exponent, fraction = codes >> n_fraction & (1 << n_exponent) - 1, codes & (1 << n_fraction) - 1
    is_normal = exponent > 0
    scaled = (fraction + (is_normal * (1 << n_fraction))) / (1 << n_fraction)
    values = np.ldexp(scaled, np.maximum(exponent, 1) - bias)
    if has_infinity:
        values[exponent == (1 << n_exponent) - 1] = np.nan
        values[(exponent == (1 << n_exponent) - 1) & (fraction == 0)] = np.inf
    else:
        values[codes & 127 == 127] = np.nan
    signed: NDArray[np.float32] = np.where(codes > 127, -values, values).astype(np.float32)
    return signed


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
    require_finite(weights, weights, "F32")
    if type is QuantType.Q8_0:
        return _encode_q8_0(weights)
    if type is QuantType.BF16:
        return _encode_bf16(weights)
    if type is QuantType.F16:
        with np.errstate(over="ignore"):
            halves = weights.astype("<f2")
        require_finite(halves, weights, "F16")
        return halves.reshape(-1).view(np.uint8)
    return np.ascontiguousarray(weights, "<f4").reshape(-1).view(np.uint8)


def _encode_bf16(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round to the nearest bfloat16, ties to even."""
    bits = weights.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    require_finite(decode(rounded, "BF16"), weights, "BF16")
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
        raise too_large(index, float(rows.reshape(-1)[index]), "Q8_0")
    blocks = np.empty((len(rows), type_size), np.uint8)
    blocks[:, :2] = halves.view(np.uint8)
    scaled = rows * inverse
    scaled += np.copysign(_BELOW_HALF, scaled)
    blocks[:, 2:] = scaled.astype(np.int8).view(np.uint8)  # cuts the fraction off
    return blocks.reshape(-1)


def require_finite(encoded: NDArray[Any], weights: NDArray[np.float32], type: str) -> None:
    """Raise for the first weight whose encoding is not finite."""
    finite = np.isfinite(encoded)
    if finite.all():
        return
    index = int(np.argmin(finite.reshape(-1)))
    value = float(weights.reshape(-1)[index])
    if math.isfinite(value):
        raise too_large(index, value, type)
    reason = "is not a number (NaN)" if math.isnan(value) else "is infinite"
    raise NotEncodableError(index, reason, "the checkpoint is damaged: download it again")


def too_large(index: int, value: float, type: str) -> NotEncodableError:
    """Return the error for a value that is beyond what a type holds."""
    hint = "--outtype f32 holds every weight, bf16 all but the very largest"
    return NotEncodableError(index, f"{value:g} is too large for {type}", hint)
