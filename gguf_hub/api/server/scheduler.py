"""Continuous batching: requests share a model, each with a slot of its own.

A round admits waiting sequences and computes one batch: a token of every text, and of the oldest
prompts what there is room for, in one pass over the weights. So a long prompt delays the others by
one batch at most, and a new request begins as soon as a slot is free. One thread calls ``round``;
any thread may ``submit`` and cancel.

Where drafts are checked or a GPU computes, a round is a batch of one prompt, then a pass for texts.

Where a model is computed in stages on several machines, texts are divided into as many groups, each
at another stage; a round then takes one token of the oldest group.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.api.server.slots import (
    AnySequence,
    Counts,
    EmbedSequence,
    MixingModel,
    PipelinedModel,
    Slot,
    SlotAction,
    SlotModel,
    TokenSequence,
)
from gguf_hub.errors import BusyError, CacheLostError
from gguf_hub.run.generation import Generation, LogitsSampler, TextDelta
from gguf_hub.run.generation.draft_length import DraftLength
from gguf_hub.run.generation.engine import Drafter, Engine, TextPart
from gguf_hub.run.generation.logits_sampler import choose_together
from gguf_hub.run.sampler import Proposal

Work = tuple[Slot, TextPart | None]
"""A slot, and the part of its prompt that is computed; None for the last token of a text."""

WORTH_COPYING = 16
"""Minimum common prefix with another slot, in positions, to copy its cache."""


@dataclass
class _Group:
    """Slots of which a token is being computed."""

    slots: list[Slot]
    pending: Any
    start_time: float


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
        self._waiting: deque[AnySequence] = deque()
        self._lock = threading.Lock()
        self.slots = [Slot(Engine(model, slot=i, drafter=drafter)) for i in range(model.n_slots)]
        self._drafter = drafter
        self._lengths: dict[int, DraftLength] = {}  # by the number of texts of a pass
        self.counts = Counts()
        self._pipelined = model if isinstance(model, PipelinedModel) else None
        self._mixing = model if drafter is None and isinstance(model, MixingModel) else None
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

    def submit(self, *sequences: AnySequence) -> None:
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
            is_cancelled = slot.sequence is not None and slot.sequence.is_cancelled
            if is_cancelled and not self._is_under_way(slot):
                self._free(slot)
                self.counts.cancelled += 1
        self._admit()
        # 2) prompts and texts together, where that pays
        prefilling, decoding = self._split()
        prefilling.sort(key=_age)
        if self._is_mixed(prefilling, decoding):
            parts = self._take_parts(prefilling, self._model.n_batch - len(decoding))
            self._compute([*parts, *((slot, None) for slot in decoding)])
            return
        # 3) else one batch of the oldest prompt
        if prefilling:
            self._run_guarded(prefilling[0], self._prefill)
            decoding = self._split()[1]
        # 4) and one token of every other text
        is_alone = len(decoding) == 1 and not self._groups
        if is_alone and decoding[0].engine.drafter is not None:
            self._run_guarded(decoding[0], self._decode_alone)
        elif self._pipelined is not None and self._pipelined.n_parallel > 1:
            self._decode_in_groups(self._pipelined, decoding)
        elif decoding and self._drafter is not None:
            self._decode(decoding)
        elif decoding:
            self._compute([(slot, None) for slot in decoding])

    def _is_mixed(self, prefilling: Sequence[Slot], decoding: Sequence[Slot]) -> bool:
        """Return whether prompts share a pass: not where texts leave them less than half of it.

        Nor where the oldest one needs logits of all its tokens: others would get ahead of it.
        """
        if self._mixing is None or not self._mixing.can_mix or not prefilling:
            return False
        if 2 * len(decoding) > self._model.n_batch or len(prefilling) + len(decoding) < 2:
            return False
        return not prefilling[0].is_read_alone

    def _split(self) -> tuple[list[Slot], list[Slot]]:
        """Return the slots whose cache lacks more than a text's last token, and the others."""
        behind: list[Slot] = []
        ready: list[Slot] = []
        for slot in self.slots:
            if slot.sequence is not None:
                if slot.engine.is_behind(slot.sequence.generation):
                    behind.append(slot)
                elif not self._is_under_way(slot):
                    ready.append(slot)
        return behind, ready

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
            elif isinstance(sequence, SlotAction):
                sequence.run(self.slots[sequence.slot].engine)
            else:
                self._begin(sequence, free)

    def _pop_waiting(self, free: Collection[int]) -> AnySequence | None:
        """Return the one that has waited longest of those that may have a free slot, or None."""
        with self._lock:
            for sequence in self._waiting:
                wanted = sequence.slot
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
        if not sequence.generation.request.reuses_cache:
            free = [min(free, key=lambda slot: slot.release_order)]
            free[0].engine.reset()
        shared = {slot.index: slot.engine.n_shared(prompt) for slot in free}
        slot = max(free, key=lambda slot: (shared[slot.index], -slot.release_order))
        worth = shared[slot.index] + WORTH_COPYING
        may_copy = sequence.generation.request.reuses_cache and len(prompt) >= worth
        start = prompt[:worth] if may_copy else None
        shared |= {  # of busy ones, too, as far as they are worth a copy
            other.index: other.engine.n_shared(prompt)
            for other in self.slots if start and other.engine.begins_with(start)
        }  # fmt: skip
        best = max(shared, key=shared.__getitem__)
        if shared[best] >= worth:
            slot.engine.reset()  # unknown if the copy fails
            with suppress(CacheLostError):  # then the prompt is computed
                self._model.copy_cache(best, slot.index, shared[best])
                slot.engine.adopt(prompt[: shared[best]])
        n_cached = slot.engine.n_known(sequence.generation)
        self.counts.cached_tokens += n_cached
        slot.sequence = sequence
        sequence.begin_prompt(slot.index, n_cached)

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
        sequence.show_progress()
        if delta is not None:
            self._emit(slot, sequence, delta)

    def _compute(self, work: Sequence[Work]) -> None:
        """Compute one batch: tokens of texts, and parts of prompts."""
        start_time = time.perf_counter()
        try:
            logits = self._logits_of(work)
        except CacheLostError:
            return  # all slots are behind now
        except Exception as exc:
            for slot, _ in work:
                self._fail(slot, exc)
            return
        ending = [slot for slot, part in work if part is None or part.is_last]
        rows = zip(logits, choose_together(_samplers(ending), logits), strict=True)
        texts = [slot.sequence for slot, part in work if slot.sequence and part is None]
        for slot, part in work:
            row, chosen = next(rows) if part is None or part.is_last else (None, None)
            try:
                self._take(slot, part, row, chosen, start_time)
            except Exception as exc:  # ends this text alone
                self._fail(slot, exc)
        duration_s = time.perf_counter() - start_time
        for sequence in texts:
            sequence.generation.timings.generate_s += duration_s
        self._count_batch(work, len(texts), duration_s)

    def _logits_of(self, work: Sequence[Work]) -> NDArray[np.float32]:
        """Return logits of texts, and of prompts that end, [n, V]."""
        if self._mixing is not None and any(part is not None for _, part in work):
            return self._mixing.forward_parts([_tokens_of(slot, part) for slot, part in work])
        texts = [(s.index, s.sequence.generation.window) for s, _ in work if s.sequence]
        return self._model.decode([(i, window[-1], len(window) - 1) for i, window in texts])

    def _take_parts(self, slots: Sequence[Slot], limit: int) -> list[Work]:
        """Return parts of prompts, ``limit`` tokens at most; an error ends its own text alone."""
        parts: list[Work] = []

        def take(slot: Slot, sequence: TokenSequence) -> None:
            """Add the next part of a slot's prompt, at most what the batch still takes."""
            parts.append((slot, slot.engine.next_part(sequence.generation, limit)))

        for slot in slots:
            n_before = len(parts)
            if limit > 0 and not slot.is_read_alone:
                self._run_guarded(slot, take)
            limit -= sum(len(part.tokens) for _, part in parts[n_before:] if part)
        return parts

    def _take(
        self, slot: Slot, part: TextPart | None, logits: NDArray[np.float32] | None,
        chosen: int | None, start_time: float,
    ) -> None:  # fmt: skip
        """Take what a batch brought for one text."""
        sequence = slot.sequence
        assert sequence is not None
        if part is not None:
            delta = slot.engine.accept_part(sequence.generation, part, logits, start_time, chosen)
            sequence.show_progress()
            if delta is None:
                return
        else:
            assert logits is not None
            delta = slot.engine.accept_token(sequence.generation, logits, chosen)
        self._emit(slot, sequence, delta)

    def _count_batch(self, work: Sequence[Work], n_texts: int, duration_s: float) -> None:
        """Count a batch; its time is shared by tokens."""
        n_prompt = sum(len(part.tokens) for _, part in work if part is not None)
        share = n_prompt / (n_prompt + n_texts)
        self.counts.prompt_tokens += n_prompt
        self.counts.prompt_s += share * duration_s
        self.counts.decode_s += (1 - share) * duration_s
        self.counts.rounds += n_texts > 0
        self.counts.decoded_rows += n_texts

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
        return bool(self._groups) and any(slot in group.slots for group in self._groups)

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


def _samplers(slots: Sequence[Slot]) -> list[LogitsSampler]:
    return [slot.sequence.generation.request.sampler for slot in slots if slot.sequence]


def _tokens_of(slot: Slot, part: TextPart | None) -> tuple[int, Sequence[int], int, int]:
    """Return what a model computes of a slot: a part of a prompt, or the last token of a text."""
    if part is not None:
        return slot.index, part.tokens, part.position, int(part.is_last)
    assert slot.sequence is not None
    window = slot.sequence.generation.window
    return slot.index, window[-1:], len(window) - 1, 1


def _age(slot: Slot) -> float:
    assert slot.sequence is not None
    return slot.sequence.start_time
