"""From one vector for each token to one for a text."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Pooling(IntEnum):
    """How; the numbers are llama.cpp's."""

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
        pooling: How.
        normalize: Give vectors the length 1.

    Returns:
        [D], or [T, D] without pooling.
    """
    found = _pooled(hidden, pooling)
    if not normalize:
        return found
    lengths = np.linalg.norm(found, axis=-1, keepdims=True)
    return np.asarray(found / np.where(lengths == 0, 1, lengths), np.float32)


def _pooled(hidden: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    if pooling == Pooling.MEAN:
        return np.asarray(hidden.mean(axis=0), np.float32)
    places = {Pooling.CLS: 0, Pooling.LAST: -1}
    return hidden[places[pooling]] if pooling in places else hidden
