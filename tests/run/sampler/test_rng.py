"""The random numbers of C++."""

from __future__ import annotations

import pytest

from gguf_hub.run.sampler.rng import MersenneTwister


def test_the_ten_thousandth_number_is_the_one_that_the_cpp_standard_states() -> None:
    rng = MersenneTwister(5489)  # [rand.predef]: default seed, 10000th invocation
    assert [rng.bits() for _ in range(10_000)][-1] == 4_123_659_995


@pytest.mark.parametrize(
    ("seed", "doubles", "singles"),
    [  # printed by a program compiled with g++ 12
        (0, [0.59284461651668263, 0.84426574425659828], [0.548813522, 0.592844605]),
        (42, [0.79654298428784598, 0.18343478789336848], [0.37454012, 0.796543002]),
        (2**32 - 2, [0.10184899170898529, 0.94789751258733013], [0.520666957, 0.10184899]),
    ],
)
def test_uniform_draws_are_those_of_libstdcxx(
    seed: int, doubles: list[float], singles: list[float]
) -> None:
    double, single = MersenneTwister(seed), MersenneTwister(seed)
    assert [double.uniform() for _ in doubles] == doubles
    assert [single.uniform_single() for _ in singles] == pytest.approx(singles, abs=1e-9)


def test_without_a_seed_the_system_gives_one() -> None:
    assert len({MersenneTwister(-1).seed for _ in range(4)}) > 1
