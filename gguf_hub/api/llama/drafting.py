"""llama-cpp-python's draft models: callables that propose the next tokens of a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.generation.engine import Drafter
from gguf_hub.run.generation.lookup import PromptLookup
from gguf_hub.run.generation.model_drafter import (
    DraftSettings,
    ModelDrafter,
    require_same_vocabulary,
)
from gguf_hub.run.opening import require_drafts
from gguf_hub.run.sampler import Proposal, Proposer

if TYPE_CHECKING:
    from gguf_hub.run.generation.engine import Engine
    from gguf_hub.run.opening import LoadedModel
    from gguf_hub.run.tokenizer import Tokenizer

DraftModel = Callable[[NDArray[np.intc]], Any]
"""Token ids so far, [T] -> proposed ones, as ``llama_speculative.LlamaDraftModel``."""


class LlamaDraftModel(ABC):
    """What may draft tokens: any callable of this form does, too."""

    @abstractmethod
    def __call__(self, input_ids: NDArray[np.intc], /, **kwargs: Any) -> NDArray[np.intc]:
        """Return tokens that may follow, none or more.

        Args:
            input_ids: Token ids so far, [T].
            kwargs: None so far.
        """


class LlamaPromptLookupDecoding(LlamaDraftModel):
    """A draft model that looks for the last tokens earlier in the text.

    Source of names and defaults: llama_cpp/llama_speculative.py of llama-cpp-python 0.3.x.

    Args:
        max_ngram_size: Longest n-gram to look for.
        num_pred_tokens: Maximum length of a draft.
    """

    def __init__(self, max_ngram_size: int = 2, num_pred_tokens: int = 10) -> None:
        self.max_ngram_size = max_ngram_size
        self.num_pred_tokens = num_pred_tokens

    @staticmethod
    def find_candidate_pred_tokens(
        input_ids: NDArray[np.intc], max_ngram_size: int, num_pred_tokens: int
    ) -> NDArray[np.intc]:
        """Return the draft; empty without an earlier occurrence."""
        lookup = PromptLookup(num_pred_tokens, longest=max_ngram_size, shortest=1)
        return np.array(lookup.following(input_ids.tolist(), num_pred_tokens), np.intc)

    def __call__(self, input_ids: NDArray[np.intc], /, **kwargs: Any) -> NDArray[np.intc]:
        """Return the draft; empty without an earlier occurrence."""
        return self.find_candidate_pred_tokens(input_ids, self.max_ngram_size, self.num_pred_tokens)


class CallableDrafter(Drafter):
    """A draft model as the engine's ``Drafter``: it decides itself how much it drafts.

    Args:
        model: The draft model.
        n_draft: Maximum length of a draft.
    """

    def __init__(self, model: DraftModel, n_draft: int) -> None:
        self._model = model
        self.n_draft = self.n_min = n_draft

    def draft(
        self, tokens: Sequence[int], limit: int, proposer: Callable[[], Proposer]
    ) -> list[Proposal]:
        """See ``Drafter.draft``."""
        proposed = self._model(np.array(tokens, np.intc))
        return [Proposal(int(token_id)) for token_id in proposed[:limit]]


def drafter_of_model(
    draft: LoadedModel,
    engine: Engine,
    hold: Callable[[], AbstractContextManager[object]],
    checked: Tokenizer,
    n_draft: int,
) -> ModelDrafter:
    """Return the model of another ``Llama`` as the engine's ``Drafter``, with llama.cpp's defaults.

    Args:
        draft: The model; who opened it may go on using it, and closes it.
        engine: Its engine.
        hold: Returns what is entered while it computes.
        checked: Tokenizer of the model that checks.
        n_draft: Maximum length of a draft.

    Raises:
        UsageError: It cannot draft for that model.
    """
    require_drafts(draft.file)
    require_same_vocabulary(checked, draft.tokenizer, draft.path.name)
    sizes, settings = (draft.tokenizer.n_vocab, checked.n_vocab), DraftSettings()
    settings = replace(settings, n_max=min(settings.n_max, n_draft))
    return ModelDrafter(lambda slot: engine, sizes, settings, hold)
