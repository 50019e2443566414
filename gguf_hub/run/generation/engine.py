"""Generation: token ids in, one (token id, log probability) after another out.

The engine knows nothing about text, files or flags. It keeps count of what the cache holds, so
that a prompt that starts like the last one is computed only from where they differ.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import ContextFullError, UsageError
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.sampler import Sampled


class Forward(Protocol):
    """A model with its cache: what the engine needs of it.

    Attributes:
        n_ctx: Positions that the cache holds.
        n_batch: Most tokens of one pass over the weights.
    """

    n_ctx: int
    n_batch: int

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False
    ) -> NDArray[np.float32]:
        """Return logits of the last token, [1, V], or of every one, [len(tokens), V].

        ``tokens`` stand at ``position`` and after; what the cache held there is overwritten.
        """
        ...


class TokenSampler(Protocol):
    """What chooses among logits: a ``Sampler``, or something around one."""

    def sample(self, logits: NDArray[np.float32], recent: Sequence[int] = ()) -> Sampled:
        """Return the next token, given logits [V] and the ids so far."""
        ...


class Drafter(Protocol):
    """Guesses what comes next; a wrong guess costs time, never a token."""

    def draft(self, tokens: Sequence[int]) -> list[int]:
        """Return tokens that may follow; none for no guess."""
        ...


@dataclass
class Timings:
    """What a generation cost so far.

    Attributes:
        n_cached: Tokens of the prompt that the cache already held.
        n_prompt: Tokens of the prompt that were computed.
        prompt_s: Seconds for them.
        n_generated: Tokens sampled.
        generate_s: Seconds for them, from the end of the prompt.
        n_drafted: Tokens that a drafter guessed.
        n_accepted: Those of them that came true.
    """

    n_cached: int = 0
    n_prompt: int = 0
    prompt_s: float = 0.0
    n_generated: int = 0
    generate_s: float = 0.0
    n_drafted: int = 0
    n_accepted: int = 0

    @property
    def prompt_tok_per_s(self) -> float:
        """Speed of the prompt."""
        return self.n_prompt / self.prompt_s if self.prompt_s else 0.0

    @property
    def generate_tok_per_s(self) -> float:
        """Speed of generation; the first token comes with the prompt and does not count."""
        steps = max(0, self.n_generated - 1)
        return steps / self.generate_s if self.generate_s else 0.0


class Engine:
    """Generates with one model.

    Args:
        model: Computes logits; the engine alone may use its cache.
    """

    def __init__(self, model: Forward) -> None:
        self.model = model
        self.timings = Timings()
        self.finish_reason: str | None = None
        self._cached: list[int] = []
        # guessed tokens that the model has computed already, each with the logits after it
        self._ahead: deque[tuple[int, NDArray[np.float32]]] = deque()

    def prefill(self, tokens: Sequence[int], progress: Progress = SILENT) -> NDArray[np.float32]:
        """Bring the cache to hold exactly ``tokens``; compute only what it does not hold yet.

        Args:
            tokens: At least one.
            progress: Told about batches.

        Returns:
            Logits after the last token, [V].

        Raises:
            UsageError: No tokens.
            ContextFullError: More tokens than the context holds; the cache is as it was.
        """
        if not tokens:
            raise UsageError("the prompt is empty: expected at least one token")
        if len(tokens) > self.model.n_ctx:
            raise ContextFullError(
                f"the prompt has {len(tokens)} tokens, more than the context of {self.model.n_ctx}",
                hint=f"ask for a larger context: `-c {len(tokens) + 256}`, or shorten the prompt",
            )
        start = n_known(self._cached, tokens)
        began = time.perf_counter()
        with progress.task("prompt", len(tokens) - start, unit="tokens") as task:
            logits = self._fill(tokens, start, task.advance)
        self.timings.n_cached, self.timings.n_prompt = start, len(tokens) - start
        self.timings.prompt_s = time.perf_counter() - began
        return logits

    def refill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Do the same in the midst of a text: it is no prompt, and ``timings`` stay as they are.

        Args:
            tokens: At least one, and no more than the context holds.

        Returns:
            Logits after the last token, [V].
        """
        return self._fill(tokens, n_known(self._cached, tokens))

    def generate(
        self,
        prompt: Sequence[int],
        sampler: TokenSampler,
        *,
        max_tokens: int = -1,
        stop_ids: Collection[int] = (),
        drafter: Drafter | None = None,
        progress: Progress = SILENT,
    ) -> Iterator[Sampled]:
        """Yield sampled tokens after a prompt.

        Args:
            prompt: Token ids, the beginning-of-sequence token included where the model wants it.
            sampler: Chooses among the logits; sees prompt and output for its penalties.
            max_tokens: How many at most; negative for until the context is full.
            stop_ids: Tokens that end the text; they are not yielded.
            drafter: Guesses tokens, which the model checks several at a time; the text is the same
                as without. The model must give logits of as many tokens, plus one.
            progress: Told about the prompt.

        ``finish_reason`` is ``"stop"`` after a stop token and ``"length"`` after ``max_tokens`` or
        a full context; ``timings`` are of this generation.
        """
        self.timings, self.finish_reason = Timings(), None
        self._ahead.clear()
        tokens = list(prompt)
        logits = self.prefill(tokens, progress)
        began = time.perf_counter()
        while max_tokens < 0 or self.timings.n_generated < max_tokens:
            sampled = sampler.sample(logits, tokens)
            if sampled.token_id in stop_ids:
                self.finish_reason = "stop"
                return
            tokens.append(sampled.token_id)
            self.timings.n_generated += 1
            self.timings.generate_s = time.perf_counter() - began
            yield sampled
            is_last = self.timings.n_generated == max_tokens
            if is_last or len(tokens) > self.model.n_ctx:
                break
            logits = self.next_logits(tokens, drafter, max_tokens - self.timings.n_generated)
        self.finish_reason = "length"

    @property
    def cached(self) -> list[int]:
        """The tokens that the cache holds, a copy."""
        return list(self._cached)

    @property
    def n_cached(self) -> int:
        """How many tokens the cache holds."""
        return len(self._cached)

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Compute tokens after those that the cache holds; return logits after the last one, [V].

        Raises:
            UsageError: No tokens.
            ContextFullError: They do not fit.
        """
        if not tokens:
            raise UsageError("no tokens to compute: expected at least one")
        self._ahead.clear()
        for at in range(0, len(tokens), self.model.n_batch):
            logits = self._step(tokens[at : at + self.model.n_batch], len(self._cached))
        return logits

    def keep(self, n_tokens: int) -> None:
        """Forget all but the first tokens of the cache."""
        del self._cached[n_tokens:]

    def adopt(self, tokens: Sequence[int]) -> None:
        """Believe that the cache holds these tokens: somebody has put them back."""
        self._ahead.clear()
        self._cached = list(tokens)

    def next_logits(
        self, tokens: Sequence[int], drafter: Drafter | None = None, n_wanted: int = -1
    ) -> NDArray[np.float32]:
        """Return logits after the last token, [V]: from a guess that came true, or computed.

        Args:
            tokens: The whole text; all but the last are in the cache.
            drafter: Who guesses, if any.
            n_wanted: Tokens to come; negative for no limit.
        """
        if self._ahead and self._ahead[0][0] == tokens[-1]:
            self.timings.n_accepted += 1
            return self._ahead.popleft()[1]
        self._ahead.clear()
        position = len(tokens) - 1
        if drafter is None:
            return self._step(tokens[-1:], position)
        n_most = self.model.n_ctx - len(tokens)
        n_most = n_most if n_wanted < 0 else min(n_most, n_wanted - 1)
        draft = drafter.draft(tokens)[:n_most]
        if not draft:
            return self._step(tokens[-1:], position)
        self.timings.n_drafted += len(draft)
        rows = self._rows([tokens[-1], *draft], position, all_logits=True)
        self._ahead.extend(zip(draft, rows[1:], strict=True))
        first: NDArray[np.float32] = rows[0]
        return first

    def reset(self) -> None:
        """Forget what the cache holds."""
        self._cached = []

    def _fill(
        self, tokens: Sequence[int], start: int, advance: Callable[[int], None] = lambda n: None
    ) -> NDArray[np.float32]:
        """Compute tokens from ``start`` on, in batches; return logits after the last one, [V]."""
        self._ahead.clear()
        for at in range(start, len(tokens), self.model.n_batch):
            batch = tokens[at : at + self.model.n_batch]
            logits = self._step(batch, at)
            advance(len(batch))
        return logits

    def _step(self, tokens: Sequence[int], position: int) -> NDArray[np.float32]:
        """Compute tokens at a position; return logits after the last one, [V]."""
        last: NDArray[np.float32] = self._rows(tokens, position)[-1]
        return last

    def _rows(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False
    ) -> NDArray[np.float32]:
        """Compute tokens at a position; return logits after the last or after every one."""
        del self._cached[position:]  # while it runs, and if it fails, those positions are unknown
        logits = self.model.forward(tokens, position, all_logits=all_logits)
        self._cached.extend(tokens)
        return logits


def n_shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def n_known(cached: Sequence[int], tokens: Sequence[int]) -> int:
    """Return how many tokens need no computing; the last one does, for its logits."""
    return min(n_shared(cached, tokens), len(tokens) - 1)
