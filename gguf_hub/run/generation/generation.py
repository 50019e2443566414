"""A run: one prompt on its way to a text. Logits go in, pieces of text come out."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.generation.logits_sampler import LogitsSampler, TokenLogprob
from gguf_hub.run.generation.shift import ContextShift
from gguf_hub.run.generation.stops import StopText
from gguf_hub.run.tokenizer import StreamDecoder, Tokenizer

Criterion = Callable[[NDArray[np.intc], NDArray[np.float32]], bool]
"""(ids so far, logits [V]) -> whether to stop: llama-cpp-python's ``stopping_criteria``."""


@dataclass
class Timings:
    """What a text has cost so far.

    Attributes:
        n_cached: Tokens of the prompt that the cache already held.
        n_prompt: Tokens of the prompt that were computed.
        prompt_s: Seconds for them.
        n_decoded: Tokens of the output that were computed or accepted: all but the first, whose
            logits come with the prompt.
        generate_s: Seconds for them, sampling included.
        n_drafted: Tokens that a drafter proposed.
        n_accepted: Those of them that came true.
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
        """Speed of the prompt."""
        return self.n_prompt / self.prompt_s if self.prompt_s else 0.0

    @property
    def generate_tok_per_s(self) -> float:
        """Speed of generation."""
        return self.n_decoded / self.generate_s if self.generate_s else 0.0


@dataclass(frozen=True)
class GenerationRequest:
    """What to write.

    Attributes:
        prompt: Token ids, at least one.
        chooser: Chooses among logits; of this job alone.
        max_tokens: The most tokens, stop token not counted; -1 for no limit, -2 until the context
            is full, be it one that goes on.
        stops: Texts that end it and are not shown.
        stop_ids: Tokens that end it and are not shown.
        criteria: Asked after every token.
    """

    prompt: tuple[int, ...]
    chooser: LogitsSampler
    max_tokens: int = -1
    stops: tuple[str, ...] = ()
    stop_ids: Collection[int] = ()
    criteria: tuple[Criterion, ...] = ()


@dataclass(frozen=True)
class TextDelta:
    """What one token added.

    Attributes:
        text: Text that became complete; often one token's, at times none.
        chances: Log probabilities of the tokens whose text this is, where asked for.
        finish_reason: ``"stop"`` or ``"length"`` in the last piece, else None.
    """

    text: str = ""
    chances: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None


class Generation:
    """One job under way.

    Args:
        job: What to write.
        tokenizer: The model's.
        n_ctx: Positions of the cache: where they end, the text ends.
        is_whole: After an empty prompt the output is a text of its own, so that the space that the
            encoder puts in front of every text is taken off.
        shift: How the text goes on where the cache ends; None to end there.
    """

    def __init__(
        self,
        job: GenerationRequest,
        tokenizer: Tokenizer,
        n_ctx: int,
        *,
        is_whole: bool = True,
        shift: ContextShift | None = None,
    ) -> None:
        self.job = job
        self.tokens = list(job.prompt)
        """Prompt and output; the last one is to be computed next."""
        self.window = self.tokens if shift is None else shift.window(self.tokens)
        """Of these, what the cache is to hold: all, unless the context goes on when it is full."""
        self.n_shifts = 0
        """How often the window has let go of tokens since the prompt."""
        self.timings = Timings()
        self._shift = shift
        self.finish_reason: str | None = None
        at_start = is_whole and all(tokenizer.is_control(i) for i in job.prompt)
        self._decoder = StreamDecoder(tokenizer, at_start=at_start)
        self._stop = StopText(job.stops)
        self._waiting: list[TokenLogprob] = []
        self._limit = self._most(n_ctx - len(self.window) + 1)  # the last one is not computed

    @property
    def n_generated(self) -> int:
        """Tokens of the output."""
        return len(self.tokens) - len(self.job.prompt)

    @property
    def n_left(self) -> float:
        """Tokens that may still come."""
        return self._limit - self.n_generated

    @property
    def is_done(self) -> bool:
        """Whether no more logits are wanted."""
        return self.finish_reason is not None

    @property
    def stop_text(self) -> str | None:
        """The stop text that ended it."""
        return self._stop.found

    def begin(self) -> TextDelta | None:
        """Return the last piece at once if nothing is to be written, else None."""
        return self._finish("", "length") if self._limit <= 0 else None

    def take(self, logits: NDArray[np.float32]) -> TextDelta:
        """Choose the next token from logits [V] and return what it adds."""
        token_id = self.job.chooser.choose(logits, self.tokens)
        if token_id in self.job.stop_ids:
            return self._finish("", "stop")
        self._append(token_id)
        if self.job.chooser.last is not None:
            self._waiting.append(self.job.chooser.last)
        text = self._stop.feed(self._decoder.feed(token_id))
        if self._stop.found is not None or self._is_enough(logits):
            return self._finish(text, "stop")
        if self.n_generated >= self._limit:
            return self._finish(text, "length")
        return TextDelta(text, self._take_chances() if text else ())

    def cancel(self) -> None:
        """End it: nobody wants the rest."""
        self.finish_reason = self.finish_reason or "stop"

    def _most(self, room: int) -> float:
        """Return how many tokens there may be, where so many more fit the cache."""
        wanted = self.job.max_tokens
        if self._shift is None or wanted < -1:
            return room if wanted < 0 else min(wanted, room)
        return math.inf if wanted < 0 else wanted

    def _append(self, token_id: int) -> None:
        self.tokens.append(token_id)
        if self._shift is None:
            return  # the window is the same list
        self.window.append(token_id)
        if len(self.window) > self._shift.n_ctx:
            self.window = self._shift.window(self.tokens)
            self.n_shifts += 1

    def _is_enough(self, logits: NDArray[np.float32]) -> bool:
        if not self.job.criteria:
            return False
        ids = np.array(self.tokens, np.intc)
        return any(criterion(ids, logits) for criterion in self.job.criteria)

    def _finish(self, text: str, reason: str) -> TextDelta:
        self.finish_reason = reason
        if self._stop.found is None:
            text += self._stop.feed(self._decoder.flush()) + self._stop.flush()
        return TextDelta(text, self._take_chances(), reason)

    def _take_chances(self) -> tuple[TokenLogprob, ...]:
        chances, self._waiting = tuple(self._waiting), []
        return chances
