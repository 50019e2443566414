"""Generation with a model of two lines: what the engine asks of it, yields and counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from gguf_hub.errors import ContextFullError, UsageError
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.sampler import Sampler, SamplerConfig


class Counter:
    """Says that the next token is the last one plus one; remembers what it was asked."""

    n_ctx = 16
    n_batch = 4

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], int]] = []

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False
    ) -> NDArray[np.float32]:
        self.calls.append((list(tokens), position))
        shown = tokens if all_logits else tokens[-1:]
        logits = np.zeros((len(shown), 100), np.float32)
        logits[range(len(shown)), [token + 1 for token in shown]] = 9
        return logits


@pytest.fixture
def engine() -> Engine:
    return Engine(Counter())


GREEDY = Sampler(SamplerConfig(temp=0))


def ids(engine: Engine, prompt: list[int], **options: object) -> list[int]:
    return [s.token_id for s in engine.generate(prompt, GREEDY, **options)]  # type: ignore[arg-type]


def test_tokens_follow_one_another(engine: Engine) -> None:
    assert ids(engine, [1, 2], max_tokens=3) == [3, 4, 5]
    assert engine.finish_reason == "length"
    assert engine.model.calls == [([1, 2], 0), ([3], 2), ([4], 3)]  # type: ignore[attr-defined]


def test_log_probabilities_are_the_models(engine: Engine) -> None:
    (sampled,) = engine.generate([1], GREEDY, max_tokens=1)
    assert sampled.logprob == pytest.approx(9 - np.log(np.exp(9) + 99))


def test_a_stop_token_ends_the_text_and_is_not_yielded(engine: Engine) -> None:
    assert ids(engine, [1], stop_ids={4}) == [2, 3]
    assert engine.finish_reason == "stop"


def test_generation_ends_when_the_context_is_full(engine: Engine) -> None:
    assert ids(engine, [1]) == list(range(2, 18))  # 16 cached, and one more sampled after them
    assert engine.finish_reason == "length"


def test_no_tokens_wanted_are_no_tokens(engine: Engine) -> None:
    assert ids(engine, [1], max_tokens=0) == []


def test_a_long_prompt_is_computed_in_batches(engine: Engine) -> None:
    engine.prefill(list(range(10)))
    assert [len(tokens) for tokens, _ in engine.model.calls] == [4, 4, 2]  # type: ignore[attr-defined]
    assert (engine.timings.n_prompt, engine.timings.n_cached) == (10, 0)


def test_a_shared_beginning_is_not_computed_again(engine: Engine) -> None:
    ids(engine, [1, 2, 3], max_tokens=2)
    engine.model.calls.clear()  # type: ignore[attr-defined]
    ids(engine, [1, 2, 50, 51], max_tokens=1)
    assert engine.model.calls == [([50, 51], 2)]  # type: ignore[attr-defined]
    assert (engine.timings.n_cached, engine.timings.n_prompt) == (2, 2)


def test_the_same_prompt_again_computes_only_its_last_token(engine: Engine) -> None:
    ids(engine, [1, 2, 3], max_tokens=1)
    engine.model.calls.clear()  # type: ignore[attr-defined]
    assert ids(engine, [1, 2, 3], max_tokens=1) == [4]
    assert engine.model.calls == [([3], 2)]  # type: ignore[attr-defined]


def test_reset_forgets_the_cache(engine: Engine) -> None:
    ids(engine, [1, 2, 3], max_tokens=1)
    engine.reset()
    engine.prefill([1, 2, 3])
    assert engine.timings.n_cached == 0


def test_an_interrupted_step_leaves_no_false_cache(engine: Engine) -> None:
    engine.prefill([1, 2, 3])

    class Broken(Counter):
        def forward(self, *args: object, **kwargs: object) -> NDArray[np.float32]:
            raise KeyboardInterrupt

    engine.model = Broken()
    with pytest.raises(KeyboardInterrupt):
        engine.prefill([1, 9, 9])
    engine.model = Counter()
    engine.prefill([1, 2, 3])
    assert engine.timings.n_cached == 1


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="the prompt is empty"):
        ids(engine, [])


def test_a_prompt_longer_than_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(ContextFullError, match="17 tokens, more than the context of 16"):
        ids(engine, list(range(17)))


# -- guesses ---------------------------------------------------------------------------------------


class Guess:
    """Guesses that the next tokens are so and so much larger than the last one."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def draft(self, tokens: Sequence[int]) -> list[int]:
        return [tokens[-1] + step for step in self.steps]


def test_guesses_that_come_true_save_passes(engine: Engine) -> None:
    assert ids(engine, [1, 2], max_tokens=6, drafter=Guess(1, 2)) == [3, 4, 5, 6, 7, 8]
    calls = engine.model.calls  # type: ignore[attr-defined]
    assert calls == [([1, 2], 0), ([3, 4, 5], 2), ([6, 7], 5)]  # no more than wanted
    assert (engine.timings.n_drafted, engine.timings.n_accepted) == (3, 3)


def test_wrong_guesses_cost_no_token(engine: Engine) -> None:
    assert ids(engine, [1, 2], max_tokens=4, drafter=Guess(1, 7)) == [3, 4, 5, 6]
    calls = engine.model.calls  # type: ignore[attr-defined]
    assert calls == [([1, 2], 0), ([3, 4, 10], 2), ([5], 4)]
    assert (engine.timings.n_drafted, engine.timings.n_accepted) == (2, 1)


def test_guesses_stay_within_the_context(engine: Engine) -> None:
    assert ids(engine, [1], drafter=Guess(1, 2, 3, 4)) == list(range(2, 18))
    assert max(at + len(tokens) for tokens, at in engine.model.calls) == 16  # type: ignore[attr-defined]


def test_a_rejected_guess_is_not_taken_for_a_prompt(engine: Engine) -> None:
    ids(engine, [1, 2], max_tokens=3, drafter=Guess(5, 6))
    engine.model.calls.clear()  # type: ignore[attr-defined]
    ids(engine, [1, 2, 3, 4, 5, 60], max_tokens=1)
    # 3 and 4 were computed after one another; what else the cache holds are guesses
    assert engine.model.calls == [([5, 60], 4)]  # type: ignore[attr-defined]
