"""Models whose predictions are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Markov:
    """Predicts from the last token alone; remembers what it was asked.

    Args:
        probs: [V, V]: after token i, token j comes with probs[i, j].
        n_batch: Most tokens of one pass.
        shift: Added to all logits, which changes nothing.
    """

    n_ctx = 10_000

    def __init__(self, probs: NDArray[np.float64], n_batch: int = 512, shift: float = 0.0) -> None:
        with np.errstate(divide="ignore"):
            self.logits = (np.log(probs) + shift).astype(np.float32)
        self.probs = probs
        self.n_batch = n_batch
        self.calls: list[tuple[list[int], int, bool]] = []

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False
    ) -> NDArray[np.float32]:
        self.calls.append((list(tokens), position, all_logits))
        return self.logits[list(tokens if all_logits else tokens[-1:])]


def random_probs(n_vocab: int, seed: int, sharpness: float = 2.0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    weights = np.exp(sharpness * rng.normal(size=(n_vocab, n_vocab)))
    return weights / weights.sum(axis=1, keepdims=True)


def random_text(n_vocab: int, n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, n_vocab, n).tolist()
