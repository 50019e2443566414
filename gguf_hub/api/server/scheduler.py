"""Continuous batching: requests share a model, each with a slot of its own.

A round admits waiting sequences, computes one batch of one prompt, then one token of every text. So
a long prompt delays the others by one batch at most, and a new request begins as soon as a slot is
free. One thread calls ``round``; any thread may ``submit`` and cancel.

Where a model is computed in stages on several machines, texts are divided into as many groups, each
at another stage; a round then takes one token of the oldest group.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import BusyError, CacheLostError
from gguf_hub.run.generation import Generation, TextDelta
from gguf_hub.run.generation.draft_length import DraftLength
from gguf_hub.run.generation.engine import Drafter, Engine, Forward
from gguf_hub.run.sampler import Proposal

WORTH_COPYING = 16
"""Minimum common prefix with another slot, in positions, to copy its cache."""


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
    """

    generation: Generation
    emit: Callable[[TextDelta], None]
    fail: Callable[[Exception], None]
    slot: int | None = None
    used_slot: int = -1
    is_cancelled: bool = False
    start_time: float = field(default_factory=time.perf_counter)

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


@dataclass
class _Group:
    """Slots of which a token is being computed."""

    slots: list[Slot]
    pending: Any
    start_time: float


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


class Scheduler:
    """Shares a model among sequences.

    Args:
        model: The model; nothing else may use it.
        n_waiting: Maximum number of sequences that wait for a slot.
        drafter: Drafts tokens for each text; several share their passes.
    """

    def __init__(
        self, model: SlotModel, *, n_waiting: int = 64, drafter: Drafter | None = None
    ) -> None:
        self._model = model
        self._n_waiting = n_waiting
        self._waiting: deque[TokenSequence | EmbedSequence] = deque()
        self._lock = threading.Lock()
        self.slots = [Slot(Engine(model, slot=i, drafter=drafter)) for i in range(model.n_slots)]
        self._drafter = drafter
        self._lengths: dict[int, DraftLength] = {}  # by the number of texts of a pass
        self.counts = Counts()
        self._groups: deque[_Group] = deque()  # under way, the oldest first

    @property
    def n_waiting(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._waiting)

    @property
    def n_busy(self) -> int:
        """Slots in use."""
        return sum(slot.sequence is not None for slot in self.slots)

    @property
    def has_work(self) -> bool:
        """Whether a round would do anything."""
        return bool(self._waiting) or self.n_busy > 0

    def submit(self, *sequences: TokenSequence | EmbedSequence) -> None:
        """Queue sequences, all or none.

        Raises:
            BusyError: Too many are waiting.
        """
        with self._lock:
            free = len(self.slots) - self.n_busy
            if len(self._waiting) + len(sequences) > self._n_waiting + free:
                self.counts.refused += 1
                raise BusyError(
                    f"{self.n_busy} requests are running and {len(self._waiting)} are waiting, the "
                    "most this server accepts",
                    hint="try again in a moment",
                )
            self._waiting.extend(sequences)

    def round(self) -> None:
        """Do one round (see above)."""
        # 1) drop cancelled sequences, admit waiting ones
        for slot in self.slots:
            is_idle = not self._is_under_way(slot)
            if slot.sequence is not None and slot.sequence.is_cancelled and is_idle:
                self._free(slot)
                self.counts.cancelled += 1
        self._admit()
        # 2) one batch of the oldest prompt
        prefilling = [
            s for s in self.slots if s.sequence and s.engine.is_behind(s.sequence.generation)
        ]
        if prefilling:
            self._run_guarded(min(prefilling, key=_age), self._prefill)
        # 3) one token of every other text
        decoding = [
            s for s in self.slots if s.sequence and not s.engine.is_behind(s.sequence.generation)
            and not self._is_under_way(s)
        ]  # fmt: skip
        is_alone = len(decoding) == 1 and not self._groups
        if is_alone and decoding[0].engine.drafter is not None:
            self._run_guarded(decoding[0], self._decode_alone)
        elif isinstance(self._model, PipelinedModel) and self._model.n_parallel > 1:
            self._decode_in_groups(self._model, decoding)
        elif decoding:
            self._decode(decoding)

    # -- slots -----------------------------------------------------------------------------------

    def _admit(self) -> None:
        while free := [slot for slot in self.slots if slot.sequence is None]:
            sequence = self._pop_waiting({slot.index for slot in free})
            if sequence is None:
                return
            if sequence.is_cancelled:
                self.counts.cancelled += 1
            elif isinstance(sequence, EmbedSequence):
                self._embed(sequence, min(free, key=lambda slot: slot.release_order))
            else:
                self._begin(sequence, free)

    def _pop_waiting(self, free: Collection[int]) -> TokenSequence | EmbedSequence | None:
        """Return the one that has waited longest of those that may have a free slot, or None."""
        with self._lock:
            for sequence in self._waiting:
                wanted = sequence.slot if isinstance(sequence, TokenSequence) else None
                if wanted is None or wanted in free or sequence.is_cancelled:
                    self._waiting.remove(sequence)
                    return sequence
        return None

    def _begin(self, sequence: TokenSequence, free: list[Slot]) -> None:
        """Assign a slot if there is anything to generate; an error ends this sequence alone."""
        try:
            if (delta := sequence.generation.begin()) is not None:
                sequence.emit(delta)
            else:
                self._assign_slot(sequence, free)
        except Exception as exc:
            self.counts.failed += 1
            sequence.fail(exc)

    def _assign_slot(self, sequence: TokenSequence, free: list[Slot]) -> None:
        """Assign the slot with the longest prefix of the prompt, or copy it from another."""
        prompt = sequence.generation.tokens
        if sequence.slot is not None:
            free = [slot for slot in free if slot.index == sequence.slot]
        shared = {slot.index: slot.engine.n_shared(prompt) for slot in self.slots}
        slot = max(free, key=lambda slot: (shared[slot.index], -slot.release_order))
        best = max(shared, key=shared.__getitem__)
        if shared[best] - shared[slot.index] >= WORTH_COPYING:
            slot.engine.reset()  # unknown if the copy fails
            with suppress(CacheLostError):  # then the prompt is computed
                self._model.copy_cache(best, slot.index, shared[best])
                slot.engine.adopt(prompt[: shared[best]])
        self.counts.cached_tokens += slot.engine.n_known(sequence.generation)
        slot.sequence, sequence.used_slot = sequence, slot.index

    def _free(self, slot: Slot) -> None:
        slot.sequence = None
        slot.release_order = max(other.release_order for other in self.slots) + 1

    # -- computing -------------------------------------------------------------------------------

    def _prefill(self, slot: Slot, sequence: TokenSequence) -> None:
        """Compute the next batch of a prompt, or of the window after a context shift."""
        start_time = time.perf_counter()
        n_before = slot.engine.n_known(sequence.generation)
        delta = slot.engine.step(sequence.generation)
        self.counts.prompt_tokens += slot.engine.n_cached - n_before
        self.counts.prompt_s += time.perf_counter() - start_time
        if delta is not None:
            self._emit(slot, sequence, delta)

    def _decode_alone(self, slot: Slot, sequence: TokenSequence) -> None:
        """Compute one token, or accept a draft."""
        start_time = time.perf_counter()
        delta = slot.engine.step(sequence.generation)
        self._count_round(1, start_time)
        if delta is not None:
            self._emit(slot, sequence, delta)

    def _decode(self, slots: list[Slot]) -> None:
        """Compute one token of each text in one pass, and what is drafted after it."""
        start_time = time.perf_counter()
        generations = [slot.sequence.generation for slot in slots if slot.sequence is not None]
        try:
            drafts = self._draft(slots, generations)
            draft_s = time.perf_counter() - start_time
            rows = [
                (slot.index, token_id, len(generation.window) - 1 + i)
                for slot, generation, draft in zip(slots, generations, drafts, strict=True)
                for i, token_id in enumerate([generation.window[-1], *(p.token_id for p in draft)])
            ]
            logits = self._model.decode(rows)
        except CacheLostError:
            return  # all slots are behind now
        except Exception as exc:
            for slot in slots:
                self._fail(slot, exc)
            return
        if length := self._lengths.get(len(slots)):
            pass_s = time.perf_counter() - start_time - draft_s
            length.record(len(rows) - len(slots), pass_s, draft_s, len(slots))
        n_accepted = sum(generation.timings.n_accepted for generation in generations)
        for slot, draft in zip(slots, drafts, strict=True):
            own, logits = logits[: 1 + len(draft)], logits[1 + len(draft) :]
            self._run_guarded(slot, partial(self._accept, logits=own, draft=draft))
        if length:
            length.accept(sum(g.timings.n_accepted for g in generations) - n_accepted)
        for generation in generations:
            generation.timings.generate_s += time.perf_counter() - start_time
        self._count_round(len(slots), start_time)

    def _draft(self, slots: list[Slot], generations: list[Generation]) -> list[list[Proposal]]:
        """Return tokens that may follow in each text; none where drafts do not pay."""
        if self._drafter is None:
            return [[] for _ in slots]
        limits = [
            slot.engine.draft_limit(generation)
            for slot, generation in zip(slots, generations, strict=True)
        ]
        default = DraftLength(self._drafter.n_draft, self._drafter.n_min)
        n = self._lengths.setdefault(len(slots), default).choose(max(limits))
        return [
            slot.engine.draft(generation, min(n, limit))
            for slot, generation, limit in zip(slots, generations, limits, strict=True)
        ]

    def _accept(
        self, slot: Slot, sequence: TokenSequence, logits: NDArray[np.float32],
        draft: list[Proposal],
    ) -> None:  # fmt: skip
        for delta in slot.engine.accept(sequence.generation, logits, draft):
            self._emit(slot, sequence, delta)

    def _is_under_way(self, slot: Slot) -> bool:
        return any(slot in group.slots for group in self._groups)

    def _decode_in_groups(self, model: PipelinedModel, slots: list[Slot]) -> None:
        """Begin with a token of texts that are not under way; wait for the oldest group.

        There are as many groups as stages: while one is at the second stage, the next is at the
        first.
        """
        n_groups = min(model.n_parallel - len(self._groups), len(slots))
        try:
            for i in range(n_groups):
                self._begin_group(model, slots[i::n_groups])
            if self._groups:
                self._end_group(model, self._groups[0])
        except CacheLostError:
            self._groups.clear()  # all slots are behind now
        except Exception as exc:
            groups, self._groups = list(self._groups), deque()
            for slot in [slot for group in groups for slot in group.slots] or slots:
                self._fail(slot, exc)

    def _begin_group(self, model: PipelinedModel, slots: list[Slot]) -> None:
        texts = [slot.sequence.generation for slot in slots if slot.sequence is not None]
        rows = [
            (slot.index, text.window[-1], len(text.window) - 1)
            for slot, text in zip(slots, texts, strict=True)
        ]
        start_time = time.perf_counter()
        self._groups.append(_Group(slots, model.begin_decode(rows), start_time))

    def _end_group(self, model: PipelinedModel, group: _Group) -> None:
        logits = model.end_decode(group.pending)
        self._groups.popleft()
        duration_s = time.perf_counter() - group.start_time
        for slot, row in zip(group.slots, logits, strict=True):
            if slot.sequence is not None:
                slot.sequence.generation.timings.generate_s += duration_s
            self._run_guarded(slot, partial(self._accept, logits=row[None], draft=[]))
        self._count_round(len(group.slots), group.start_time)

    def _count_round(self, n_rows: int, start_time: float) -> None:
        self.counts.decode_s += time.perf_counter() - start_time
        self.counts.rounds += 1
        self.counts.decoded_rows += n_rows

    def _emit(self, slot: Slot, sequence: TokenSequence, delta: TextDelta) -> None:
        """Pass a delta on; free the slot after the last one."""
        self.counts.generated_tokens += 1
        if sequence.generation.is_done:
            self._free(slot)
            self.counts.finished += 1
        sequence.emit(delta)

    def _embed(self, sequence: EmbedSequence, slot: Slot) -> None:
        slot.engine.reset()
        try:
            sequence.done(self._model.embed(sequence.tokens, slot.index))
            self.counts.prompt_tokens += len(sequence.tokens)
            self.counts.finished += 1
        except Exception as exc:
            self.counts.failed += 1
            sequence.fail(exc)

    def _run_guarded(self, slot: Slot, step: Callable[[Slot, TokenSequence], None]) -> None:
        """Do a step for a slot; an error ends its sequence alone."""
        assert slot.sequence is not None
        try:
            step(slot, slot.sequence)
        except Exception as exc:
            self._fail(slot, exc)

    def _fail(self, slot: Slot, exc: Exception) -> None:
        sequence = slot.sequence
        slot.engine.reset()  # its content is unknown
        self._free(slot)
        self.counts.failed += 1
        if sequence is not None:
            sequence.fail(exc)

    def drop_all(self, exc: Exception) -> None:
        """Fail all sequences: the server stops."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        self._groups.clear()
        for sequence in waiting:
            sequence.fail(exc)
        for slot in self.slots:
            if slot.sequence is not None:
                self._fail(slot, exc)


def _age(slot: Slot) -> float:
    assert slot.sequence is not None
    return slot.sequence.start_time
