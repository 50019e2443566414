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
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import BusyError
from gguf_hub.run.generation import Generation, TextDelta
from gguf_hub.run.generation.engine import Drafter, Engine

WORTH_COPYING = 16
"""Positions that another slot must have in common with a prompt before they are copied."""


class SlotModel(Protocol):
    """A model with several caches: what the scheduler needs of it."""

    n_ctx: int
    n_batch: int
    n_slots: int

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False, slot: int = 0
    ) -> NDArray[np.float32]:
        """Return logits of the last token, [1, V], or of every one; see ``Forward``."""
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
    """

    def __init__(
        self, run: Generation, emit: Callable[[TextDelta], None], fail: Callable[[Exception], None]
    ) -> None:
        self.run = run
        self.emit = emit
        self.fail = fail
        self.is_cancelled = False
        self.began = time.perf_counter()

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
        engine: Computes with it.
        task: Whose it is, or None.
        used: When it was given back, to give away the oldest first.
    """

    engine: Engine
    task: TokenSequence | None = None
    used: int = 0

    @property
    def index(self) -> int:
        """Its number."""
        return self.engine.slot


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
        drafter: Drafts tokens while a single text is under way; several share their passes.
    """

    def __init__(
        self, model: SlotModel, *, n_waiting: int = 64, drafter: Drafter | None = None
    ) -> None:
        self._model = model
        self._n_waiting = n_waiting
        self._has_drafter = drafter is not None
        self._waiting: deque[TokenSequence | EmbedSequence] = deque()
        self._lock = threading.Lock()
        self.slots = [Slot(Engine(model, slot=i, drafter=drafter)) for i in range(model.n_slots)]
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
                    f"{self.n_busy} requests are running and {len(self._waiting)} are waiting, as "
                    "many as this server takes",
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
        fresh = [s for s in self.slots if s.task and s.engine.is_behind(s.task.run)]
        if fresh:
            self._guard(min(fresh, key=_age), self._prefill)
        # 3) one token of every text
        ready = [s for s in self.slots if s.task and not s.engine.is_behind(s.task.run)]
        if self._has_drafter and len(ready) == 1:
            self._guard(ready[0], self._decode_alone)
        elif ready:
            self._decode(ready)

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
        shared = {slot.index: slot.engine.n_shared(prompt) for slot in self.slots}
        slot = max(free, key=lambda slot: (shared[slot.index], -slot.used))
        best = max(shared, key=shared.__getitem__)
        if shared[best] - shared[slot.index] >= WORTH_COPYING:
            slot.engine.reset()  # unknown if the copy fails
            self._model.copy_cache(best, slot.index, shared[best])
            slot.engine.adopt(prompt[: shared[best]])
        self.counts.cached_tokens += slot.engine.n_known(task.run)
        slot.task = task

    def _free(self, slot: Slot) -> None:
        slot.task = None
        slot.used = max(other.used for other in self.slots) + 1

    # -- computing -------------------------------------------------------------------------------

    def _prefill(self, slot: Slot, task: TokenSequence) -> None:
        """Compute the next batch of a prompt, or of what a shift has left; take the next token."""
        began = time.perf_counter()
        before = slot.engine.n_known(task.run)
        delta = slot.engine.step(task.run)
        self.counts.prompt_tokens += slot.engine.n_cached - before
        self.counts.prompt_s += time.perf_counter() - began
        if delta is not None:
            self._emit(slot, task, delta)

    def _decode_alone(self, slot: Slot, task: TokenSequence) -> None:
        """Compute and take one token, or take one that was drafted before."""
        began = time.perf_counter()
        delta = slot.engine.step(task.run)
        self._count_round(1, began)
        assert delta is not None
        self._emit(slot, task, delta)

    def _decode(self, slots: list[Slot]) -> None:
        """Compute one token of each text in one pass, and take it."""
        began = time.perf_counter()
        runs = [slot.task.run for slot in slots if slot.task is not None]
        rows = [
            (slot.index, run.window[-1], len(run.window) - 1)
            for slot, run in zip(slots, runs, strict=True)
        ]
        try:
            logits = self._model.decode(rows)
        except Exception as exc:
            for slot in slots:
                self._give_up(slot, exc)
            return
        for slot, row in zip(slots, logits, strict=True):
            self._guard(slot, partial(self._accept, logits=row))
        for run in runs:
            run.timings.generate_s += time.perf_counter() - began
        self._count_round(len(slots), began)

    def _accept(self, slot: Slot, task: TokenSequence, logits: NDArray[np.float32]) -> None:
        self._emit(slot, task, slot.engine.accept(task.run, logits))

    def _count_round(self, n_rows: int, began: float) -> None:
        self.counts.decode_s += time.perf_counter() - began
        self.counts.rounds += 1
        self.counts.decoded_rows += n_rows

    def _emit(self, slot: Slot, task: TokenSequence, delta: TextDelta) -> None:
        """Pass on what a token has added; the slot is free after the last one."""
        self.counts.generated_tokens += 1
        if task.run.is_done:
            self._free(slot)
            self.counts.finished += 1
        task.emit(delta)

    def _embed(self, task: EmbedSequence, slot: Slot) -> None:
        slot.engine.reset()
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
        slot.engine.reset()  # what it holds by now is not known
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
