"""Pooling: from one vector per token to one per text, and the length that it has then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UsageError
from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.run.tokenizer import Tokenizer


class Pooling(IntEnum):
    """Pooling types; the numbers are llama.cpp's. ``RANK`` scores a text (``classifier``)."""

    UNSPECIFIED = -1
    NONE = 0
    MEAN = 1
    CLS = 2
    LAST = 3
    RANK = 4

    @property
    def word(self) -> str:
        """Its name on the command line."""
        return self.name.lower()


NO_NORM, MAX_ABS, TAXICAB, EUCLIDEAN = -1, 0, 1, 2
"""llama.cpp's numbers of norms; one above them is the p of a p-norm."""
_LARGEST_INT16 = 32760.0  # as in llama.cpp


def file_pooling(metadata: Mapping[str, Any]) -> Pooling:
    """Return how a model's file asks to pool; ``NONE`` where it does not.

    Raises:
        UnsupportedGgufError: It has a type that does not run here.
    """
    return Pooling(HyperParameters(metadata).pooling_type)


def shorten(tokens: Sequence[int], n_tokens: int, tokenizer: Tokenizer) -> list[int]:
    """Return the first tokens of a text; what ends every text stays at its end."""
    if len(tokens) <= n_tokens or tokenizer.end_id is None:
        return list(tokens[:n_tokens])
    return [*tokens[: n_tokens - 1], tokenizer.end_id]


def pool(hidden: NDArray[np.float32], pooling: Pooling, norm: int = NO_NORM) -> NDArray[np.float32]:
    """Return the embedding of a text.

    Args:
        hidden: [T, D].
        pooling: The pooling type; none that scores texts.
        norm: See ``scaled``.

    Returns:
        [D], or [T, D] without pooling.
    """
    return scaled(_pool(hidden, pooling), norm)


def _pool(hidden: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    assert pooling != Pooling.RANK
    if pooling == Pooling.MEAN:
        return np.asarray(hidden.mean(axis=0), np.float32)
    rows = {Pooling.CLS: 0, Pooling.LAST: -1}
    return hidden[rows[pooling]] if pooling in rows else hidden


def check_norm(norm: int, name: str) -> int:
    """Return a number of a norm.

    Raises:
        UsageError: There is no such norm.
    """
    if norm < NO_NORM:
        raise UsageError(
            f"{name}: expected -1 (none), 0 (largest number 32760), 1 (taxicab), 2 (Euclidean) or "
            f"a larger p of a p-norm, found {norm}"
        )
    return norm


def scaled(vectors: NDArray[np.float32], norm: int) -> NDArray[np.float32]:
    """Return vectors scaled to length 1 by a norm; zeros stay zeros.

    Source: ``common_embd_normalize`` in common/common.cpp of llama.cpp.

    Args:
        vectors: [..., D].
        norm: -1: as they are. 0: so that the largest number is 32760, as of 16-bit integers. Else
            the p of the p-norm: 1 is the taxicab's, 2 Euclid's.
    """
    if norm == NO_NORM:
        return vectors
    size = np.abs(vectors.astype(np.float64))
    largest = size.max(axis=-1, keepdims=True)
    largest = np.where(largest == 0, 1, largest)
    if norm == MAX_ABS:
        length = largest / _LARGEST_INT16
    else:  # of parts of the largest, whose powers cannot overflow
        powers = ((size / largest) ** norm).sum(axis=-1, keepdims=True)
        length = largest * np.where(powers == 0, 1, powers) ** (1 / norm)
    return np.asarray(vectors / length, np.float32)
