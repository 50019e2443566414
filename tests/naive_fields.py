"""Packed fields of blocks spread out into one integer for each weight, for the oracles."""

from __future__ import annotations

import numpy as np

F16, U8, I8, U16, U32 = "<f2", "u1", "i1", "<u2", "<u4"


def single(field: np.ndarray) -> np.ndarray:
    """Half precision to float32, [B]."""
    return field.astype(np.float32)


def nibbles(qs: np.ndarray) -> np.ndarray:
    """[..., b] bytes -> [..., 2 b]: all low halves, then all high halves."""
    return np.concatenate([qs & 15, qs >> 4], axis=-1).astype(np.int32)


def bits(qh: np.ndarray) -> np.ndarray:
    """[..., b] bytes -> [..., 8 b] bits, least significant first."""
    return np.unpackbits(qh, axis=-1, bitorder="little").astype(np.int32)


def pairs(qs: np.ndarray) -> np.ndarray:
    """[..., b] bytes -> [..., 4 b]: the four pairs of bits, the lowest pair of all bytes first."""
    return np.concatenate([qs >> s & 3 for s in (0, 2, 4, 6)], axis=-1).astype(np.int32)
