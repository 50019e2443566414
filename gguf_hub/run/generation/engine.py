"""The generation loop: runs the model and passes its logits to a ``Generation``.

The engine knows nothing about characters, files or flags. It tracks the tokens in the K/V cache, so
that only the part of a prompt after the common prefix is computed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import CacheLostError, ContextFullError, UsageError
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.generation.generation import Generation, TextDelta

_TAIL = 4
"""Tokens at a prompt's end that are computed after its checkpoint: templates put there what another
turn's rendering leaves out, such as the beginning of an empty thought. As in llama-server."""


class Forward(Protocol):
    """A model with its K/V cache, as the engine uses it.

    Attributes:
        n_ctx: Positions that the cache holds.
        n_batch: Maximum batch size in tokens.
        has_states: Whether layers carry a state: the cache cannot go back to any position.
    """

    n_ctx: int
    n_batch: int
    has_states: bool = False

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False, slot: int = 0
    ) -> NDArray[np.float32]:
        """Return logits of the last token, [1, V], or of every one, [len(tokens), V].

        ``tokens`` stand at ``position`` and after; what the cache held there is overwritten.
        """
        ...

    def reusable(self, n_positions: int, slot: int = 0) -> int:
        """Return how many of the first positions of the cache can be gone on from."""
        return n_positions

    def checkpoint(self, n_positions: int, slot: int = 0) -> None:
        """Keep the first positions reusable, which the cache holds, whatever comes after."""


class Drafter(Protocol):
    """Drafts the next tokens; a wrong draft costs time, never a token.

    Attributes:
        n_draft: Maximum length of a draft.
    """

    n_draft: int

    def draft(self, tokens: Sequence[int]) -> list[int]:
        """Return tokens that may follow; an empty list for no draft."""
        ...


class Engine:
    """Runs a model on one of its K/V caches, and tracks the tokens in it.

    Several texts may take turns: what the cache lacks of a text is computed again.

    Args:
        model: The model; nothing else may use this cache.
        slot: Which of the model's caches.
        drafter: Drafts tokens that the model checks in one pass; the text stays the same. The
            model must return logits of as many tokens, plus one.
    """

    def __init__(self, model: Forward, *, slot: int = 0, drafter: Drafter | None = None) -> None:
        self.model = model
        self.slot = slot
        self.drafter = drafter
        self._cached: list[int] = []
        # the text in the cache, and its number of context shifts then
        self._text: Generation | None = None
        self._n_shifts = 0
        # draft tokens that the model has computed after those in the cache, with the logits after
        self._draft_logits: deque[tuple[int, NDArray[np.float32]]] = deque()

    # -- texts -----------------------------------------------------------------------------------

    def stream(self, text: Generation, progress: Progress = SILENT) -> Iterator[TextDelta]:
        """Yield a text token by token, until it ends.

        Args:
            text: The text; others may use the cache between two tokens.
            progress: Notified about the prompt.

        Raises:
            UsageError: The prompt is empty.
            ContextFullError: It has more tokens than the context holds; the cache is unchanged.
        """
        n_ctx, n_tokens = self.model.n_ctx, len(text.window)
        if not n_tokens:
            raise UsageError("the prompt is empty: expected at least one token")
        if n_tokens > n_ctx:
            raise ContextFullError(
                f"the prompt has {n_tokens} tokens, more than the context of {n_ctx}",
                hint=f"use a larger context, `-c {n_tokens + 256}`, or shorten the prompt",
            )
        if (last := text.begin()) is not None:
            yield last
            return
        with progress.task("prompt", n_tokens - self.n_known(text), unit="tokens") as task:
            delta = self.step(text, task.advance)
            while delta is None:
                delta = self.step(text, task.advance)
        yield delta
        while not text.is_done:
            if (delta := self.step(text)) is not None:
                yield delta

    def step(
        self, text: Generation, advance: Callable[[int], None] = lambda n: None
    ) -> TextDelta | None:
        """Compute what the cache lacks of a text, one batch at most, and take its next token.

        Args:
            text: Not done yet.
            advance: Called with the number of tokens computed.

        Returns:
            What the token adds to the text, or None while the cache lacks more of it: while the
            prompt is incomplete, or after a GPU failed and the model goes on without it.
        """
        try:
            return self._step(text, advance)
        except CacheLostError:
            self.reset()
            return None

    def _step(self, text: Generation, advance: Callable[[int], None]) -> TextDelta | None:
        start_time = time.perf_counter()
        window, start = text.window, self._truncate_cache(text)
        is_prompt = not text.n_generated
        batch = window[start : self._batch_end(start, len(window), is_prompt=is_prompt)]
        if not is_prompt and len(batch) == 1:
            logits = self._next_logits(text)
        else:
            self._draft_logits.clear()
            self._mark(start, len(window), is_prompt=is_prompt)
            rows = self._forward(batch, start, all_logits=text.needs_prompt_logits)
            logits = rows[-1]
            if text.needs_prompt_logits:
                text.read_prompt(rows, start)
            text.timings.n_prompt += len(batch) if is_prompt else 0
        advance(len(batch))
        is_complete = start + len(batch) == len(window)
        if is_prompt:
            text.timings.prompt_s += time.perf_counter() - start_time
            return text.take(logits) if is_complete else None
        delta = text.take(logits) if is_complete else None
        text.timings.n_decoded += is_complete
        text.timings.generate_s += time.perf_counter() - start_time
        return delta

    def accept(self, text: Generation, logits: NDArray[np.float32]) -> TextDelta:
        """Take the next token of a text from logits that were computed with those of other texts.

        Args:
            text: The cache lacked its last token only.
            logits: After that token, [V].
        """
        self.keep(len(text.window) - 1)
        self._cached.append(text.window[-1])
        self._text, self._n_shifts = text, text.n_shifts
        text.timings.n_decoded += 1
        return text.take(logits)

    def n_known(self, text: Generation) -> int:
        """Return how many tokens of a text need no computing; the last one always does."""
        if self._text is text and self._n_shifts == text.n_shifts:
            return self._reusable(min(len(self._cached), len(text.window) - 1))
        if text.needs_prompt_logits:
            return 0
        return self._reusable(n_known(self._cached, text.window))

    def is_behind(self, text: Generation) -> bool:
        """Return whether the cache lacks more than the last token of a text."""
        return not text.n_generated or self.n_known(text) < len(text.window) - 1

    def _truncate_cache(self, text: Generation) -> int:
        """Reduce the cache to the longest prefix of a text; return its length."""
        start = self.n_known(text)
        if self._text is not text or self._n_shifts != text.n_shifts:
            self.keep(start)
            self._text, self._n_shifts = text, text.n_shifts
            if not text.n_generated:
                text.timings.n_cached = start
        return start

    def _next_logits(self, text: Generation) -> NDArray[np.float32]:
        """Return logits after the last token, [V]: from an accepted draft, or computed."""
        last, position = text.window[-1], len(text.window) - 1
        if self._draft_logits and self._draft_logits[0][0] == last:
            text.timings.n_accepted += 1
            self._cached.append(last)
            return self._draft_logits.popleft()[1]
        self._draft_logits.clear()
        draft = self._draft(text)
        rows = self._forward([last, *draft], position, all_logits=bool(draft))
        del self._cached[position + 1 :]
        text.timings.n_drafted += len(draft)
        self._draft_logits.extend(zip(draft, rows[1:], strict=True))
        first: NDArray[np.float32] = rows[0]
        return first

    def _draft(self, text: Generation) -> list[int]:
        if self.drafter is None:
            return []
        limit = min(self.model.n_ctx - len(text.window), text.n_left - 1, self.drafter.n_draft)
        return self.drafter.draft(text.window)[: int(limit)] if limit > 0 else []

    # -- the cache -------------------------------------------------------------------------------

    def prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Fill the cache with exactly ``tokens``; return logits after the last one, [V].

        Raises:
            UsageError: No tokens.
            ContextFullError: They do not fit.
        """
        self.keep(self._reusable(max(0, n_known(self._cached, tokens))))
        return self.extend(tokens[len(self._cached) :])

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens to the cache; return logits after the last one, [V].

        Raises:
            UsageError: No tokens.
            ContextFullError: They do not fit.
        """
        if not tokens:
            raise UsageError("no tokens to compute: expected at least one")
        self.keep(len(self._cached))
        before = self.cached
        try:
            return self._extend(self._reusable(len(before)), [*before, *tokens])
        except CacheLostError:
            self.reset()
        return self._extend(0, [*before, *tokens])

    def _extend(self, known: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Compute what follows the first ``known`` tokens of all that the cache is to hold."""
        tokens = tokens[known:]
        start, end, is_prompt = known, known + len(tokens), len(tokens) > 1
        while start < end:
            stop = self._batch_end(start, end, is_prompt=is_prompt)
            self._mark(start, end, is_prompt=is_prompt)
            rows = self._forward(tokens[start - known : stop - known], start)
            start = stop
        last: NDArray[np.float32] = rows[-1]
        return last

    def settle(self) -> None:
        """Make the cache what can be saved: compute again what its state lacks."""
        tokens, known = self.cached, self._reusable(self.n_cached)
        if known < len(tokens):
            self.keep(known)
            self.extend(tokens[known:])

    @property
    def cached(self) -> list[int]:
        """The tokens that the cache holds, a copy."""
        return list(self._cached)

    @property
    def n_cached(self) -> int:
        """How many tokens the cache holds."""
        return len(self._cached)

    def n_shared(self, tokens: Sequence[int]) -> int:
        """Return how many leading tokens of a text the cache can be gone on from."""
        return self._reusable(n_shared(self._cached, tokens))

    def adopt(self, tokens: Sequence[int]) -> None:
        """Record that the cache holds these tokens, which the caller has put there."""
        self.reset()
        self._cached = list(tokens)

    def reset(self) -> None:
        """Forget what the cache holds."""
        self.keep(0)

    def keep(self, n_tokens: int) -> None:
        """Forget all but the first tokens of the cache."""
        self._text = None
        self._draft_logits.clear()
        del self._cached[n_tokens:]

    def _reusable(self, n_tokens: int) -> int:
        return self.model.reusable(n_tokens, self.slot) if n_tokens else 0

    def _batch_end(self, start: int, end: int, *, is_prompt: bool) -> int:
        """Return where the batch from ``start`` on ends, of a text that ends at ``end``."""
        stop = min(start + self.model.n_batch, end)
        mark = end - _TAIL
        return mark if self.model.has_states and is_prompt and start < mark < stop else stop

    def _mark(self, start: int, end: int, *, is_prompt: bool) -> None:
        """Take a checkpoint at ``start`` if the end of a prompt begins there."""
        if self.model.has_states and is_prompt and start >= end - _TAIL:
            self.model.checkpoint(start, self.slot)

    def _forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False
    ) -> NDArray[np.float32]:
        """Compute tokens at a position; return logits after the last or after every one."""
        del self._cached[position:]  # while it runs, and if it fails, those positions are unknown
        logits = self.model.forward(tokens, position, all_logits=all_logits, slot=self.slot)
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
