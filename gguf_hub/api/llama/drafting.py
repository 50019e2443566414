"""llama-cpp-python's draft models: callables that propose the next tokens of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.generation.lookup import PromptLookup

DraftModel = Callable[[NDArray[np.intc]], Any]
"""Token ids so far, [T] -> proposed ones, as ``llama_speculative.LlamaDraftModel``."""


class LlamaPromptLookupDecoding:
    """A draft model that looks for the last tokens earlier in the text.

    Source of names and defaults: llama_cpp/llama_speculative.py of llama-cpp-python 0.3.x.

    Args:
        max_ngram_size: Longest n-gram to look for.
        num_pred_tokens: Maximum length of a draft.
    """

    def __init__(self, max_ngram_size: int = 2, num_pred_tokens: int = 10) -> None:
        self.max_ngram_size = max_ngram_size
        self.num_pred_tokens = num_pred_tokens
        self._lookup = PromptLookup(num_pred_tokens, longest=max_ngram_size, shortest=1)

    def __call__(self, input_ids: NDArray[np.intc], /, **kwargs: Any) -> NDArray[np.intc]:
        """Return the draft; empty without an earlier occurrence."""
        return np.array(self._lookup.draft(input_ids.tolist()), np.intc)


class CallableDrafter:
    """A draft model as the engine's ``Drafter``.

    Args:
        model: The draft model.
        n_draft: Maximum length of a draft.
    """

    def __init__(self, model: DraftModel, n_draft: int) -> None:
        self._model = model
        self.n_draft = n_draft

    def draft(self, tokens: Sequence[int]) -> list[int]:
        """Return tokens that may follow."""
        return [int(i) for i in self._model(np.array(tokens, np.intc))]
