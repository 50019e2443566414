"""e**x against numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_hub.run.kernels.generic.elementary import exp32
from tests.run.kernels.modes import MODES, in_mode


@pytest.mark.parametrize("mode", MODES)
def test_exp_is_within_two_units_in_the_last_place(mode: str) -> None:
    exp = in_mode(exp32, mode)
    x = np.linspace(-87.2, 88.6, 3001).astype(np.float32)
    found = np.array([exp(value) for value in x], np.float32)
    expected = np.exp(x.astype(np.float64))
    assert (np.abs(found - expected) <= 2 * np.spacing(expected.astype(np.float32))).all()


@pytest.mark.parametrize("mode", MODES)
def test_exp_of_zero_is_one_and_far_below_it_is_next_to_nothing(mode: str) -> None:
    exp = in_mode(exp32, mode)
    assert exp(np.float32(0)) == 1
    assert 0 <= exp(np.float32(-1e30)) < 1e-37
    assert exp(np.float32(-np.inf)) < 1e-37
