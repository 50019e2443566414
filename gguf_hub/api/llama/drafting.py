"""llama-cpp-python's draft models: callables that propose the next tokens of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.generation.engine import Drafter
from gguf_hub.run.generation.lookup import PromptLookup

DraftModel = Callable[[NDArray[np.intc]], Any]
"""Token ids so far, [T] -> proposed ones, as ``llama_speculative.LlamaDraftModel``."""


class LlamaPromptLookupDecoding:
    """A draft model that looks for the last tokens earlier in the text.

    Source of names and defaults: llama_cpp/llama_speculative.py of llama-cpp-python 0.3.x.

    Args:
        max_ngram_size: Most tokens that must agree.
        num_pred_tokens: Most tokens that it proposes.
    """

    def __init__(self, max_ngram_size: int = 2, num_pred_tokens: int = 10) -> None:
        self.max_ngram_size = max_ngram_size
        self.num_pred_tokens = num_pred_tokens
        self._lookup = PromptLookup(num_pred_tokens, longest=max_ngram_size, shortest=1)

    def __call__(self, input_ids: NDArray[np.intc], /, **kwargs: Any) -> NDArray[np.intc]:
        """Return the proposed ids; empty where the text has nothing alike."""
        return np.array(self._lookup.draft(input_ids.tolist()), np.intc)


class _CallableDrafter:
    """A draft model as the engine asks it."""

    def __init__(self, model: DraftModel, n_draft: int) -> None:
        self._model = model
        self.n_draft = n_draft

    def draft(self, tokens: Sequence[int]) -> list[int]:
        return [int(i) for i in self._model(np.array(tokens, np.intc))]


def drafter_of(draft_model: DraftModel | None, n_batch: int) -> Drafter | None:
    """Return what drafts for a ``Llama``.

    Args:
        draft_model: As it was given.
        n_batch: Most tokens of one pass: those drafted, and the last one of the text.
    """
    return None if draft_model is None else _CallableDrafter(draft_model, max(0, n_batch - 1))
