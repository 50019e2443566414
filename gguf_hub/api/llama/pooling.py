"""Pooling: from one vector per token to one per text."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Pooling(IntEnum):
    """Pooling types; the numbers are llama.cpp's."""

    UNSPECIFIED = -1
    NONE = 0
    MEAN = 1
    CLS = 2
    LAST = 3


def pool(
    hidden: NDArray[np.float32], pooling: Pooling, normalize: bool = False
) -> NDArray[np.float32]:
    """Return the embedding of a text.

    Args:
        hidden: [T, D].
        pooling: The pooling type.
        normalize: Scale vectors to length 1.

    Returns:
        [D], or [T, D] without pooling.
    """
    pooled = _pool(hidden, pooling)
    if not normalize:
        return pooled
    lengths = np.linalg.norm(pooled, axis=-1, keepdims=True)
    return np.asarray(pooled / np.where(lengths == 0, 1, lengths), np.float32)


def _pool(hidden: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    if pooling == Pooling.MEAN:
        return np.asarray(hidden.mean(axis=0), np.float32)
    rows = {Pooling.CLS: 0, Pooling.LAST: -1}
    return hidden[rows[pooling]] if pooling in rows else hidden
