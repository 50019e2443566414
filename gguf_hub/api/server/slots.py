"""What the scheduler works with: sequences that wait or run, slots, and the model that has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.generation import Generation, TextDelta
from gguf_hub.run.generation.engine import Engine, Forward


class SlotModel(Forward, Protocol):
    """A model with several K/V caches, as the scheduler uses it."""

    n_slots: int

    def decode(self, rows: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
        """Return logits [n, V] for n rows of (slot, token, position), those of a slot in order."""
        ...

    def embed(self, tokens: Sequence[int], slot: int = 0) -> NDArray[np.float32]:
        """Return hidden states, [len(tokens), D]."""
        ...

    def copy_cache(self, source: int, target: int, n_positions: int) -> None:
        """Copy the first positions of one slot into another."""
        ...


@runtime_checkable
class MixingModel(Protocol):
    """A model that can take parts of prompts and tokens of texts together.

    Attributes:
        can_mix: Whether it pays.
    """

    can_mix: bool

    def forward_parts(
        self, parts: Sequence[tuple[int, Sequence[int], int, int]]
    ) -> NDArray[np.float32]:
        """Return logits [n, V] of parts: (slot, tokens, position, how many want logits)."""
        ...


@runtime_checkable
class PipelinedModel(Protocol):
    """A model of several stages, which work on tokens of different texts at the same time.

    Attributes:
        n_parallel: How many groups of texts keep all stages busy.
    """

    n_parallel: int

    def begin_decode(self, rows: Sequence[tuple[int, int, int]]) -> Any:
        """Begin what ``decode`` does; do not wait."""
        ...

    def end_decode(self, pending: Any) -> NDArray[np.float32]:
        """Wait for the logits."""
        ...


@dataclass(frozen=True)
class PromptProgress(TextDelta):
    """A delta without text that says how much of the prompt is computed.

    Attributes:
        n_total: Tokens of the prompt.
        n_cached: Those that the cache already held.
        n_processed: Those that it holds by now.
        seconds: For those that were computed.
    """

    n_total: int = 0
    n_cached: int = 0
    n_processed: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class TokenSequence:
    """One text to generate.

    Attributes:
        generation: The text.
        emit: Called with every delta, in the worker's thread.
        fail: Called with an error, in that thread.
        slot: Number of the slot that it waits for; None for any.
        used_slot: Number of the one that it got; -1 for none.
        start_time: Of ``time.perf_counter``; the oldest prompt is computed first.
        shows_progress: Whether to emit ``PromptProgress``.
    """

    generation: Generation
    emit: Callable[[TextDelta], None]
    fail: Callable[[Exception], None]
    slot: int | None = None
    used_slot: int = -1
    is_cancelled: bool = False
    start_time: float = field(default_factory=time.perf_counter)
    shows_progress: bool = False
    _n_shown: int = -1  # tokens of the prompt that were computed when it was shown last

    def begin_prompt(self, slot: int, n_cached: int) -> None:
        """Note the slot that it got, whose cache holds the first tokens of the prompt."""
        self.used_slot = slot
        self.generation.timings.n_cached = n_cached
        self.show_progress()

    def show_progress(self) -> None:
        """Emit how much of the prompt is computed, if that is wanted and has changed."""
        timings, n_total = self.generation.timings, len(self.generation.request.prompt)
        if self.shows_progress and timings.n_prompt != self._n_shown:
            self._n_shown = timings.n_prompt
            # after a GPU has failed, tokens are computed again
            n_processed = min(timings.n_cached + timings.n_prompt, n_total)
            n_cached, seconds = timings.n_cached, timings.prompt_s
            self.emit(PromptProgress("", (), None, (), n_total, n_cached, n_processed, seconds))

    def cancel(self) -> None:
        """Stop before the next token and free the slot."""
        self.is_cancelled = True


@dataclass(eq=False)
class EmbedSequence:
    """One text to embed.

    Attributes:
        tokens: Token ids.
        done: Called with the hidden states, [T, D].
        fail: Called with an error.
    """

    tokens: Sequence[int]
    done: Callable[[NDArray[np.float32]], None]
    fail: Callable[[Exception], None]
    is_cancelled: bool = False
    slot: None = None


@dataclass(eq=False)
class SlotAction:
    """Work on the cache of one slot, such as saving it, while no text uses it.

    Attributes:
        slot: Number of the slot that it waits for.
        act: Called with what runs the model on it, in the worker's thread.
        done: Called with what that returned.
        fail: Called with an error.
    """

    slot: int
    act: Callable[[Engine], Any]
    done: Callable[[Any], None]
    fail: Callable[[Exception], None]
    is_cancelled: bool = False

    def run(self, engine: Engine) -> None:
        """Do it; in the worker's thread."""
        try:
            self.done(self.act(engine))
        except Exception as exc:
            self.fail(exc)


AnySequence = TokenSequence | EmbedSequence | SlotAction
"""What waits for a slot."""


@dataclass
class Slot:
    """One K/V cache and the sequence that uses it.

    Attributes:
        engine: Runs the model on this cache.
        sequence: The sequence that uses it, or None.
        release_order: Grows with every release; the least recently used slot is assigned first.
    """

    engine: Engine
    sequence: TokenSequence | None = None
    release_order: int = 0

    @property
    def index(self) -> int:
        """Number of the slot."""
        return self.engine.slot

    @property
    def is_read_alone(self) -> bool:
        """Whether logits of all tokens of a prompt are needed."""
        return self.sequence is not None and self.sequence.generation.needs_prompt_logits


@dataclass
class Counts:
    """Counters for the metrics."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    prompt_s: float = 0.0
    decode_s: float = 0.0
    rounds: int = 0
    decoded_rows: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
