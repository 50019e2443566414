"""Small types of llama-cpp-python's interface: states, lists of callables, errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UsageError
from gguf_hub.run.chat.formats import FORMATS

Ids = NDArray[np.intc]
Scores = NDArray[np.float32]

LogitsProcessor = Callable[[Ids, Scores], Scores]
"""Ids so far [T] and the logits [V] -> the logits to sample from."""
StoppingCriteria = Callable[[Ids, Scores], bool]
"""Ids so far [T] and the logits [V] -> whether the text ends."""


class LlamaValueError(UsageError):
    """A wrong value, where llama-cpp-python raises a ValueError too."""


class LlamaTypeError(UsageError, TypeError):
    """A value of a wrong type, where llama-cpp-python raises a TypeError too."""


class LlamaChatCompletionHandlerNotFoundException(UsageError):
    """No chat format has this name; the message has those that there are.

    Args:
        error: Of the name.
    """

    def __init__(self, error: UsageError) -> None:
        names = ", ".join(sorted(FORMATS))
        super().__init__(f"{error.message}: expected one of {names}", hint=error.hint)


@dataclass(frozen=True)
class LlamaState:
    """What ``Llama.save_state`` keeps.

    Attributes:
        input_ids: The tokens in the cache, [n_tokens].
        scores: Their logits, [n_tokens, V] with ``logits_all``, else those of the last one.
        n_tokens: How many.
        cache: The K/V cache of those positions.
        seed: Of the random numbers.
        cache_types: Of keys and values in the cache.
        model_id: Identifies models that can share it (``saved_prompt.model_id``).
    """

    input_ids: Ids
    scores: Scores
    n_tokens: int
    cache: NDArray[np.uint16]
    seed: int
    cache_types: tuple[str, str] = ("F16", "F16")
    model_id: str = ""

    @property
    def llama_state(self) -> bytes:
        """The cache as bytes."""
        return self.cache.tobytes()

    @property
    def llama_state_size(self) -> int:
        """Bytes of the cache."""
        return self.cache.nbytes

    def require_types(self, cache_types: tuple[str, str]) -> None:
        """Raise unless the state is of such keys and values.

        Raises:
            LlamaValueError: It is of others.
        """
        if self.cache_types != cache_types:
            (k, v), (own_k, own_v) = self.cache_types, cache_types
            raise LlamaValueError(
                f"the state has keys of {k} and values of {v}, the model {own_k} and {own_v}",
                hint="load it into a model with the same `type_k` and `type_v`",
            )


class LogitsProcessorList(list[LogitsProcessor]):
    """Processors that work one after another."""

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Return the processed logits."""
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


class StoppingCriteriaList(list[StoppingCriteria]):
    """Criteria, any of which ends the text."""

    def __call__(self, input_ids: Ids, logits: Scores) -> bool:
        """Return whether any criterion is met."""
        return any(criterion(input_ids, logits) for criterion in self)


class MinTokensLogitsProcessor:
    """Prevents the text from ending too early.

    Args:
        min_tokens: Minimum number of tokens.
        token_eos: The end-of-sequence token.
    """

    def __init__(self, min_tokens: int, token_eos: int) -> None:
        self.min_tokens = min_tokens
        self.token_eos = token_eos
        self.prompt_tokens: int | None = None

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Ban the end-of-sequence token until there are enough tokens."""
        if self.prompt_tokens is None:
            self.prompt_tokens = len(input_ids)
        if len(input_ids) - self.prompt_tokens < self.min_tokens:
            scores[self.token_eos] = -np.inf
        return scores
