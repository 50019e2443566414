"""Drafts of a second, smaller model with the same vocabulary.

Source of names, defaults and bounds: llama.cpp, common/speculative.cpp and common/arg.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import GgufError, UsageError
from gguf_hub.run.generation.engine import Drafter, Engine
from gguf_hub.run.sampler import Proposal, Proposer

if TYPE_CHECKING:
    from gguf_hub.run.tokenizer import Tokenizer, Vocab

_MAX_DIFFERENCE = 128
"""Tokens that one vocabulary may have more than the other: models are padded differently."""
_FIRST_COMPARED = 5
"""Tokens before are controls, which files write differently."""


@dataclass(frozen=True)
class DraftSettings:
    """What a draft model does, under llama.cpp's names.

    Attributes:
        path: Its file; None for no draft model.
        n_max: Maximum length of a draft.
        n_min: Minimum length.
        p_min: How likely the likeliest token must be for the draft model to go on.
    """

    path: Path | None = None
    n_max: int = 16
    n_min: int = 0
    p_min: float = 0.75

    def check(self) -> None:
        """Refuse values that no draft can have.

        Raises:
            UsageError: Names the setting, its range and its value.
        """
        if self.n_max < 0:
            raise UsageError(f"draft_max {self.n_max}: expected 0 or more")
        if not 0 <= self.n_min <= self.n_max:
            raise UsageError(
                f"draft_min {self.n_min}: expected 0 to {self.n_max}, the maximum of a draft",
                hint="`--draft-max` sets the maximum",
            )
        if not 0 <= self.p_min <= 1:
            raise UsageError(f"draft_p_min {self.p_min:g}: expected 0 to 1")


NO_DRAFT = DraftSettings()
"""No draft model."""


class ModelDrafter(Drafter):
    """Drafts with a model, which has a cache for each slot of the model that checks.

    Args:
        engine_of: Returns the engine of the draft model for a slot.
        vocab_sizes: Tokens of the draft model, and of the model that checks.
        settings: Lengths.
        hold: Returns what is entered while the draft model computes.
        slot: For whose texts.
    """

    def __init__(
        self,
        engine_of: Callable[[int], Engine],
        vocab_sizes: tuple[int, int],
        settings: DraftSettings,
        hold: Callable[[], AbstractContextManager[object]] = nullcontext,
        slot: int = 0,
    ) -> None:
        self.n_draft, self.n_min = settings.n_max, settings.n_min
        self._arguments = engine_of, vocab_sizes, settings, hold
        self._n_vocab, self._n_checked = vocab_sizes
        self._p_min, self._hold = settings.p_min, hold
        self._engine = engine_of(slot)

    def of_slot(self, slot: int) -> Drafter:
        """Return what drafts for the texts of one slot."""
        return ModelDrafter(*self._arguments, slot)

    def read(self, tokens: Sequence[int]) -> None:
        """Compute a prompt: all but the last token, which a draft begins with."""
        if self._has_room(tokens, 0) and len(tokens) > 1:
            with self._hold():
                self._engine.prefill(tokens[:-1])

    def draft(
        self, tokens: Sequence[int], limit: int, proposer: Callable[[], Proposer]
    ) -> list[Proposal]:
        """See ``Drafter.draft``."""
        if not self._has_room(tokens, limit):
            return []
        with self._hold():
            return list(self._draft(tokens, min(limit, self.n_draft), proposer()))

    def _draft(self, tokens: Sequence[int], limit: int, proposer: Proposer) -> Iterator[Proposal]:
        logits = self._engine.prefill(tokens)[: self._n_checked]
        for n_drafted in range(limit):
            if self._is_unsure(logits, n_drafted):
                return
            proposal = proposer.choose(logits)
            if proposal is None:
                return
            yield proposal
            if n_drafted + 1 < limit:
                logits = self._engine.extend([proposal.token_id])[: self._n_checked]

    def _is_unsure(self, logits: NDArray[np.float32], n_drafted: int) -> bool:
        """Return whether a draft of so many tokens ends here.

        Decided before a token is drawn: whether one is drafted must not depend on which it is.

        Raises:
            GgufError: The logits hold NaN or infinity.
        """
        top = float(logits.max())
        if not np.isfinite(top):
            raise GgufError(
                "the draft model computed logits that are no finite numbers: its weights are "
                "damaged",
                hint="`gguf-hub verify --deep` finds the tensor",
            )
        if n_drafted < self.n_min or not self._p_min:
            return False
        return 1 / float(np.exp(logits - top).sum(dtype=np.float64)) < self._p_min

    def _has_room(self, tokens: Sequence[int], n: int) -> bool:
        """Return whether the draft model has all tokens, and positions for them and more."""
        is_known = self._n_vocab >= self._n_checked or max(tokens, default=0) < self._n_vocab
        return is_known and len(tokens) + n <= self._engine.model.n_ctx


def require_same_vocabulary(checked: Tokenizer, draft: Tokenizer, draft_name: str) -> None:
    """Refuse a draft model whose tokens mean something else.

    Args:
        checked: Tokenizer of the model that checks.
        draft: Of the draft model.
        draft_name: Of the draft model, for the message.

    Raises:
        UsageError: Says what differs first.
    """
    if difference := _difference(checked.vocab, draft.vocab):
        raise UsageError(
            f"`{draft_name}` cannot draft for this model: {difference}",
            hint="take a smaller model of the same family; `gguf-hub inspect` shows vocabularies",
        )


def _difference(one: Vocab, other: Vocab) -> str | None:
    """Return the first difference that makes drafts useless; None where there is none."""
    if one.model != other.model:
        return f"its vocabulary is of kind `{other.model}`, expected `{one.model}`"
    if abs(len(one) - len(other)) > _MAX_DIFFERENCE:
        return (f"its vocabulary has {len(other):,} tokens, expected {len(one):,}, or at most "
                f"{_MAX_DIFFERENCE} more or fewer")  # fmt: skip
    for name in ("bos", "eos"):
        own, its = (_edge(vocab, name) for vocab in (one, other))
        if own != its:
            return f"its texts have {its}, expected {own}"
    for i in range(_FIRST_COMPARED, min(len(one), len(other))):
        if one.tokens[i] != other.tokens[i]:
            return f"token {i} is {other.tokens[i]!r} there, expected {one.tokens[i]!r}"
    return None


def _edge(vocab: Vocab, name: str) -> str:
    """Return what a text gets at one end."""
    token_id = getattr(vocab, f"{name}_id")
    return f"token {token_id} as {name}" if getattr(vocab, f"add_{name}") else f"no {name}"
