"""Pooling: from one vector per token to one per text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.run.tokenizer import Tokenizer


class Pooling(IntEnum):
    """Pooling types; the numbers are llama.cpp's."""

    UNSPECIFIED = -1
    NONE = 0
    MEAN = 1
    CLS = 2
    LAST = 3


def file_pooling(metadata: Mapping[str, Any]) -> Pooling:
    """Return how a model's file asks to pool; ``NONE`` where it does not.

    Raises:
        UnsupportedGgufError: It has a type that does not run here, e.g. a reranker's.
    """
    return Pooling(HyperParameters(metadata).pooling_type)


def text_pooling(metadata: Mapping[str, Any]) -> Pooling:
    """Return how to pool where a text has one vector: as ``file_pooling``, or the mean."""
    return file_pooling(metadata) or Pooling.MEAN


def shorten(tokens: Sequence[int], n_tokens: int, tokenizer: Tokenizer) -> list[int]:
    """Return the first tokens of a text; what ends every text stays at its end."""
    if len(tokens) <= n_tokens or tokenizer.end_id is None:
        return list(tokens[:n_tokens])
    return [*tokens[: n_tokens - 1], tokenizer.end_id]


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
