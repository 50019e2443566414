"""Who is computed when, on a model that counts: no HTTP, no threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguf_hub.api.server.scheduler import Scheduler
from gguf_hub.api.server.slots import EmbedSequence, SlotModel, TokenSequence
from gguf_hub.errors import BusyError, CacheLostError, UsageError
from gguf_hub.run.generation import (
    ContextShift,
    Generation,
    GenerationRequest,
    LogitsSampler,
    TextDelta,
)
from gguf_hub.run.generation.engine import Drafter
from gguf_hub.run.sampler import Proposal, Sampler, SamplerConfig
from gguf_hub.run.tokenizer import SpmTokenizer, read_vocab


class Counter(SlotModel):
    """Says that the next token is the last one plus one; keeps what every slot holds."""

    n_ctx, n_batch, n_slots = 32, 4, 2

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.held: list[list[int]] = [[] for _ in range(self.n_slots)]

    def _put(self, slot: int, tokens: Sequence[int], position: int) -> NDArray[np.float32]:
        assert position <= len(self.held[slot]), "a hole in the cache"
        self.held[slot][position:] = tokens
        logits = np.zeros(100, np.float32)
        logits[tokens[-1] + 1] = 9
        return logits

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False, slot: int = 0
    ) -> NDArray[np.float32]:
        self.calls.append(("prompt", slot, len(tokens)))
        if all_logits:
            rows = range(len(tokens))
            return np.stack([self._put(slot, tokens[i : i + 1], position + i) for i in rows])
        return self._put(slot, tokens, position)[None]

    def decode(self, rows: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
        self.calls.append(("decode", [slot for slot, _, _ in rows]))
        return np.stack([self._put(slot, [token], at) for slot, token, at in rows])

    def embed(self, tokens: Sequence[int], slot: int = 0) -> NDArray[np.float32]:
        self.held[slot] = list(tokens)
        return np.ones((len(tokens), 3), np.float32)

    def copy_cache(self, source: int, target: int, n_positions: int) -> None:
        self.calls.append(("copy", source, target, n_positions))
        self.held[target] = self.held[source][:n_positions]


TOKENIZER = SpmTokenizer(
    read_vocab(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [f"{i:02}" for i in range(100)],
            "tokenizer.ggml.scores": [0.0] * 100,
            "tokenizer.ggml.token_type": [1] * 100,
        }
    )
)


class Client:
    """A task and what came of it."""

    def __init__(
        self,
        prompt: list[int],
        n: int = 3,
        shift: ContextShift | None = None,
        logit_bias: dict[int, float] | None = None,
        **options: Any,
    ) -> None:
        sampler = LogitsSampler(Sampler(SamplerConfig(temp=0, logit_bias=logit_bias or {})))
        request = GenerationRequest(tuple(prompt), sampler, max_tokens=n, **options)
        self.deltas: list[TextDelta] = []
        self.errors: list[Exception] = []
        generation = Generation(request, TOKENIZER, 32, shift=shift)
        self.sequence = TokenSequence(generation, self.deltas.append, self.errors.append)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def is_done(self) -> bool:
        return bool(self.deltas) and self.deltas[-1].finish_reason is not None


def work(scheduler: Scheduler, *clients: Client) -> None:
    scheduler.submit(*(a.sequence for a in clients))
    while scheduler.has_work:
        scheduler.round()


@pytest.fixture
def model() -> Counter:
    return Counter()


@pytest.fixture
def scheduler(model: Counter) -> Scheduler:
    return Scheduler(model, n_waiting=2)


def test_one_text_is_written(scheduler: Scheduler, model: Counter) -> None:
    clients = Client([10, 11])
    work(scheduler, clients)
    assert clients.text == "121314"
    assert clients.deltas[-1].finish_reason == "length"
    assert model.calls == [("prompt", 0, 2), ("decode", [0]), ("decode", [0])]


def test_texts_take_turns_and_begin_when_a_slot_is_free(
    scheduler: Scheduler, model: Counter
) -> None:
    clients = [Client([10 * i], n=n) for i, n in ((1, 6), (2, 2), (3, 3), (4, 1))]
    work(scheduler, *clients)
    assert [a.text for a in clients] == ["111213141516", "2122", "313233", "41"]
    together = [call[1] for call in model.calls if call[0] == "decode"]
    assert [0, 1] in together  # several rows in one call
    assert model.calls.index(("prompt", 1, 1)) < 4  # the second did not wait for the first
    assert scheduler.counts.finished == 4


def test_a_full_context_lets_go_of_half_and_others_go_on_meanwhile(
    scheduler: Scheduler, model: Counter
) -> None:
    shifting = Client(list(range(1, 31)), n=17, shift=ContextShift(32, 2))
    other = Client([50], n=30)
    work(scheduler, shifting, other)
    assert shifting.text == "".join(f"{i:02}" for i in range(31, 48))
    assert other.text == "".join(f"{i:02}" for i in range(51, 81))
    # at 33 tokens the 15 after the first two go: the cache holds those two, and computes the others
    again = [call for call in model.calls if call[0] == "prompt"][9:]
    assert again == [("prompt", 0, 4)] * 4
    assert model.held[0] == [1, 2, *range(18, 47)]
    assert (
        shifting.sequence.generation.timings.n_prompt,
        shifting.sequence.generation.n_shifts,
    ) == (30, 1)


def test_letting_go_of_a_text_that_repeats_itself_computes_its_last_token(
    scheduler: Scheduler, model: Counter
) -> None:
    clients = Client([7] * 30, n=40, shift=ContextShift(32, 2), logit_bias={7: 100.0})
    model.calls.clear()
    work(scheduler, clients)
    assert clients.text == "07" * 40
    # what is kept equals what is gone: nothing is computed again but the last token
    assert [call for call in model.calls if call[0] == "prompt"] == [("prompt", 0, 4)] * 7 + [
        ("prompt", 0, 2)
    ]


def test_a_long_prompt_does_not_stop_the_others(scheduler: Scheduler, model: Counter) -> None:
    work_first, long = Client([10], n=5), Client(list(range(20, 35)), n=2)
    work(scheduler, work_first, long)
    kinds = [call[0] for call in model.calls]
    first, last = kinds.index("decode"), len(kinds) - kinds[::-1].index("prompt") - 1
    assert first < last  # tokens of the short one came between batches of the long one
    assert long.text == "3536"


def test_a_shared_beginning_is_not_computed_again(scheduler: Scheduler, model: Counter) -> None:
    work(scheduler, Client([1, 2, 3, 4], n=1))
    model.calls.clear()
    again = Client([1, 2, 3, 9], n=1)
    work(scheduler, again)
    assert model.calls == [("prompt", 0, 1)]
    assert again.sequence.generation.timings.n_cached == 3


def test_the_slot_that_was_used_longest_ago_is_given_away(
    scheduler: Scheduler, model: Counter
) -> None:
    def slot_of(*prompt: int) -> int:
        model.calls.clear()
        work(scheduler, Client(list(prompt), n=1))
        (slot,) = {slot for kind, slot, _ in model.calls if kind == "prompt"}
        return slot

    assert [slot_of(10), slot_of(20), slot_of(30), slot_of(40)] == [0, 1, 0, 1]
    # how often one was used does not count
    assert [slot_of(30, 31), slot_of(30, 31, 32), slot_of(40, 41)] == [0, 0, 1]
    assert [slot_of(50), slot_of(60)] == [0, 1]


def test_an_embedding_takes_the_slot_that_was_used_longest_ago(
    scheduler: Scheduler, model: Counter
) -> None:
    for prompt in ([1, 2, 3], [11, 12, 13]):
        work(scheduler, Client(prompt, n=1))
    vectors: list[Any] = []
    scheduler.submit(EmbedSequence([70], vectors.append, vectors.append))
    scheduler.round()
    assert model.held[0] == [70]
    later = Client([11, 12, 13, 14], n=1)
    work(scheduler, later)
    assert later.sequence.generation.timings.n_cached == 3


def test_a_long_shared_beginning_is_copied_from_a_busy_slot(
    scheduler: Scheduler, model: Counter
) -> None:
    prompt = list(range(1, 21))
    first = Client(prompt, n=8)
    scheduler.submit(first.sequence)
    for _ in range(6):
        scheduler.round()
    second = Client([*prompt, 50], n=1)
    work(scheduler, second)
    assert ("copy", 0, 1, 20) in model.calls
    assert (second.text, second.sequence.generation.timings.n_cached) == ("51", 20)
    assert first.text == "".join(str(i) for i in range(21, 29))


def test_who_goes_frees_a_slot_before_the_next_token(scheduler: Scheduler) -> None:
    gone, stays = Client([10], n=20), Client([30], n=20)
    scheduler.submit(gone.sequence, stays.sequence)
    for _ in range(4):
        scheduler.round()
    n_before = len(gone.deltas)
    gone.sequence.cancel()
    scheduler.round()
    assert scheduler.n_busy == 1
    assert len(gone.deltas) == n_before
    assert scheduler.counts.cancelled == 1


def test_who_goes_while_waiting_is_never_computed(scheduler: Scheduler, model: Counter) -> None:
    clients = [Client([10 * i], n=2) for i in (1, 2, 3)]
    scheduler.submit(*(a.sequence for a in clients))
    clients[2].sequence.cancel()
    while scheduler.has_work:
        scheduler.round()
    assert clients[2].deltas == []


def test_too_many_are_refused_all_or_none(scheduler: Scheduler) -> None:
    scheduler.submit(*(Client([i]).sequence for i in range(1, 4)))  # two slots, two may wait
    with pytest.raises(BusyError, match="are waiting"):
        scheduler.submit(Client([5]).sequence, Client([6]).sequence)
    scheduler.submit(Client([7]).sequence)
    assert scheduler.counts.refused == 1


def test_an_error_ends_its_own_text_alone(scheduler: Scheduler) -> None:
    def no(ids: Any, logits: Any) -> bool:
        raise UsageError("no")

    bad, good = Client([10], criteria=(no,)), Client([20])
    work(scheduler, bad, good)
    assert [str(error) for error in bad.errors] == ["no"]
    assert good.text == "212223"
    assert scheduler.n_busy == 0


def test_texts_are_embedded_between_others(scheduler: Scheduler) -> None:
    vectors: list[Any] = []
    other = Client([10], n=4)
    scheduler.submit(other.sequence, EmbedSequence([1, 2], vectors.append, vectors.append))
    while scheduler.has_work:
        scheduler.round()
    assert vectors[0].shape == (2, 3)
    assert other.text == "11121314"


def test_nothing_to_write_is_told_at_once(scheduler: Scheduler, model: Counter) -> None:
    clients = Client([10], n=0)
    work(scheduler, clients)
    assert clients.is_done
    assert model.calls == []


# -- what went wrong ----------------------------------------------------------------------------


class Broken(Counter):
    """Computes half of what it is asked for, then fails, as often as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: set[str] = set()

    def _break(self, kind: str, slot: int) -> None:
        if kind in self.fails:
            self.held[slot] = [99] * 32  # whatever was there is gone
            raise RuntimeError(kind)

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False, slot: int = 0
    ) -> NDArray[np.float32]:
        self._break("forward", slot)
        return super().forward(tokens, position, all_logits=all_logits, slot=slot)

    def decode(self, rows: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
        for slot, _, _ in rows:
            self._break("decode", slot)
        return super().decode(rows)

    def embed(self, tokens: Sequence[int], slot: int = 0) -> NDArray[np.float32]:
        self._break("embed", slot)
        return super().embed(tokens, slot)

    def copy_cache(self, source: int, target: int, n_positions: int) -> None:
        self._break("copy", target)
        super().copy_cache(source, target, n_positions)


@pytest.mark.parametrize("kind", ["forward", "decode", "embed", "copy"])
def test_a_slot_that_failed_is_not_trusted_and_whoever_asked_is_told(kind: str) -> None:
    model = Broken()
    scheduler = Scheduler(model, n_waiting=4)
    prompt = list(range(1, 21))
    work(scheduler, Client([70], n=1), Client(prompt, n=1))  # both slots hold something
    busy = Client(prompt, n=12)  # and the one that holds the prompt is in use
    scheduler.submit(busy.sequence)
    scheduler.round()
    # another text of the same beginning fails
    model.fails = {kind}
    vectors: list[Any] = []
    clients = Client([*prompt, 50], n=3)
    sequence = (
        EmbedSequence(prompt, vectors.append, vectors.append)
        if kind == "embed"
        else clients.sequence
    )
    scheduler.submit(sequence)
    while scheduler.has_work and not (clients.errors or vectors):
        scheduler.round()
    told = vectors if kind == "embed" else clients.errors
    assert [str(error) for error in told] == [kind]
    model.fails = set()
    while scheduler.has_work:
        scheduler.round()
    for slot in scheduler.slots:  # all that is trusted is true
        assert slot.engine.cached == model.held[slot.index][: slot.engine.n_cached]
    again = Client([*prompt, 50], n=3)
    work(scheduler, again)
    assert again.text == "515253"


def test_a_text_that_cannot_begin_is_told(scheduler: Scheduler) -> None:
    bad, good = Client([10]), Client([20])
    bad.sequence.generation.begin = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    work(scheduler, bad, good)
    assert [type(error) for error in bad.errors] == [ZeroDivisionError]
    assert good.text == "212223"
    assert scheduler.n_busy == 0


class Ahead(Drafter):
    """Drafts the next two tokens, and a wrong one; always."""

    n_draft = n_min = 3

    def draft(self, tokens: Sequence[int], limit: int, proposer: Any) -> list[Proposal]:
        return [Proposal(i) for i in (tokens[-1] + 1, tokens[-1] + 2, 7)][:limit]


def test_texts_with_drafts_share_a_pass(model: Counter) -> None:
    scheduler = Scheduler(model, n_waiting=2, drafter=Ahead())
    clients = [Client([10], n=7), Client([20, 21], n=5)]
    work(scheduler, *clients)
    assert [client.text for client in clients] == ["11121314151617", "2223242526"]
    together = [call[1] for call in model.calls if call[0] == "decode"]
    assert [0, 0, 0, 0, 1, 1, 1, 1] in together  # of each the last token and its draft
    assert [client.deltas[-1].finish_reason for client in clients] == ["length", "length"]
    timings = clients[1].sequence.generation.timings
    assert (timings.n_drafted, timings.n_accepted, timings.n_decoded) == (3, 2, 4)
    for slot in scheduler.slots:  # no draft that did not come true is trusted
        assert slot.engine.cached == model.held[slot.index][: slot.engine.n_cached]


def test_a_text_that_ends_within_its_draft_leaves_the_others_alone(model: Counter) -> None:
    scheduler = Scheduler(model, n_waiting=2, drafter=Ahead())
    clients = [Client([10], n=9, stops=("12",)), Client([20], n=9)]
    work(scheduler, *clients)
    assert [client.text for client in clients] == ["11", "212223242526272829"]
    assert model.calls.count(("prompt", 0, 1)) == 1


# -- several stages ------------------------------------------------------------------------------


class Stages(Counter):
    """The same in two stages: groups are computed when they are waited for, in their order."""

    n_slots, n_parallel = 4, 2

    def __init__(self) -> None:
        super().__init__()
        self.under_way: list[list[tuple[int, int, int]]] = []
        self.most = 0
        self.loses: set[int] = set()  # which waits find the caches lost
        self.n_waits = 0
        self.is_lost = [False] * self.n_slots

    def reusable(self, n_positions: int, slot: int = 0) -> int:
        return 0 if self.is_lost[slot] else n_positions

    def forward(self, tokens: Sequence[int], position: int, **options: Any) -> NDArray[np.float32]:
        self.is_lost[options.get("slot", 0)] = False
        return super().forward(tokens, position, **options)

    def begin_decode(self, rows: Sequence[tuple[int, int, int]]) -> Any:
        slots = {slot for group in self.under_way for slot, _, _ in group}
        assert not slots & {slot for slot, _, _ in rows}, "a slot is under way twice"
        self.under_way.append(list(rows))
        self.most = max(self.most, len(self.under_way))
        return self.under_way[-1]

    def end_decode(self, pending: Any) -> NDArray[np.float32]:
        assert pending is self.under_way[0]
        self.n_waits += 1
        if self.n_waits in self.loses:
            self.under_way.clear()
            self.is_lost = [True] * self.n_slots
            raise CacheLostError("a stage is gone")
        return self.decode(self.under_way.pop(0))


def test_groups_of_texts_are_under_way_at_the_same_time() -> None:
    model, clients = Stages(), [Client([10 * i], n=5) for i in (1, 2, 3, 4)]
    work(Scheduler(model), *clients)
    assert [a.text for a in clients] == [f"{i}1{i}2{i}3{i}4{i}5" for i in (1, 2, 3, 4)]
    assert model.most == 2
    assert not model.under_way


@pytest.mark.parametrize("lost_at", range(1, 7))
def test_texts_go_on_where_the_caches_of_stages_are_lost(lost_at: int) -> None:
    model, clients = Stages(), [Client([10 * i], n=n) for i, n in ((1, 5), (2, 7), (3, 3))]
    model.loses = {lost_at}
    scheduler = Scheduler(model)
    work(scheduler, *clients)
    expected = ["1112131415", "21222324252627", "313233"]
    assert [a.text for a in clients] == expected
    assert model.n_waits > lost_at
    assert scheduler.counts.failed == 0


def test_a_text_that_is_cancelled_frees_its_slot_when_its_group_is_back() -> None:
    model, clients = Stages(), [Client([10 * i], n=6) for i in (1, 2, 3)]
    scheduler = Scheduler(model)
    scheduler.submit(*(a.sequence for a in clients))
    while not model.under_way:
        scheduler.round()
    clients[0].sequence.cancel()
    while scheduler.has_work:
        scheduler.round()
    assert [a.text for a in clients[1:]] == ["212223242526", "313233343536"]
    assert scheduler.counts.cancelled == 1
    assert not clients[0].is_done


def test_an_error_of_the_stages_ends_the_texts_under_way_and_no_others() -> None:
    class Broken(Stages):
        def end_decode(self, pending: Any) -> NDArray[np.float32]:
            self.under_way.clear()
            raise UsageError("broken")

    model, clients = Broken(), [Client([10 * i], n=4) for i in (1, 2)]
    scheduler = Scheduler(model)
    work(scheduler, *clients)
    assert all(str(a.errors[0]) == "broken" for a in clients)
    assert scheduler.n_busy == 0
    late = Client([50], n=1)
    work(scheduler, late)
    assert late.text == "51"


class Broke(Ahead):
    """Cannot draft."""

    def draft(self, tokens: Sequence[int], limit: int, proposer: Any) -> list[Proposal]:
        raise RuntimeError("damaged")


def test_a_drafter_that_fails_is_reported_and_the_server_goes_on(model: Counter) -> None:
    scheduler = Scheduler(model, n_waiting=4, drafter=Broke())
    clients = [Client([10], n=7), Client([20], n=7)]
    work(scheduler, *clients)
    assert [str(client.errors[0]) for client in clients] == ["damaged", "damaged"]
    last = Client([30], n=1)  # needs no draft
    work(scheduler, last)
    assert last.text == "31"


def test_a_new_request_begins_while_fifteen_others_generate() -> None:
    class Wide(Counter):
        n_slots = 16

    scheduler = Scheduler(Wide(), n_waiting=20)
    others = [Client([i], n=30) for i in range(10, 25)]
    scheduler.submit(*(client.sequence for client in others))
    while not all(client.deltas for client in others):
        scheduler.round()
    before = [len(client.deltas) for client in others]
    late = Client([50, 51, 52], n=3)
    scheduler.submit(late.sequence)
    scheduler.round()
    assert late.deltas  # within the round, which had a token of each of the others
    assert [len(client.deltas) - n for client, n in zip(others, before, strict=True)] == [1] * 15


# -- prompts beside texts --------------------------------------------------------------------------


class Mixing(Counter):
    """Takes parts of prompts and tokens of texts together."""

    n_batch, n_slots, can_mix = 8, 4, True

    def forward_parts(
        self, parts: Sequence[tuple[int, Sequence[int], int, int]]
    ) -> NDArray[np.float32]:
        assert sum(len(tokens) for _, tokens, _, _ in parts) <= self.n_batch
        self.calls.append(("mixed", {slot: len(tokens) for slot, tokens, _, _ in parts}))
        rows = []
        for slot, tokens, position, n_logits in parts:
            rows += [self._put(slot, tokens, position)] * n_logits
        return np.array(rows, np.float32).reshape(-1, 100)


def test_prompts_share_a_pass_with_texts() -> None:
    model = Mixing()
    first, second, third = Client([10], n=5), Client([20, 21, 22], n=3), Client([30, 31], n=2)
    scheduler = Scheduler(model, n_waiting=4)
    scheduler.submit(first.sequence)
    scheduler.round()
    work(scheduler, second, third)
    assert [client.text for client in (first, second, third)] == ["1112131415", "232425", "3233"]
    assert model.calls == [
        ("prompt", 0, 1), ("decode", [0]), ("mixed", {1: 3, 2: 2, 0: 1}), ("decode", [0, 1, 2]),
        ("decode", [0, 1]),
    ]  # fmt: skip
    counts = scheduler.counts
    assert (counts.prompt_tokens, counts.generated_tokens, counts.decoded_rows) == (6, 10, 7)


def test_a_batch_has_no_more_than_its_tokens_and_the_oldest_prompt_comes_first() -> None:
    model = Mixing()
    short, long = Client([10], n=6), Client(list(range(20, 35)), n=1)
    late = Client([50, 51, 52], n=1)
    scheduler = Scheduler(model, n_waiting=4)
    scheduler.submit(short.sequence)
    scheduler.round()
    work(scheduler, long, late)
    assert [client.text for client in (short, long, late)] == ["111213141516", "35", "53"]
    mixed = [call[1] for call in model.calls if call[0] == "mixed"]
    assert mixed == [{1: 7, 0: 1}, {1: 7, 0: 1}, {1: 1, 2: 3, 0: 1}]


def test_prompts_alone_share_a_pass() -> None:
    model = Mixing()
    clients = [Client([10 * i, 10 * i + 1], n=2) for i in range(1, 5)]
    work(Scheduler(model, n_waiting=4), *clients)
    assert [client.text for client in clients] == ["1213", "2223", "3233", "4243"]
    assert model.calls == [("mixed", {0: 2, 1: 2, 2: 2, 3: 2}), ("decode", [0, 1, 2, 3])]


def test_texts_that_need_the_logits_of_their_prompt_are_read_alone() -> None:
    model = Mixing()
    clients = [Client([10], n=1), Client([20, 21], n=1, n_prompt_top=1), Client([30], n=1)]
    clients += [Client([40], n=1), Client([50], n=1)]
    work(Scheduler(model, n_waiting=8), *clients)
    assert [client.text for client in clients] == ["11", "22", "31", "41", "51"]
    # in its turn: the last one came later, and is not computed before it
    assert model.calls == [("mixed", {0: 1, 2: 1, 3: 1}), ("prompt", 1, 2), ("prompt", 0, 1)]


def test_a_batch_too_small_for_texts_and_prompts_has_them_in_turn() -> None:
    model = Mixing()
    model.n_batch = 4
    texts = [Client([10 * i], n=6) for i in range(1, 4)]
    late = Client([50, 51, 52], n=1)
    scheduler = Scheduler(model, n_waiting=4)
    scheduler.submit(*(client.sequence for client in texts))
    scheduler.round()
    work(scheduler, late)
    assert late.text == "53"
    assert model.calls[1:3] == [("prompt", 3, 3), ("decode", [0, 1, 2])]


def test_an_error_in_a_shared_pass_ends_what_it_computed_or_one_text() -> None:
    def no(ids: Any, logits: Any) -> bool:
        raise ValueError("no")

    model = Mixing()
    good, bad = Client([10], n=3), Client([20], n=3, criteria=(no,))
    scheduler = Scheduler(model, n_waiting=4)
    work(scheduler, good, bad)
    assert (good.text, [str(e) for e in bad.errors]) == ("111213", ["no"])
    model.forward_parts = lambda parts: 1 / 0  # type: ignore[method-assign, assignment]
    clients = [Client([30], n=3), Client([40], n=3)]
    work(scheduler, *clients)
    assert [type(client.errors[0]) for client in clients] == [ZeroDivisionError] * 2
    assert scheduler.n_busy == 0


def test_texts_go_on_where_a_shared_pass_loses_the_caches() -> None:
    class Losing(Mixing):
        n_lost = 0

        def reusable(self, n_positions: int, slot: int = 0) -> int:
            return min(n_positions, len(self.held[slot]))

        def forward_parts(self, parts: Any) -> NDArray[np.float32]:
            if self.n_lost == 0:
                self.n_lost, self.held = 1, [[] for _ in self.held]
                raise CacheLostError("gone")
            return super().forward_parts(parts)

    clients = [Client([10], n=4), Client([20, 21], n=3)]
    scheduler = Scheduler(Losing(), n_waiting=4)
    scheduler.submit(clients[0].sequence)
    scheduler.round()
    work(scheduler, clients[1])
    assert [client.text for client in clients] == ["11121314", "222324"]


def test_random_texts_are_the_same_alone_and_together() -> None:
    class Flat(Mixing):
        """Its next token is one of several."""

        def _put(self, slot: int, tokens: Sequence[int], position: int) -> NDArray[np.float32]:
            self.held[slot][position:] = tokens
            return np.random.default_rng(tokens[-1]).standard_normal(100).astype(np.float32)

    def written(*seeds: int) -> list[str]:
        clients = [Client([10 + seed], n=9) for seed in seeds]
        for seed, client in zip(seeds, clients, strict=True):
            client.sequence.generation.request.sampler.sampler = Sampler(SamplerConfig(seed=seed))
        work(Scheduler(Flat(), n_waiting=4), *clients)
        return [client.text for client in clients]

    assert written(0, 1, 2, 3) == [written(seed)[0] for seed in range(4)]
