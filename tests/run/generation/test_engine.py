"""Generation with a model of two lines: what the engine asks of it, yields and counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from gguf_hub.errors import ContextFullError, UsageError
from gguf_hub.run.generation.engine import Drafter, Engine, Forward
from gguf_hub.run.generation.generation import Generation
from gguf_hub.run.sampler import Proposal
from tests.run.generation.numbers import text_after


class Counter(Forward):
    """Says that the next token is the last one plus one; remembers what it was asked."""

    n_ctx = 16
    n_batch = 4

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], int]] = []

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False, slot: int = 0
    ) -> NDArray[np.float32]:
        self.calls.append((list(tokens), position))
        shown = tokens if all_logits else tokens[-1:]
        logits = np.zeros((len(shown), 100), np.float32)
        logits[range(len(shown)), [token + 1 for token in shown]] = 9
        return logits


@pytest.fixture
def engine() -> Engine:
    return Engine(Counter())


def write(engine: Engine, prompt: list[int], **options: object) -> Generation:
    text = text_after(prompt, engine.model.n_ctx, **options)
    for _ in engine.stream(text):
        pass
    return text


def ids(engine: Engine, prompt: list[int], **options: object) -> list[int]:
    return write(engine, prompt, **options).tokens[len(prompt) :]


def test_tokens_follow_one_another(engine: Engine) -> None:
    text = write(engine, [1, 2], max_tokens=3)
    assert (text.tokens[2:], text.finish_reason) == ([3, 4, 5], "length")
    assert engine.model.calls == [([1, 2], 0), ([3], 2), ([4], 3)]  # type: ignore[attr-defined]


def test_deltas_join_to_the_text(engine: Engine) -> None:
    deltas = list(engine.stream(text_after([1, 2], 16, max_tokens=3)))
    assert [delta.text for delta in deltas] == ["3 ", "4 ", "5 "]
    assert [delta.finish_reason for delta in deltas] == [None, None, "length"]


def test_a_stop_token_ends_the_text_and_is_not_part_of_it(engine: Engine) -> None:
    text = write(engine, [1], stop_ids={4})
    assert (text.tokens[1:], text.finish_reason) == ([2, 3], "stop")


def test_generation_ends_when_the_context_is_full(engine: Engine) -> None:
    text = write(engine, [1])
    assert text.tokens[1:] == list(range(2, 18))  # 16 cached, and one more sampled after them
    assert text.finish_reason == "length"


def test_no_tokens_wanted_are_no_tokens(engine: Engine) -> None:
    assert ids(engine, [1], max_tokens=0) == []


def test_a_long_prompt_is_computed_in_batches(engine: Engine) -> None:
    text = write(engine, list(range(10)), max_tokens=1)
    assert [len(tokens) for tokens, _ in engine.model.calls] == [4, 4, 2]  # type: ignore[attr-defined]
    assert (text.timings.n_prompt, text.timings.n_cached) == (10, 0)


def test_one_step_computes_one_batch(engine: Engine) -> None:
    text = text_after(list(range(10)), 16)
    assert [engine.step(text) is None for _ in range(4)] == [True, True, False, False]
    assert text.tokens[10:] == [10, 11]


def test_a_shared_beginning_is_not_computed_again(engine: Engine) -> None:
    ids(engine, [1, 2, 3], max_tokens=2)
    engine.model.calls.clear()  # type: ignore[attr-defined]
    text = write(engine, [1, 2, 50, 51], max_tokens=1)
    assert engine.model.calls == [([50, 51], 2)]  # type: ignore[attr-defined]
    assert (text.timings.n_cached, text.timings.n_prompt) == (2, 2)


def test_the_same_prompt_again_computes_only_its_last_token(engine: Engine) -> None:
    ids(engine, [1, 2, 3], max_tokens=1)
    engine.model.calls.clear()  # type: ignore[attr-defined]
    assert ids(engine, [1, 2, 3], max_tokens=1) == [4]
    assert engine.model.calls == [([3], 2)]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_texts_may_take_turns(engine: Engine) -> None:
    first, second = text_after([1, 2, 3], 16), text_after([1, 9], 16)
    for _ in range(3):
        engine.step(first)
        engine.step(second)
    assert first.tokens == [1, 2, 3, 4, 5, 6]
    assert second.tokens == [1, 9, 10, 11, 12]
    assert engine.step(second) is not None  # the cache is its own by now
    assert engine.model.calls[-1] == ([12], 4)  # type: ignore[attr-defined]


def test_tokens_that_others_put_into_the_cache_are_known(engine: Engine) -> None:
    engine.adopt([1, 2, 3])
    assert write(engine, [1, 2, 3, 4], max_tokens=1).timings.n_cached == 3


def test_reset_forgets_the_cache(engine: Engine) -> None:
    ids(engine, [1, 2, 3], max_tokens=1)
    engine.reset()
    assert write(engine, [1, 2, 3], max_tokens=1).timings.n_cached == 0


def test_an_interrupted_step_leaves_no_false_cache(engine: Engine) -> None:
    engine.prefill([1, 2, 3])

    class Broken(Counter):
        def forward(self, *args: object, **kwargs: object) -> NDArray[np.float32]:
            raise KeyboardInterrupt

    engine.model = Broken()
    with pytest.raises(KeyboardInterrupt):
        engine.prefill([1, 9, 9])
    engine.model = Counter()
    assert write(engine, [1, 2, 3], max_tokens=1).timings.n_cached == 1


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="the prompt is empty"):
        ids(engine, [])


def test_a_prompt_longer_than_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(ContextFullError, match="17 tokens, more than the context of 16"):
        ids(engine, list(range(17)))


# -- drafts ----------------------------------------------------------------------------------------


class Draft(Drafter):
    """Proposes that the next tokens are so and so much larger than the last one."""

    n_draft = n_min = 8  # always all of them, as far as there is room

    def of_slot(self, slot: int) -> Drafter:
        return self

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def draft(self, tokens: Sequence[int], limit: int, proposer: object) -> list[Proposal]:
        return [Proposal(tokens[-1] + step) for step in self.steps[:limit]]


def drafting(*steps: int) -> Engine:
    drafter: Drafter = Draft(*steps)
    return Engine(Counter(), drafter=drafter)


def test_drafts_that_come_true_save_passes() -> None:
    engine = drafting(1, 2)
    text = write(engine, [1, 2], max_tokens=6)
    assert text.tokens[2:] == [3, 4, 5, 6, 7, 8]
    calls = engine.model.calls  # type: ignore[attr-defined]
    assert calls == [([1, 2], 0), ([3, 4, 5], 2), ([6, 7], 5)]  # no more than wanted
    assert (text.timings.n_drafted, text.timings.n_accepted) == (3, 3)


def test_wrong_drafts_cost_no_token() -> None:
    engine = drafting(1, 7)
    text = write(engine, [1, 2], max_tokens=4)
    assert text.tokens[2:] == [3, 4, 5, 6]
    calls = engine.model.calls  # type: ignore[attr-defined]
    assert calls == [([1, 2], 0), ([3, 4, 10], 2), ([5], 4)]
    assert (text.timings.n_drafted, text.timings.n_accepted) == (2, 1)


def test_drafts_stay_within_the_context() -> None:
    engine = drafting(1, 2, 3, 4)
    assert ids(engine, [1]) == list(range(2, 18))
    assert max(at + len(tokens) for tokens, at in engine.model.calls) == 16  # type: ignore[attr-defined]


@pytest.mark.parametrize("steps", [(5, 6), (1, 2, 3), (1, 7)])
def test_the_cache_is_said_to_hold_no_draft_that_has_not_come_true(steps: tuple[int, ...]) -> None:
    engine = drafting(*steps)
    text = write(engine, [1, 2], max_tokens=3)
    assert engine.cached == text.tokens[: engine.n_cached]
    engine.model.calls.clear()  # type: ignore[attr-defined]
    ids(engine, [*text.tokens, 60], max_tokens=1)
    ((tokens, position),) = engine.model.calls  # type: ignore[attr-defined]
    assert [*text.tokens, 60][position:] == tokens


def test_a_draft_of_one_text_is_not_taken_for_another() -> None:
    engine = drafting(1, 2)
    first, second = text_after([1, 2], 16), text_after([1, 2, 3, 9], 16)
    for _ in range(3):
        engine.step(first)
        engine.step(second)
    assert (first.tokens, second.tokens) == ([1, 2, 3, 4, 5], [1, 2, 3, 9, 10, 11, 12])
