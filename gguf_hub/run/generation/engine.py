"""The generation loop: runs the model and passes its logits to a ``Generation``.

The engine knows nothing about characters, files or flags. It tracks the tokens in the K/V cache, so
that only the part of a prompt after the common prefix is computed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import CacheLostError, ContextFullError, UsageError
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.generation.draft_length import DraftLength
from gguf_hub.run.generation.generation import Generation, TextDelta
from gguf_hub.run.sampler import Proposal, Proposer

_TAIL = 4
"""Tokens at a prompt's end that are computed after its checkpoint: templates put there what another
turn's rendering leaves out, such as the beginning of an empty thought. As in llama-server."""


_STRIDE = 64
"""Tokens that are compared at once."""


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
    """Drafts the next tokens of the text in one slot; a wrong draft costs time, never a token.

    Attributes:
        n_draft: Maximum length of a draft.
        n_min: Minimum length; with ``n_draft`` itself no draft is shorter because it does not pay.
    """

    n_draft: int
    n_min: int = 0

    def of_slot(self, slot: int) -> Drafter:
        """Return what drafts for the texts of one slot."""
        return self

    def read(self, tokens: Sequence[int]) -> None:
        """Get ready for drafts after a prompt, which the model has computed so far."""
        return None

    def draft(
        self, tokens: Sequence[int], limit: int, proposer: Callable[[], Proposer]
    ) -> list[Proposal]:
        """Return tokens that may follow, none for no draft.

        Args:
            tokens: What the cache of the model holds, and the last token.
            limit: Maximum length.
            proposer: Called for what chooses tokens by logits, as the text's sampler would.
        """
        ...


@dataclass(frozen=True)
class TextPart:
    """Tokens of a text that are computed at once.

    Attributes:
        tokens: Token ids, at least one.
        position: Of the first one.
        is_last: Whether the text ends with them, so that logits after the last one are wanted.
    """

    tokens: Sequence[int]
    position: int
    is_last: bool


class Engine:
    """Runs a model on one of its K/V caches, and tracks the tokens in it.

    Several texts may take turns: what the cache lacks of a text is computed again.

    Args:
        model: The model; nothing else may use this cache.
        slot: Which of the model's caches.
        drafter: Drafts tokens that the model checks in one pass; how likely each text is stays
            the same. The model must return logits of as many tokens, plus one.
    """

    def __init__(self, model: Forward, *, slot: int = 0, drafter: Drafter | None = None) -> None:
        self.model = model
        self.slot = slot
        self.drafter = drafter.of_slot(slot) if drafter is not None else None
        self._length = DraftLength(drafter.n_draft, drafter.n_min) if drafter is not None else None
        self._cached: list[int] = []
        # the text in the cache, and its number of context shifts then
        self._text: Generation | None = None
        self._n_shifts = 0
        # draft tokens that the model has computed after those in the cache, with the logits after
        self._draft_logits: deque[tuple[Proposal, NDArray[np.float32]]] = deque()

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
        if self.is_behind(text):
            part = self.next_part(text, self.model.n_batch)
            rows = self.model.forward(
                part.tokens, part.position, all_logits=text.needs_prompt_logits, slot=self.slot
            )
            if text.needs_prompt_logits:
                text.read_prompt(rows, part.position)
            advance(len(part.tokens))
            return self.accept_part(text, part, rows[-1], start_time)
        self._truncate_cache(text)
        logits = self._next_logits(text)
        advance(1)
        delta = text.take(logits, self._draft_logits[0][0] if self._draft_logits else None)
        text.timings.n_decoded += 1
        text.timings.generate_s += time.perf_counter() - start_time
        return delta

    def next_part(self, text: Generation, limit: int) -> TextPart:
        """Return the next tokens that the cache lacks of a text, at most ``limit``.

        They are to be computed at once; ``accept_part`` is told then. Until that the cache is
        taken to hold what comes before them, and no more.
        """
        window, start = text.window, self._truncate_cache(text)
        is_prompt = not text.n_generated
        end = self._batch_end(start, len(window), is_prompt=is_prompt, limit=limit)
        self._draft_logits.clear()
        self._mark(start, len(window), is_prompt=is_prompt)
        del self._cached[start:]
        return TextPart(window[start:end], start, is_last=end == len(window))

    def accept_part(
        self,
        text: Generation,
        part: TextPart,
        logits: NDArray[np.float32] | None,
        start_time: float,
        chosen: int | None = None,
    ) -> TextDelta | None:
        """Take the next token of a text if all of it is in the cache now; return what it adds.

        Args:
            text: As ``next_part`` was asked for.
            part: What that returned.
            logits: After its last token, [V]; needed of the last part alone.
            start_time: Of ``time.perf_counter``, when its computing began.
            chosen: The next token, where ``choose_together`` has sampled it.
        """
        self._cached.extend(part.tokens)
        if is_prompt := not text.n_generated:
            text.timings.n_prompt += len(part.tokens)
            if self.drafter is not None:
                self.drafter.read(text.window[: part.position + len(part.tokens)])
            text.timings.prompt_s += time.perf_counter() - start_time
        delta = None
        if part.is_last:
            assert logits is not None
            delta = text.take(logits, chosen=chosen)
        if not is_prompt:
            text.timings.n_decoded += part.is_last
            text.timings.generate_s += time.perf_counter() - start_time
        return delta

    def accept_token(
        self, text: Generation, logits: NDArray[np.float32], chosen: int | None = None
    ) -> TextDelta:
        """Take the next token of a text from logits that were computed with those of other texts.

        Args:
            text: The cache lacked its last token only.
            logits: After that token, [V].
            chosen: The next token, where ``choose_together`` has sampled it.
        """
        window = text.window
        self.keep(len(window) - 1)
        self._text, self._n_shifts = text, text.n_shifts
        self._cached.append(window[-1])
        text.timings.n_decoded += 1
        return text.take(logits, None, chosen)

    def accept(
        self, text: Generation, rows: NDArray[np.float32], draft: Sequence[Proposal] = ()
    ) -> Iterator[TextDelta]:
        """Take the next tokens of a text from logits that were computed with those of other texts.

        Yields what each token adds: one more than drafted tokens are accepted.

        Args:
            text: The cache lacked its last token only.
            rows: Logits after that token, and after each drafted one, [1 + len(draft), V].
            draft: The tokens that were drafted after it.
        """
        self.keep(len(text.window) - 1)
        self._text, self._n_shifts = text, text.n_shifts
        text.timings.n_drafted += len(draft)
        for row, proposal in zip(rows, [*draft, None], strict=True):
            self._cached.append(text.window[-1])
            text.timings.n_decoded += 1
            yield text.take(row, proposal)
            is_accepted = proposal is not None and text.window[-1] == proposal.token_id
            if text.is_done or not is_accepted or self._n_shifts != text.n_shifts:
                return
            text.timings.n_accepted += 1

    def n_known(self, text: Generation) -> int:
        """Return how many tokens of a text need no computing; the last one always does."""
        if self._text is text and self._n_shifts == text.n_shifts:
            return self._reusable(min(len(self._cached), len(text.window) - 1))
        if text.needs_prompt_logits:
            return 0
        return self._reusable(n_known(self._cached, text.window))

    def is_behind(self, text: Generation) -> bool:
        """Return whether the cache lacks more than the last token of a text."""
        if not text.n_generated:
            return True
        n_needed = len(text.window) - 1
        if self._text is text and self._n_shifts == text.n_shifts and n_needed:
            is_there = len(self._cached) >= n_needed
            return not is_there or self.model.reusable(n_needed, self.slot) < n_needed
        return self.n_known(text) < n_needed

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
        if self._draft_logits and self._draft_logits[0][0].token_id == last:
            text.timings.n_accepted += 1
            if self._length is not None:
                self._length.accept()
            self._cached.append(last)
            return self._draft_logits.popleft()[1]
        self._draft_logits.clear()
        start_time = time.perf_counter()
        limit = self.draft_limit(text)
        draft = self.draft(text, self._length.choose(limit)) if self._length is not None else []
        draft_s = time.perf_counter() - start_time
        rows = self._forward(
            [last, *(proposal.token_id for proposal in draft)], position, all_logits=bool(draft)
        )
        del self._cached[position + 1 :]
        if self._length is not None:
            pass_s = time.perf_counter() - start_time - draft_s
            self._length.record(len(draft), pass_s, draft_s)
        text.timings.n_drafted += len(draft)
        self._draft_logits.extend(zip(draft, rows[1:], strict=True))
        first: NDArray[np.float32] = rows[0]
        return first

    def draft_limit(self, text: Generation) -> int:
        """Return how many tokens of a text could be drafted, by its context and its length."""
        if self.drafter is None:
            return 0
        room = min(self.model.n_ctx - len(text.window), text.n_left - 1, self.drafter.n_draft)
        return max(0, int(room))

    def draft(self, text: Generation, limit: int) -> list[Proposal]:
        """Return tokens that may follow in a text, at most ``limit``."""
        if self.drafter is None or limit <= 0:
            return []
        return self.drafter.draft(text.window, limit, text.proposer)

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
            stop = self._batch_end(start, end, is_prompt=is_prompt, limit=self.model.n_batch)
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

    def begins_with(self, tokens: list[int]) -> bool:
        """Return whether these are the first tokens that the cache holds."""
        return self._cached[: len(tokens)] == tokens

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

    def _batch_end(self, start: int, end: int, *, is_prompt: bool, limit: int) -> int:
        """Return where the batch from ``start`` on ends, of a text that ends at ``end``."""
        stop = min(start + limit, end)
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
    n = min(len(a), len(b))
    start = 0
    while start < n and a[start : start + _STRIDE] == b[start : start + _STRIDE]:
        start += _STRIDE  # lists are compared much faster than their items
    for i in range(start, n):
        if a[i] != b[i]:
            return i
    return n


def n_known(cached: Sequence[int], tokens: Sequence[int]) -> int:
    """Return how many tokens need no computing; the last one does, for its logits."""
    return min(n_shared(cached, tokens), len(tokens) - 1)
