"""Lengths of drafts by simulated times: they gain where drafts pay, and hardly lose elsewhere."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from gguf_hub.run.generation.draft_length import DraftLength

Rate = Callable[[int], float]


def speed(
    rate: Rate, added: float, each: float, *, n_tokens: int = 2000, noise: float = 0.0,
    n_texts: int = 1, length: DraftLength | None = None,
) -> float:  # fmt: skip
    """Return how much faster texts are generated than without drafts.

    Args:
        rate: Tokens so far -> how likely the next drafted token is accepted.
        added: What a drafted token adds to the time of a pass, a pass without any taking 1.
        each: Time of drafting a token.
        n_tokens: Of the texts.
        noise: By how much times vary.
        n_texts: Texts that share the passes.
        length: What chooses.
    """
    draw, time_s, n = random.Random(3), 0.0, 0
    length = length or DraftLength(16)
    while n < n_tokens:
        k = length.choose(16)
        factor = 1 + noise * draw.random()
        pass_s, draft_s = (1 + added * k) * factor, each * k * factor
        length.record(k * n_texts, pass_s, draft_s, n_texts)
        accepted = sum(run(draw, rate(n), k) for _ in range(n_texts))
        length.accept(accepted)
        time_s += pass_s + draft_s
        n += 1 + accepted / n_texts  # type: ignore[assignment]
    return n / time_s * (1 + noise / 2)


def run(draw: random.Random, rate: float, k: int) -> int:
    """Return how many of ``k`` drafted tokens are accepted."""
    return next((i for i in range(k) if draw.random() >= rate), k)


@pytest.mark.parametrize("n_texts", [1, 4])
@pytest.mark.parametrize("added", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.6, 0.9])
def test_nothing_is_lost_where_drafts_do_not_pay(rate: float, added: float, n_texts: int) -> None:
    assert speed(lambda n: rate, added, 0.1, n_texts=n_texts, noise=0.2) >= 0.95


def test_nothing_is_lost_where_drafts_pay_now_and_then() -> None:
    assert speed(lambda n: 0.95 if n % 400 < 60 else 0.05, 0.3, 0.1) >= 0.97


@pytest.mark.parametrize(
    ("rate", "added", "each", "expected"), [(0.95, 0.05, 0.0, 4.0), (0.8, 0.1, 0.05, 1.8)]
)
def test_drafts_that_pay_are_as_long_as_pays(
    rate: float, added: float, each: float, expected: float
) -> None:
    assert speed(lambda n: rate, added, each) >= expected


def test_drafts_come_back_when_they_pay_again() -> None:
    assert speed(lambda n: 0.0 if n < 500 else 0.95, 0.1, 0.0) > 2


def test_a_fixed_length_is_kept() -> None:
    length = DraftLength(4, 4)
    assert speed(lambda n: 0.0, 1.0, 0.0, length=length) == pytest.approx(1 / 5)
    assert [length.choose(n) for n in (9, 4, 2, 0)] == [4, 4, 2, 0]


def test_a_minimum_is_a_minimum() -> None:
    length = DraftLength(16, 3)
    chosen = set()
    for _ in range(200):
        chosen.add(n := length.choose(16))
        length.record(n, 1 + 0.01 * n, 0.0)
        length.accept(n)
    assert chosen - {0} and min(chosen - {0}) >= 3
