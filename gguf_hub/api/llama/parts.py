"""Small things that llama-cpp-python's programs handle: states, lists of callables, errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UsageError

Ids = NDArray[np.intc]
Scores = NDArray[np.float32]


class LlamaValueError(UsageError, ValueError):
    """A wrong value, where llama-cpp-python raises a ValueError too."""


@dataclass(frozen=True)
class LlamaState:
    """What ``Llama.save_state`` keeps.

    Attributes:
        input_ids: The tokens that the cache held, [n_tokens].
        scores: Their logits, [n_tokens, V] with ``logits_all``, else those of the last one.
        n_tokens: How many.
        cache: The K/V cache of those positions.
        seed: Of the random numbers.
    """

    input_ids: Ids
    scores: Scores
    n_tokens: int
    cache: NDArray[np.uint16]
    seed: int

    @property
    def llama_state_size(self) -> int:
        """Bytes of the cache."""
        return self.cache.nbytes


class LogitsProcessorList(list[Callable[[Ids, Scores], Scores]]):
    """Processors that work one after another."""

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Return what the last one makes of the logits."""
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


class StoppingCriteriaList(list[Callable[[Ids, Scores], bool]]):
    """Criteria of which one is enough."""

    def __call__(self, input_ids: Ids, logits: Scores) -> bool:
        """Tell whether any says stop."""
        return any(criterion(input_ids, logits) for criterion in self)


class MinTokensLogitsProcessor:
    """Keeps the text from ending too early.

    Args:
        min_tokens: Tokens that must come first.
        token_eos: The token that ends a text.
    """

    def __init__(self, min_tokens: int, token_eos: int) -> None:
        self.min_tokens = min_tokens
        self.token_eos = token_eos
        self.prompt_tokens: int | None = None

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Forbid the end as long as there are too few tokens."""
        if self.prompt_tokens is None:
            self.prompt_tokens = len(input_ids)
        if len(input_ids) - self.prompt_tokens < self.min_tokens:
            scores[self.token_eos] = -np.inf
        return scores
