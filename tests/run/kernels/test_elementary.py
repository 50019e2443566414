"""Elementary functions against numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_hub.run.kernels.generic.elementary import exp32, gelu32, sigmoid32, tanh32
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


TINY = [0.0, 1e-45, 1e-38, 1e-20, 1e-8, 1e-4, 0.6249999, 0.625]
POSITIVE = np.concatenate((TINY, np.geomspace(1e-6, 20, 801))).astype(np.float32)
BOTH = np.concatenate((-POSITIVE[::-1], POSITIVE))


def ulps(found: list[np.float32], expected: np.ndarray) -> np.ndarray:
    """Errors in units of the last place."""
    return np.abs(np.array(found, np.float64) - expected) / np.spacing(
        np.abs(expected).astype(np.float32)
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of NaN and numbers that overflow
def test_tanh_is_accurate_near_zero_and_far_from_it(mode: str) -> None:
    tanh = in_mode(tanh32, mode)
    assert ulps([tanh(x) for x in BOTH], np.tanh(BOTH.astype(float))).max() <= 3
    for x in (20, 100, 3e38, np.inf):
        assert tanh(np.float32(x)) == 1 and tanh(np.float32(-x)) == -1
    assert np.isnan(tanh(np.float32(np.nan)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of NaN and numbers that overflow
def test_sigmoid_is_accurate_and_never_overflows(mode: str) -> None:
    sigmoid = in_mode(sigmoid32, mode)
    x = np.concatenate((BOTH, np.linspace(-87, 40, 400))).astype(np.float32)
    assert ulps([sigmoid(value) for value in x], 1 / (1 + np.exp(-x.astype(float)))).max() <= 4
    for value in (100, 3e38, np.inf):
        assert sigmoid(np.float32(value)) == 1 and sigmoid(np.float32(-value)) == 0
    assert np.isnan(sigmoid(np.float32(np.nan)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of NaN and numbers that overflow
def test_gelu_is_the_tanh_form(mode: str) -> None:
    gelu = in_mode(gelu32, mode)
    x = BOTH.astype(float)
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    expected = x / (1 + np.exp(np.minimum(-2 * u, 700)))  # x (1 + tanh(u)) / 2, without cancelling
    # an error of the exponent is one of the result, relative to it: up to 88 * 2**-24 * 2
    np.testing.assert_allclose([gelu(v) for v in BOTH], expected, rtol=2e-5, atol=1e-37)
    near = np.abs(x) < 3
    plain = 0.5 * x * (1 + np.tanh(u))
    np.testing.assert_allclose([gelu(v) for v in BOTH[near]], plain[near], rtol=2e-6, atol=1e-12)
    for value in (15, 1e10, 3e38):
        assert gelu(np.float32(value)) == np.float32(value)
        assert gelu(np.float32(-value)) == 0
    assert np.isnan(gelu(np.float32(np.nan)))
