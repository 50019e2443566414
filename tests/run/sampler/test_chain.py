"""Whole samplers: what is drawn, from what, and in which order."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import GgufError, UsageError
from gguf_hub.run.sampler import Sampler, SamplerConfig, log_softmax
from gguf_hub.run.sampler.rng import MersenneTwister
from tests.run.sampler.test_dry import Words

PROBS = np.array([0.05, 0.4, 0.25, 0.3])
LOGITS = np.log(PROBS).astype(np.float32)
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temp": 1.0}


class Allow:
    """A constraint that allows the same tokens each time and remembers what was chosen."""

    def __init__(self, *allowed: bool) -> None:
        self.allowed = np.array(allowed)
        self.chosen: list[int] = []

    def mask(self) -> np.ndarray:
        return self.allowed

    def accept(self, token_id: int) -> None:
        self.chosen.append(token_id)


def sampler(*allowed: bool, **options: Any) -> Sampler:
    config = SamplerConfig.from_options(**{"seed": 42, **options})
    return Sampler(config, constraint=Allow(*allowed) if allowed else None)


def draws(s: Sampler, n: int, logits: np.ndarray = LOGITS) -> list[int]:
    return [s.sample(logits).token_id for _ in range(n)]


def chi_square(tokens: list[int], probs: np.ndarray) -> float:
    expected = probs * len(tokens)
    counts = np.bincount(tokens, minlength=len(probs))
    assert counts[probs == 0].sum() == 0
    held = probs > 0
    return float((((counts - expected) ** 2)[held] / expected[held]).sum())


def renormalised(*kept: int, power: float = 1.0) -> np.ndarray:
    probs = np.zeros(4)
    probs[list(kept)] = PROBS[list(kept)] ** power
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("options", "probs"),
    [
        ({}, PROBS),
        ({"temp": 0.5}, renormalised(0, 1, 2, 3, power=2.0)),
        ({"top_k": 2}, renormalised(1, 3)),
        ({"top_p": 0.69}, renormalised(1, 3)),
        ({"min_p": 0.2}, renormalised(1, 2, 3)),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.2}, renormalised(0, 2)),
        ({"typical_p": 0.4}, renormalised(2, 3)),
        ({"logit_bias": {1: -math.inf}}, renormalised(0, 2, 3)),
        ({"samplers": "k", "temp": 0.1, "top_k": 3}, renormalised(1, 2, 3)),
    ],
    ids=str,
)
def test_tokens_are_drawn_by_the_probabilities_that_the_steps_leave(
    options: dict[str, Any], probs: np.ndarray
) -> None:
    tokens = draws(sampler(**{**OFF, **options}), 3000)
    assert chi_square(tokens, probs) < 16.3  # the 99.9 % point of chi-square with 3 degrees


def test_half_of_the_draws_meet_xtc_at_one_half() -> None:
    tokens = draws(sampler(**OFF, xtc_probability=0.5, xtc_threshold=0.2), 3000)
    mixed = 0.5 * PROBS + 0.5 * renormalised(0, 2)
    assert chi_square(tokens, mixed) < 16.3


def test_a_draw_is_the_first_token_whose_reach_is_the_random_number() -> None:
    rng, s = MersenneTwister(42), sampler(**OFF, samplers="k")
    reach = np.cumsum(PROBS)
    expected = [int(np.searchsorted(reach, rng.uniform())) for _ in range(200)]
    assert draws(s, 200) == expected
    # std::discrete_distribution over the same weights and seed, compiled with g++ 12
    s.reset()
    assert draws(s, 20) == [3, 1, 3, 2, 1, 1, 2, 1, 1, 2, 1, 3, 3, 0, 3, 2, 2, 0, 0, 2]


def test_a_single_candidate_costs_a_random_number() -> None:
    # as in llama.cpp of 2026: std::discrete_distribution, which it used before, drew none
    with_forced, without = sampler(**OFF), sampler(**OFF)
    forced = np.array([0], dtype=np.float32)
    assert draws(with_forced, 5, forced) == [0] * 5
    assert draws(with_forced, 50) == draws(without, 55)[5:]


def test_the_same_seed_gives_the_same_tokens_and_reset_begins_again() -> None:
    s = sampler(xtc_probability=0.5, mirostat=0)
    first = draws(s, 100)
    s.reset()
    assert draws(s, 100) == first == draws(sampler(xtc_probability=0.5), 100)
    assert draws(sampler(seed=43), 100) != draws(sampler(seed=44), 100)
    assert s.seed == 42


def test_the_logprob_is_the_models_own_whatever_the_chain_does() -> None:
    s = sampler(temp=3.0, top_k=2, logit_bias={0: 9.0}, repeat_penalty=1.5)
    token_id, logprob = s.sample(LOGITS, [1, 2])
    assert logprob == pytest.approx(float(log_softmax(LOGITS)[token_id]))


def test_greedy_takes_the_best_and_of_equals_the_lowest_id() -> None:
    s = sampler(temp=0, typical_p=0.1, xtc_probability=1.0)
    assert s.sample(LOGITS).token_id == 1
    assert s.sample(np.array([1, 3, 3], dtype=np.float32)).token_id == 1
    assert sampler(temp=-1, mirostat=2).sample(LOGITS).token_id == 1


def test_greedy_heeds_penalties_bias_and_mask() -> None:
    assert sampler(temp=0, repeat_penalty=2.0).sample(LOGITS, [1]).token_id == 3
    assert sampler(temp=0, logit_bias={0: 9.0}).sample(LOGITS).token_id == 0
    assert sampler(True, False, True, False, temp=0).sample(LOGITS).token_id == 2


def test_a_constraint_bounds_what_is_drawn_and_is_told() -> None:
    allow = Allow(True, False, False, True, True)  # one more than the model has logits for
    s = Sampler(SamplerConfig.from_options(seed=1, **OFF), constraint=allow)
    tokens = draws(s, 2000)
    assert chi_square(tokens, renormalised(0, 3)) < 16.3
    assert allow.chosen == tokens


def test_penalties_look_back_as_far_as_asked() -> None:
    def penalised(last_n: int) -> int:
        s = sampler(temp=0, presence_penalty=9.0, repeat_last_n=last_n)
        return s.sample(LOGITS, [3, 1]).token_id

    assert [penalised(n) for n in (0, 1, 2, -1)] == [1, 3, 2, 2]


def test_dry_stops_a_loop() -> None:
    s = sampler(temp=0, dry_multiplier=5.0, dry_sequence_breakers=())
    loop = [1, 2, 3, 1, 2, 3]
    assert s.sample(LOGITS, loop).token_id != 1
    assert s.sample(LOGITS, [0, 2, 3]).token_id == 1  # nothing repeats


def test_dry_takes_its_breakers_from_the_vocabulary() -> None:
    config = SamplerConfig.from_options(temp=0, dry_multiplier=5.0, dry_sequence_breakers=("x",))
    with pytest.raises(UsageError, match="need the model's vocabulary"):
        Sampler(config)
    logits = np.zeros(Words.n_vocab, dtype=np.float32)
    logits[0] = 1
    assert Sampler(config, Words()).sample(logits, [5, 6, 0, 5, 6]).token_id == 0  # x breaks


def test_dynamic_temperature_is_used_when_it_has_a_range() -> None:
    hot = draws(sampler(**{**OFF, "temp": 2.0}), 500)
    dynamic = draws(sampler(**{**OFF, "temp": 0.0}, dynatemp_range=0.01), 500)
    assert set(dynamic) == {1} and set(hot) == {0, 1, 2, 3}


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_comes_to_the_surprise_that_is_wanted(version: int) -> None:
    logits = (-1.1 * np.log(np.arange(1, 2001))).astype(np.float32)  # Zipf's law: 7.9 bits

    def mean_bits(tau: float) -> float:
        s = sampler(mirostat=version, mirostat_tau=tau, temp=1.0)
        steps = [s.sample(logits) for _ in range(600)]
        return -sum(step.logprob for step in steps[100:]) / 500 / math.log(2)

    low, high = mean_bits(2.0), mean_bits(5.0)
    # The surprise aimed at is that among the tokens kept; the model's own is larger by the
    # logarithm of the mass that was cut.
    assert 2.0 < low < 5.0 < high < 7.5


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("others", [50 * [0.0], 50 * [-90.0], []], ids=["flat", "sure", "alone"])
def test_mirostat_bears_extremes(version: int, others: list[float]) -> None:
    s = sampler(mirostat=version, mirostat_eta=1000.0, mirostat_tau=0.0)
    tokens = draws(s, 50, np.array([0.0, *others], dtype=np.float32))
    assert all(0 <= token <= len(others) for token in tokens)


HUGE = (0.0, 1e-300, 1e-38, 1e38, 1e300, -1e300, math.inf)


@pytest.mark.parametrize("mirostat", [0, 1, 2])
@pytest.mark.parametrize("second", ["temp", "repeat_penalty", "frequency_penalty", "mirostat_tau"])
@pytest.mark.parametrize(
    "first",
    ["temp", "repeat_penalty", "presence_penalty", "top_n_sigma", "dynatemp_range", "mirostat_eta",
     "dry_multiplier"],
)  # fmt: skip
def test_settings_of_any_size_give_tokens(first: str, second: str, mirostat: int) -> None:
    for one, two in itertools.product(HUGE, HUGE):
        options = {"mirostat": mirostat, "dry_sequence_breakers": [], first: one, second: two}
        try:
            s = sampler(**options)
        except UsageError:  # negative where that cannot be
            continue
        for _ in range(3):
            assert s.choose(LOGITS, [1, 2, 1, 2, 1]) in range(4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_damaged_logits_are_an_error_with_a_hint(bad: float) -> None:
    with pytest.raises(GgufError, match="no finite numbers") as caught:
        sampler().sample(np.array([0, bad], dtype=np.float32))
    assert caught.value.hint


def test_nothing_allowed_is_an_error() -> None:
    with pytest.raises(UsageError, match="no token is possible"):
        sampler(False, False, False, False).sample(LOGITS)
    with pytest.raises(UsageError, match="no token is possible"):
        sampler(logit_bias=dict.fromkeys(range(4), -math.inf)).sample(LOGITS)


def test_a_bias_for_no_token_names_the_interval() -> None:
    with pytest.raises(UsageError, match=r"expected a token id in \[0, 3\], found 4"):
        sampler(logit_bias={4: 1.0}).sample(LOGITS)


def test_logits_are_left_as_they_are() -> None:
    logits = LOGITS.copy()
    sampler(logit_bias={1: 5.0}, repeat_penalty=2.0, dynatemp_range=0.5).sample(logits, [1, 2])
    assert (logits == LOGITS).all()
