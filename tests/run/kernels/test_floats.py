"""Half and bfloat16 conversions against numpy, over all their values."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_hub.run.kernels.generic import floats
from tests.run.kernels.modes import MODES, in_mode

ALL_BITS = np.arange(65536, dtype=np.uint16)
SPECIAL = np.array(
    [
        0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan,
        65504, 65519.996, 65520, -65520, 1e6, 3.4e38,  # the largest half, and where infinity starts
        6.1035156e-05, 6.097555e-05, 5.960464e-08, 2.9802322e-08, 2.980233e-08, 1e-45,
        1.00048828125, 1.00146484375,  # halfway between two halves: to the even one
    ],
    np.float32,
)  # fmt: skip


def sample(mode: str, values: np.ndarray) -> np.ndarray:
    """All values where they are cheap, every 31st (and both ends) where they are not."""
    return values if mode == "compiled" else np.unique(np.append(values[::31], values[-1]))


def each(function, values: np.ndarray, dtype) -> np.ndarray:
    return np.array([function(value) for value in values], dtype)


def random_floats(n: int) -> np.ndarray:
    """Any bit pattern, values near the range of halves, and ties between bfloat16."""
    rng = np.random.default_rng(5)
    patterns = rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
    near = (rng.standard_normal(n) * 2.0 ** rng.integers(-30, 17, n)).astype(np.float32)
    ties = (patterns.view(np.uint32) & 0xFFFF0000 | 0x8000).view(np.float32)[: n // 10]
    return np.concatenate([SPECIAL, patterns, near, ties])


def bfloat_oracle(values: np.ndarray) -> np.ndarray:
    """The nearer of the two bfloat16 around each finite float32, found by distance in float64."""
    below = values.view(np.uint32) >> 16
    magnitude = np.abs(values.astype(np.float64))
    down = np.abs((below << 16).view(np.float32).astype(np.float64))
    # the distance from one bfloat16 to the next: 8 significant bits, subnormal under 2**-126
    step = 2.0 ** (np.maximum(np.frexp(magnitude)[1], -125) - 8)
    to_down, to_up = magnitude - down, down + step - magnitude
    is_up = (to_up < to_down) | ((to_up == to_down) & (below % 2 == 1))
    return (below + is_up).astype(np.uint16)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_half_has_its_value(mode: str) -> None:
    bits = sample(mode, ALL_BITS)
    got = each(in_mode(floats.half_value, mode), bits, np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaN, which ARM tells of
        want = bits.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), bits >> 15 == 1)


@pytest.mark.parametrize("mode", MODES)
def test_every_half_survives_the_way_to_float_and_back(mode: str) -> None:
    bits = sample(mode, ALL_BITS)
    bits = bits[np.isfinite(bits.view(np.float16))]
    got = each(in_mode(floats.half_bits, mode), bits.view(np.float16).astype(np.float32), np.uint16)
    np.testing.assert_array_equal(got, bits)


@pytest.mark.parametrize("mode", MODES)
def test_floats_round_to_the_nearest_half_ties_to_even(mode: str) -> None:
    values = random_floats(50_000 if mode == "compiled" else 1_000)
    with np.errstate(over="ignore", invalid="ignore"):
        want = values.astype(np.float16)
    got = each(in_mode(floats.half_bits, mode), values, np.uint16).view(np.float16)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(values))
    real = ~np.isnan(values)
    np.testing.assert_array_equal(got[real].view(np.uint16), want[real].view(np.uint16))


@pytest.mark.parametrize("mode", MODES)
def test_every_bfloat_has_its_value(mode: str) -> None:
    bits = sample(mode, ALL_BITS)
    got = each(in_mode(floats.bfloat_value, mode), bits, np.float32)
    want = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), bits >> 15 == 1)


@pytest.mark.parametrize("mode", MODES)
def test_floats_round_to_the_nearest_bfloat_ties_to_even(mode: str) -> None:
    values = random_floats(50_000 if mode == "compiled" else 1_000)
    got = each(in_mode(floats.bfloat_bits, mode), values, np.uint16)
    is_nan = np.isnan(values)
    assert np.isnan((got[is_nan].astype(np.uint32) << 16).view(np.float32)).all()
    real = np.isfinite(values)
    np.testing.assert_array_equal(got[real], bfloat_oracle(values[real]))
    infinite = np.isinf(values)
    np.testing.assert_array_equal(got[infinite], values[infinite].view(np.uint32) >> 16)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_numbers_are_read_little_endian_at_any_byte(mode: str) -> None:
    w = np.frombuffer(b"\xff" + np.float32(-1.5e-3).tobytes() + b"\x00\x3c\x80\xc1", np.uint8)
    assert in_mode(floats.float_at, mode)(w, 1) == np.float32(-1.5e-3)
    assert in_mode(floats.half_at, mode)(w, 5) == 1.0
    assert in_mode(floats.bfloat_at, mode)(w, 7) == -16.0
    assert in_mode(floats.at, mode)(w, 7) == 128
    assert in_mode(floats.signed_at, mode)(w, 7) == -128
    assert in_mode(floats.word_at, mode)(w, 5) == 0xC1803C00 - 2**32
