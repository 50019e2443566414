"""The random numbers of C++."""

from __future__ import annotations

import pytest

from gguf_hub.sampler.rng import MersenneTwister


def test_the_ten_thousandth_number_is_the_one_that_the_cpp_standard_states() -> None:
    rng = MersenneTwister(5489)  # [rand.predef]: default seed, 10000th invocation
    assert [rng.bits() for _ in range(10_000)][-1] == 4_123_659_995


def test_uniform_takes_two_words_low_one_first_and_single_takes_one() -> None:
    words, double, single = MersenneTwister(7), MersenneTwister(7), MersenneTwister(7)
    low, high = words.bits(), words.bits()
    assert double.uniform() == pytest.approx((low + high * 2**32) / 2**64, abs=0)
    assert single.uniform_single() == low / 2**32


def test_without_a_seed_the_system_gives_one() -> None:
    assert len({MersenneTwister(-1).seed for _ in range(4)}) > 1
