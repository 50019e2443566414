"""Each step on numbers worked out by hand, and what every step must leave true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.run.sampler import Candidates, filters

PROBS = [0.1, 0.4, 0.2, 0.3]


def of_logits(*logits: float) -> Candidates:
    return Candidates(np.arange(len(logits)), np.array(logits, dtype=np.float32))


def of_probs(*probs: float) -> Candidates:
    return of_logits(*np.log(probs))


def ids(candidates: Candidates) -> list[int]:
    return candidates.ids.tolist()


@pytest.mark.parametrize(("k", "kept"), [(1, [1]), (2, [1, 3]), (9, [1, 3, 2, 0])])
def test_top_k(k: int, kept: list[int]) -> None:
    assert ids(filters.top_k(of_probs(*PROBS), k)) == kept


def test_top_k_of_zero_keeps_all_as_they_are() -> None:
    assert ids(filters.top_k(of_probs(*PROBS), 0)) == [0, 1, 2, 3]


def test_top_k_takes_the_lowest_ids_of_equals() -> None:
    assert ids(filters.top_k(of_logits(*[1.0] * 5000), 3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("p", "kept"), [(0, [1]), (0.39, [1]), (0.41, [1, 3]), (0.71, [1, 3, 2]), (0.95, [1, 3, 2, 0])],
    ids=str,
)  # fmt: skip
def test_top_p(p: float, kept: list[int]) -> None:
    assert ids(filters.top_p(of_probs(*PROBS), p)) == kept


def test_top_p_reaches_beyond_the_first_few_hundred() -> None:
    flat = filters.top_p(of_logits(*[0.0] * 1000), 0.6)
    assert len(flat.ids) == 600


@pytest.mark.parametrize(("p", "kept"), [(0.0, 4), (0.2, 4), (0.3, 3), (0.6, 2), (1.0, 1)])
def test_min_p(p: float, kept: int) -> None:
    # 0.1 / 0.4 = 0.25, 0.2 / 0.4 = 0.5, 0.3 / 0.4 = 0.75
    assert len(filters.min_p(of_probs(*PROBS), p).ids) == kept


def test_typical_starts_with_what_surprises_as_expected() -> None:
    # entropy of PROBS = 1.280; surprises 2.303 0.916 1.609 1.204: order 3 (0.08), 2 (0.33), 1, 0
    assert ids(filters.typical(of_probs(*PROBS), 0.29)) == [3]
    assert ids(filters.typical(of_probs(*PROBS), 0.31)) == [3, 2]
    assert ids(filters.typical(of_probs(*PROBS), 0.51)) == [1, 3, 2]


def test_top_n_sigma() -> None:
    # mean 2, deviation sqrt(2) = 1.414: from 4 - 1.414 = 2.586 on
    assert ids(filters.top_n_sigma(of_logits(0, 1, 2, 3, 4), 1.0)) == [3, 4]
    assert ids(filters.top_n_sigma(of_logits(0, 1, 2, 3, 4), 2.0)) == [2, 3, 4]
    assert ids(filters.top_n_sigma(of_logits(-math.inf, 1, 1), 1.0)) == [1, 2]


def test_xtc_drops_all_but_the_least_of_the_top_choices() -> None:
    assert ids(filters.xtc(of_probs(*PROBS), 0.15)) == [2, 0]
    assert ids(filters.xtc(of_probs(*PROBS), 0.35)) == [1, 3, 2, 0]  # a single top choice stays
    assert ids(filters.xtc(of_probs(*PROBS), 0.5)) == [1, 3, 2, 0]


def test_penalties_divide_positive_and_multiply_negative_logits() -> None:
    c = filters.penalties(of_logits(2, -2, 2, 2), [0, 1, 1, 3, 99, -5], 2.0, 0.25, 0.5)
    # 0: 2/2 - 0.25 - 0.5; 1: -2*2 - 2*0.25 - 0.5; 2 was not there; 3 as 0
    assert c.logits.tolist() == [0.25, -5.0, 2.0, 0.25]


def test_penalties_after_a_cut_find_the_tokens_that_are_left() -> None:
    cut = filters.top_k(of_logits(1, 4, 2, 3), 2)
    c = filters.penalties(cut, [1, 0], 1.0, 0.0, 5.0)
    assert dict(zip(ids(c), c.logits.tolist(), strict=True)) == {1: -1.0, 3: 3.0}
    assert ids(filters.top_k(c, 1)) == [3]


def test_temperature_divides_and_at_zero_leaves_the_first_best() -> None:
    assert filters.temperature(of_logits(1, 2), 0.5).logits.tolist() == [2, 4]
    assert ids(filters.temperature(of_logits(1, 5, 5), 0)) == [1]


def test_dynamic_temperature_lies_between_its_ends() -> None:
    flat = filters.dynamic_temperature(of_logits(0, 0), 1.0, 0.5, 1.0)  # entropy at its largest
    assert flat.logits.tolist() == [0, 0]
    sure = filters.dynamic_temperature(of_logits(0, 50), 1.0, 0.5, 1.0)  # entropy about none
    assert sure.logits.tolist() == pytest.approx([0, 100])
    # probs 0.25, 0.75: entropy 0.5623, over log 2 = 0.8113, squared 0.6582: 0.5 + 0.6582 = 1.1582
    middle = filters.dynamic_temperature(of_probs(0.25, 0.75), 1.0, 0.5, 2.0)
    expected = [math.log(0.25) / 1.1582, math.log(0.75) / 1.1582]
    assert middle.logits.tolist() == pytest.approx(expected, rel=1e-4)


def test_dynamic_temperature_leaves_a_single_candidate() -> None:
    assert filters.dynamic_temperature(of_logits(3), 1.0, 0.5, 1.0).logits.tolist() == [3]


def test_log_softmax_of_large_logits_does_not_overflow() -> None:
    logprobs = filters.log_softmax(np.array([1000, 1000, -1000], dtype=np.float32))
    assert logprobs.tolist() == pytest.approx([-math.log(2), -math.log(2), -2000 - math.log(2)])


FEW = settings(deadline=None, max_examples=25)
LOGITS = st.builds(
    lambda seed, n, spread: (np.random.default_rng(seed).standard_normal(n) * spread).round(1)
    .astype(np.float32),
    st.integers(0, 999), st.integers(1, 700), st.floats(0, 6),
)  # fmt: skip
"""Rounded, so that equal logits are common."""
STEPS = {
    "top_k": lambda c: filters.top_k(c, 7),
    "top_p": lambda c: filters.top_p(c, 0.8),
    "min_p": lambda c: filters.min_p(c, 0.1),
    "typical": lambda c: filters.typical(c, 0.7),
    "top_n_sigma": lambda c: filters.top_n_sigma(c, 1.0),
    "xtc": lambda c: filters.xtc(c, 0.1),
    "temperature": lambda c: filters.temperature(c, 0.7),
    "dynamic": lambda c: filters.dynamic_temperature(c, 0.7, 0.5, 1.0),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@FEW
@given(logits=LOGITS)
def test_every_step_leaves_distinct_known_tokens_whose_probabilities_sum_to_one(
    step, logits: np.ndarray
) -> None:
    before = Candidates(np.arange(len(logits)), logits)
    after = step(before)
    kept = ids(after)
    assert len(kept) == len(set(kept)) > 0 and set(kept) <= set(range(len(logits)))
    assert after.probs().sum() == pytest.approx(1)
    falls = np.all(np.diff(after.logits) <= 0)
    assert falls if after.is_sorted else kept == sorted(kept)


@FEW
@given(logits=LOGITS, k=st.integers(1, 40))
def test_top_k_is_the_head_of_a_full_sort(logits: np.ndarray, k: int) -> None:
    full = np.lexsort((np.arange(len(logits)), -logits))[:k]
    assert ids(filters.top_k(of_logits(*logits), k)) == full.tolist()


@FEW
@given(logits=LOGITS, p=st.floats(0, 1), q=st.floats(0, 1))
def test_a_larger_p_keeps_at_least_as_many(logits: np.ndarray, p: float, q: float) -> None:
    low, high = sorted((p, q))
    c = of_logits(*logits)
    assert set(ids(filters.top_p(c, low))) <= set(ids(filters.top_p(c, high)))
    assert set(ids(filters.min_p(c, high))) <= set(ids(filters.min_p(c, low)))


@FEW
@given(logits=LOGITS, p=st.floats(0, 1))
def test_min_p_and_top_p_keep_the_likeliest(logits: np.ndarray, p: float) -> None:
    best = int(logits.argmax())
    assert best in ids(filters.min_p(of_logits(*logits), p))
    assert best in ids(filters.top_p(of_logits(*logits), p))
