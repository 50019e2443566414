"""Checks token ids before kernels index the embeddings with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gguf_hub.errors import TokenIdError


def check_token_ids(tokens: Sequence[int], positions: Sequence[int], n_vocab: int) -> None:
    """Raise unless all token ids are in [0, n_vocab): kernels index the embeddings with them.

    Raises:
        TokenIdError: Names the first one that is not, and its position.
    """
    if not len(tokens):
        return
    if len(tokens) == 1:  # two comparisons; numpy's cost more
        if 0 <= tokens[0] < n_vocab:
            return
    else:
        ids = np.asarray(tokens)
        if ids.min() >= 0 and ids.max() < n_vocab:  # false for a NaN, too
            return
    at = next(i for i, token in enumerate(tokens) if not 0 <= token < n_vocab)
    raise TokenIdError(tokens[at], positions[at], n_vocab)
