"""A text in progress: logits go in, text deltas come out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.generation.logits_sampler import LogitsSampler, TokenLogprob, token_logprob
from gguf_hub.run.generation.shift import ContextShift
from gguf_hub.run.generation.stops import StopText
from gguf_hub.run.sampler import Proposal, Proposer
from gguf_hub.run.tokenizer import StreamDecoder, Tokenizer

Criterion = Callable[[NDArray[np.intc], NDArray[np.float32]], bool]
"""(ids so far, logits [V]) -> whether to stop: llama-cpp-python's ``stopping_criteria``."""


@dataclass
class Timings:
    """Tokens and seconds of a text so far.

    Attributes:
        n_cached: Tokens of the prompt that the cache already held.
        n_prompt: Tokens of the prompt that were computed.
        prompt_s: Seconds for them.
        n_decoded: Tokens of the output that were computed or accepted: all but the first, whose
            logits come with the prompt.
        generate_s: Seconds for them, sampling included.
        n_drafted: Tokens that a drafter proposed.
        n_accepted: Those of them that the model accepted.
    """

    n_cached: int = 0
    n_prompt: int = 0
    prompt_s: float = 0.0
    n_decoded: int = 0
    generate_s: float = 0.0
    n_drafted: int = 0
    n_accepted: int = 0

    @property
    def prompt_tok_per_s(self) -> float:
        """Prompt speed."""
        return self.n_prompt / self.prompt_s if self.prompt_s else 0.0

    @property
    def generate_tok_per_s(self) -> float:
        """Generation speed."""
        return self.n_decoded / self.generate_s if self.generate_s else 0.0


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt, a sampler and limits.

    Attributes:
        prompt: Token ids, at least one.
        sampler: Samples from logits; not shared with other requests.
        max_tokens: Maximum number of tokens without the stop token; -1 for no limit, -2 until the
            context is full even if it shifts.
        stops: Texts that end it and are not returned.
        stop_ids: Tokens that end it and are not returned.
        mark_ids: Control tokens that are returned for a parser (``marks``).
        criteria: Called after every token.
        n_prompt_top: Number of most likely tokens to record for each token of the prompt, too;
            None to record nothing of it.
        warnings: What was asked for and is not held, for the answer.
        max_s: Seconds from the first token after which it ends, once it has a line end; None for
            any time.
        completes_characters: Whether ``max_tokens`` may be exceeded by the tokens that a character
            lacks, where the context has room for them.
        reuses_cache: Whether what the cache holds of the prompt may be gone on from.
        prints_special: Whether control tokens are text, the one that ends it too.
    """

    prompt: tuple[int, ...]
    sampler: LogitsSampler
    max_tokens: int = -1
    stops: tuple[str, ...] = ()
    stop_ids: Collection[int] = ()
    mark_ids: Collection[int] = ()
    criteria: tuple[Criterion, ...] = ()
    n_prompt_top: int | None = None
    warnings: tuple[str, ...] = ()
    max_s: float | None = None
    completes_characters: bool = False
    reuses_cache: bool = True
    prints_special: bool = False


@dataclass(frozen=True)
class TextDelta:
    """What one token adds to a text.

    Attributes:
        text: Complete characters; often one token's, sometimes none.
        logprobs: Log probabilities of the tokens of this text, if requested.
        finish_reason: ``"stop"`` or ``"length"`` in the last delta, else None.
        token_ids: The tokens since the last delta with text; in the last one what is left, too.
    """

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    token_ids: tuple[int, ...] = ()


_NO_DELTA = TextDelta()
_MAX_CHARACTER_BYTES = 4


class Generation:
    """One text in progress.

    Args:
        request: Prompt, sampler and limits.
        tokenizer: The model's.
        n_ctx: Positions of the cache; the text ends when they are used up.
        is_standalone: After an empty prompt the output is a text of its own: strip the space that
            the encoder puts in front of every text.
        shift: How to continue when the cache is full; None to stop there.
    """

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        n_ctx: int,
        *,
        is_standalone: bool = True,
        shift: ContextShift | None = None,
    ) -> None:
        self.request = request
        self.tokens = list(request.prompt)
        """Prompt and output; the last one is computed next."""
        self.window = self.tokens if shift is None else shift.window(self.tokens)
        """The tokens that the cache should hold: all, unless the context has shifted."""
        self.n_shifts = 0
        """Number of context shifts since the prompt."""
        self.timings = Timings()
        self._shift = shift
        self.finish_reason: str | None = None
        at_start = is_standalone and all(tokenizer.is_control(i) for i in request.prompt)
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(
            tokenizer, at_start=at_start, special=request.prints_special, marks=request.mark_ids
        )
        self._stop = StopText(request.stops)
        self._pending_logprobs: list[TokenLogprob] = []
        self._n_passed_on = len(request.prompt)  # tokens that deltas have had
        self._has_line_end, self._first_time = False, math.inf
        self.prompt_logprobs: list[TokenLogprob | None] = [None] * len(request.prompt)
        """How likely the tokens of the prompt were, if requested; None for the first one."""
        n_free = n_ctx - len(self.window) + 1  # without the last
        self._limit = self._token_limit(n_free)
        more = _MAX_CHARACTER_BYTES - 1 if request.completes_characters else 0
        self._last_limit = self._limit + more if shift else min(self._limit + more, n_free)

    @property
    def n_generated(self) -> int:
        """Tokens of the output."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def n_left(self) -> float:
        """Tokens until the limit."""
        return self._limit - self.n_generated

    @property
    def is_done(self) -> bool:
        """Whether the text has ended."""
        return self.finish_reason is not None

    @property
    def stop_text(self) -> str | None:
        """The stop text that ended it."""
        return self._stop.match

    @property
    def needs_prompt_logits(self) -> bool:
        """Whether the logits of all tokens of the prompt are needed, cached or not."""
        return self.request.n_prompt_top is not None and not self.n_generated

    def begin(self) -> TextDelta | None:
        """Return the last delta at once if nothing needs to be computed, else None."""
        is_empty = self._limit <= 0 and not self.needs_prompt_logits
        return self._finish("", "length") if is_empty else None

    def read_prompt(self, logits: NDArray[np.float32], position: int) -> None:
        """Record how likely tokens of the prompt were.

        Args:
            logits: After the token at ``position`` and those that follow it, [n, V].
            position: In the prompt, from 0.
        """
        prompt, n_top = self.request.prompt, self.request.n_prompt_top or 0
        for i, row in enumerate(logits[: len(prompt) - position - 1], position + 1):
            self.prompt_logprobs[i] = token_logprob(row, prompt[i], n_top)

    def proposer(self) -> Proposer:
        """Return what drafts the next tokens of this text with another model's logits."""
        return self.request.sampler.sampler.proposer(self.tokens)

    def take(
        self,
        logits: NDArray[np.float32],
        proposal: Proposal | None = None,
        chosen: int | None = None,
    ) -> TextDelta:
        """Sample the next token from logits [V] and return what it adds.

        Args:
            logits: After the last token.
            proposal: The token that was drafted here.
            chosen: The token, where ``choose_together`` has sampled it.
        """
        if self._limit <= 0:  # the prompt alone was to be computed
            return self._finish("", "length")
        token_id = self.request.sampler.choose(logits, self.tokens, proposal, chosen)
        if token_id in self.request.stop_ids:
            return self._stop_at(token_id)
        self._append(token_id)
        if self.request.sampler.last is not None:
            self._pending_logprobs.append(self.request.sampler.last)
        text = self._stop.feed(self._decoder.feed(token_id))
        if self._stop.match is not None or self._meets_criterion(logits):
            return self._finish(text, "stop")
        if self._is_full() or self._is_late(text):
            return self._finish(text, "length")
        return TextDelta(text, self._pop_logprobs(), None, self._pop_ids()) if text else _NO_DELTA

    def cancel(self) -> None:
        """End it early."""
        self.finish_reason = self.finish_reason or "stop"

    def _token_limit(self, n_free: int) -> float:
        """Return the maximum number of tokens, ``n_free`` of which fit the cache."""
        max_tokens = self.request.max_tokens
        if self._shift is None or max_tokens < -1:
            return n_free if max_tokens < 0 else min(max_tokens, n_free)
        return math.inf if max_tokens < 0 else max_tokens

    def _append(self, token_id: int) -> None:
        self.tokens.append(token_id)
        if self._shift is None:
            return  # the window is the same list
        self.window.append(token_id)
        if len(self.window) > self._shift.n_ctx:
            self.window = self._shift.window(self.tokens)
            self.n_shifts += 1

    def _is_full(self) -> bool:
        """Return whether the limit is reached, and a character that it would cut is whole."""
        limit = self._last_limit if self._decoder.is_inside else self._limit
        return self.n_generated >= limit

    def _is_late(self, text: str) -> bool:
        """Return whether the time is over, which is looked at after a line end only."""
        if self.request.max_s is None:
            return False
        now = time.perf_counter()
        self._first_time = min(self._first_time, now)
        self._has_line_end = self._has_line_end or "\n" in text
        return self._has_line_end and now - self._first_time > self.request.max_s

    def _meets_criterion(self, logits: NDArray[np.float32]) -> bool:
        if not self.request.criteria:
            return False
        ids = np.array(self.tokens, np.intc)
        return any(criterion(ids, logits) for criterion in self.request.criteria)

    def _stop_at(self, token_id: int) -> TextDelta:
        """End at a stop token."""
        delta = self._finish("", "stop")
        if not self.request.prints_special:
            return delta
        text = self._tokenizer.token_bytes(token_id, special=True).decode(errors="replace")
        return replace(delta, text=delta.text + text)

    def _finish(self, text: str, reason: str) -> TextDelta:
        self.finish_reason = reason
        if self._stop.match is None:
            text += self._stop.feed(self._decoder.flush()) + self._stop.flush()
        return TextDelta(text, self._pop_logprobs(), reason, self._pop_ids())

    def _pop_ids(self) -> tuple[int, ...]:
        ids = tuple(self.tokens[self._n_passed_on :])
        self._n_passed_on = len(self.tokens)
        return ids

    def _pop_logprobs(self) -> tuple[TokenLogprob, ...]:
        logprobs, self._pending_logprobs = tuple(self._pending_logprobs), []
        return logprobs
