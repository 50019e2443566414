"""The knapsack against all choices there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gguf_hub.run.allocation.knapsack import Option, allocate, hull, smallest


def random_units(seed: int, n_units: int = 4, n_options: int = 5) -> list[list[Option]]:
    """Units whose losses fall about as fast as those of types do, with some noise."""
    rng = np.random.default_rng(seed)
    units = []
    for _ in range(n_units):
        sizes = rng.integers(10, 90, n_options)
        weight = 10 ** rng.uniform(-2, 1)
        losses = weight * np.exp(-sizes / 12 + rng.normal(0, 0.4, n_options))
        units.append([Option(int(a), float(b)) for a, b in zip(sizes, losses, strict=True)])
    return units


def totals(units: list[list[Option]], chosen: tuple[int, ...] | list[int]) -> tuple[int, float]:
    options = [unit[i] for unit, i in zip(units, chosen, strict=True)]
    return sum(o.size_bytes for o in options), sum(o.loss for o in options)


def best_loss(units: list[list[Option]], room_bytes: int) -> float:
    every = itertools.product(*(range(len(unit)) for unit in units))
    sums = (totals(units, chosen) for chosen in every)
    return min(loss for size_bytes, loss in sums if size_bytes <= room_bytes)


@pytest.mark.parametrize("seed", range(40))
def test_it_fits_and_is_no_further_from_the_best_than_one_step(seed: int) -> None:
    units = random_units(seed)
    least = sum(unit[smallest(unit)].size_bytes for unit in units)
    most = sum(max(o.size_bytes for o in unit) for unit in units)
    gaps = []
    for room_bytes in np.linspace(least, most, 9).astype(int):
        size_bytes, loss = totals(units, allocate(units, int(room_bytes)))
        assert size_bytes <= room_bytes
        steps = [
            unit[a].loss - unit[b].loss for unit in units for a, b in itertools.pairwise(hull(unit))
        ]
        best = best_loss(units, int(room_bytes))
        assert best <= loss + 1e-12
        assert loss - best <= max(steps) + 1e-12  # the bound of the multiplier
        gaps.append(loss / best)
    assert np.median(gaps) < 1.1


def test_choices_of_the_multiplier_are_the_best_of_their_size() -> None:
    units = random_units(7)
    edges = sorted(
        {
            (unit[a].loss - unit[b].loss) / (unit[b].size_bytes - unit[a].size_bytes)
            for unit in units
            for a, b in itertools.pairwise(hull(unit))
        }
    )
    for multiplier in edges:
        m = multiplier * (1 + 1e-9)
        chosen = [
            min(range(len(unit)), key=lambda i: unit[i].loss + m * unit[i].size_bytes)
            for unit in units
        ]
        size_bytes, loss = totals(units, chosen)
        assert loss == pytest.approx(best_loss(units, size_bytes))
        assert totals(units, allocate(units, size_bytes))[1] == pytest.approx(loss)


def test_more_room_never_loses_more() -> None:
    units = random_units(3, n_units=12, n_options=9)
    least = sum(unit[smallest(unit)].size_bytes for unit in units)
    losses = [totals(units, allocate(units, room))[1] for room in range(least, least + 600, 37)]
    assert losses[-1] < losses[0]
    assert all(b <= a * 1.05 for a, b in itertools.pairwise(losses))


def test_what_no_byte_buys_is_left_out_of_the_hull() -> None:
    options = [Option(10, 5.0), Option(20, 5.0), Option(20, 3.0), Option(15, 9.0), Option(40, 1.0)]
    assert hull(options) == [0, 2, 4]
    assert hull([Option(10, 5.0), Option(20, 4.9), Option(30, 1.0)]) == [0, 2]
    assert smallest([Option(10, 2.0), Option(10, 1.0)]) == 1


def test_units_without_a_choice_keep_what_they_have() -> None:
    units = [[Option(50, 0.0)], [Option(10, 2.0), Option(20, 1.0)]]
    assert allocate(units, 60) == [0, 0]
    assert allocate(units, 75) == [0, 1]
