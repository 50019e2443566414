"""Several requests on one model: each has a slot of the cache, and they take turns token by token.

A round is: take in who waits, compute a piece of one prompt, then one token of every text that is
under way. So a long prompt delays the others by one batch at most, and a new request begins as soon
as a slot is free. One thread calls ``round``; any thread may ``submit`` and cancel.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import BusyError
from gguf_hub.run.generation import Generation, TextDelta
from gguf_hub.run.generation.engine import n_known, n_shared

WORTH_COPYING = 16
"""Positions that another slot must have in common with a prompt before they are copied."""


class SlotModel(Protocol):
    """A model with several caches: what the scheduler needs of it."""

    n_ctx: int
    n_batch: int
    n_slots: int

    def forward(
        self, tokens: Sequence[int], position: int, *, slot: int = 0
    ) -> NDArray[np.float32]:
        """Return logits of the last token, [1, V]."""
        ...

    def decode(self, rows: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
        """Return logits of one token of each of several slots: (slot, token, position), [n, V]."""
        ...

    def embed(self, tokens: Sequence[int], slot: int = 0) -> NDArray[np.float32]:
        """Return hidden states, [len(tokens), D]."""
        ...

    def copy_cache(self, source: int, target: int, n_positions: int) -> None:
        """Copy the first positions of one slot into another."""
        ...


class TokenSequence:
    """One text to be written, or one to be embedded.

    Args:
        run: The text.
        emit: Is called with every piece, from the thread that computes.
        fail: Is called with what went wrong, from that thread.

    Attributes:
        n_cached: Tokens of the prompt that were in the cache already.
        n_prompt: Tokens of the prompt that were computed.
    """

    def __init__(
        self, run: Generation, emit: Callable[[TextDelta], None], fail: Callable[[Exception], None]
    ) -> None:
        self.run = run
        self.emit = emit
        self.fail = fail
        self.is_cancelled = False
        self.n_cached = 0
        self.n_prompt = 0
        self.began = time.perf_counter()
        self.prompt_s = 0.0
        self.generate_s = 0.0

    def cancel(self) -> None:
        """Say that nobody wants the rest; its slot is free before the next token."""
        self.is_cancelled = True


@dataclass
class EmbedSequence:
    """One text to be embedded.

    Attributes:
        tokens: Its ids.
        done: Is called with its hidden states, [T, D].
        fail: Is called with what went wrong.
    """

    tokens: Sequence[int]
    done: Callable[[NDArray[np.float32]], None]
    fail: Callable[[Exception], None]
    is_cancelled: bool = False


@dataclass
class Slot:
    """One cache and who uses it.

    Attributes:
        index: Its number.
        cached: Tokens that it holds.
        task: Whose it is, or None.
        used: When it was given back, to give away the oldest first.
    """

    index: int
    cached: list[int] = field(default_factory=list)
    task: TokenSequence | None = None
    used: int = 0


@dataclass
class Counts:
    """What was done so far, for the metrics."""

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


class Scheduler:
    """Shares a model among tasks.

    Args:
        model: Computes; nobody else may use it.
        n_waiting: Most tasks that wait for a slot.
    """

    def __init__(self, model: SlotModel, *, n_waiting: int = 64) -> None:
        self._model = model
        self._n_waiting = n_waiting
        self._waiting: deque[TokenSequence | EmbedSequence] = deque()
        self._lock = threading.Lock()
        self.slots = [Slot(i) for i in range(model.n_slots)]
        self.counts = Counts()

    @property
    def n_waiting(self) -> int:
        """Tasks that wait for a slot."""
        return len(self._waiting)

    @property
    def n_busy(self) -> int:
        """Slots in use."""
        return sum(slot.task is not None for slot in self.slots)

    @property
    def has_work(self) -> bool:
        """Whether a round would do anything."""
        return bool(self._waiting) or self.n_busy > 0

    def submit(self, *tasks: TokenSequence | EmbedSequence) -> None:
        """Take tasks in, all or none.

        Raises:
            BusyError: Too many are waiting.
        """
        with self._lock:
            free = len(self.slots) - self.n_busy
            if len(self._waiting) + len(tasks) > self._n_waiting + free:
                self.counts.refused += 1
                raise BusyError(
                    f"{len(self._waiting)} requests are waiting, as many as this server takes",
                    hint="ask again in a moment",
                )
            self._waiting.extend(tasks)

    def round(self) -> None:
        """Do a little for everybody."""
        # 1) who has gone, who comes
        for slot in self.slots:
            if slot.task is not None and slot.task.is_cancelled:
                self._free(slot)
                self.counts.cancelled += 1
        self._admit()
        # 2) a piece of the prompt that waits longest
        fresh = [s for s in self.slots if s.task and _is_behind(s, s.task.run)]
        if fresh:
            self._guard(min(fresh, key=_age), self._prefill)
        # 3) one token of every text
        self._decode([s for s in self.slots if s.task and not _is_behind(s, s.task.run)])

    # -- slots -----------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give free slots to those who wait."""
        while self._waiting and (free := [slot for slot in self.slots if slot.task is None]):
            with self._lock:
                task = self._waiting.popleft()
            if task.is_cancelled:
                self.counts.cancelled += 1
            elif isinstance(task, EmbedSequence):
                self._embed(task, min(free, key=lambda slot: slot.used))
            else:
                self._begin(task, free)

    def _begin(self, task: TokenSequence, free: list[Slot]) -> None:
        """Give a task a slot if it has anything to generate; an error ends this task alone."""
        try:
            if (piece := task.run.begin()) is not None:
                task.emit(piece)
            else:
                self._seat(task, free)
        except Exception as exc:
            self.counts.failed += 1
            task.fail(exc)

    def _seat(self, task: TokenSequence, free: list[Slot]) -> None:
        """Give a task the slot that holds most of its prompt, or copy it there from another."""
        prompt = task.run.tokens
        shared = {slot.index: n_shared(slot.cached, prompt) for slot in self.slots}
        slot = max(free, key=lambda slot: (shared[slot.index], -slot.used))
        best = max(shared, key=shared.__getitem__)
        if shared[best] - shared[slot.index] >= WORTH_COPYING:
            slot.cached = []  # unknown if the copy fails
            self._model.copy_cache(best, slot.index, shared[best])
            slot.cached = prompt[: shared[best]]
        del slot.cached[n_known(slot.cached, prompt) :]
        task.n_cached = len(slot.cached)
        self.counts.cached_tokens += task.n_cached
        slot.task = task

    def _free(self, slot: Slot) -> None:
        slot.task = None
        slot.used = max(other.used for other in self.slots) + 1

    # -- computing -------------------------------------------------------------------------------

    def _prefill(self, slot: Slot, task: TokenSequence) -> None:
        """Compute the next batch of a prompt, or of what a shift has left; take the next token."""
        began = time.perf_counter()
        at = len(slot.cached)
        batch = task.run.window[at : at + self._model.n_batch]
        logits = self._model.forward(batch, at, slot=slot.index)
        slot.cached.extend(batch)
        took = time.perf_counter() - began
        if task.run.n_generated:
            task.generate_s += took
        else:
            task.n_prompt += len(batch)
            task.prompt_s += took
        self.counts.prompt_tokens += len(batch)
        self.counts.prompt_s += took
        if len(slot.cached) == len(task.run.window):
            self._take(slot, task, logits[-1])

    def _decode(self, slots: list[Slot]) -> None:
        """Compute and take one token of each text."""
        if not slots:
            return
        began = time.perf_counter()
        tasks = [slot.task for slot in slots]
        rows = [
            (slot.index, task.run.tokens[-1], len(slot.cached))
            for slot, task in zip(slots, tasks, strict=True)
            if task is not None
        ]
        try:
            logits = self._model.decode(rows)
        except Exception as exc:
            for slot in slots:
                self._give_up(slot, exc)
            return
        for slot, (_, token_id, _), row in zip(slots, rows, logits, strict=True):
            slot.cached.append(token_id)
            self._guard(slot, partial(self._take, logits=row))
        took = time.perf_counter() - began
        for task in tasks:
            if task is not None:
                task.generate_s += took
        self.counts.decode_s += took
        self.counts.rounds += 1
        self.counts.decoded_rows += len(slots)

    def _take(self, slot: Slot, task: TokenSequence, logits: NDArray[np.float32]) -> None:
        piece = task.run.take(logits)
        self.counts.generated_tokens += 1
        if task.run.is_done:
            self._free(slot)
            self.counts.finished += 1
        elif len(task.run.window) <= len(slot.cached):  # it has let go of tokens
            del slot.cached[n_known(slot.cached, task.run.window) :]
        task.emit(piece)

    def _embed(self, task: EmbedSequence, slot: Slot) -> None:
        slot.cached.clear()
        try:
            task.done(self._model.embed(task.tokens, slot.index))
            self.counts.prompt_tokens += len(task.tokens)
            self.counts.finished += 1
        except Exception as exc:
            self.counts.failed += 1
            task.fail(exc)

    def _guard(self, slot: Slot, work: Callable[[Slot, TokenSequence], None]) -> None:
        """Work for a slot; what goes wrong ends its task and no other."""
        assert slot.task is not None
        try:
            work(slot, slot.task)
        except Exception as exc:
            self._give_up(slot, exc)

    def _give_up(self, slot: Slot, exc: Exception) -> None:
        task = slot.task
        slot.cached.clear()  # what it holds by now is not known
        self._free(slot)
        self.counts.failed += 1
        if task is not None:
            task.fail(exc)

    def drop_all(self, exc: Exception) -> None:
        """End every task with an error: the server stops."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for task in waiting:
            task.fail(exc)
        for slot in self.slots:
            if slot.task is not None:
                self._give_up(slot, exc)


def _age(slot: Slot) -> float:
    assert slot.task is not None
    return slot.task.began


def _is_behind(slot: Slot, run: Generation) -> bool:
    """Tell whether a slot lacks more than the last token of a text, or has yet to begin with it."""
    return not run.n_generated or len(run.window) - len(slot.cached) > 1
