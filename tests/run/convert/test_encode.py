"""Floats to bytes: rounding, limits, and the published blocks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.convert.encode import NotEncodableError, decode, encode
from tests.naive import dequantize

T = QuantType
FINITE = st.floats(-60000, 60000, width=32)


def floats(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def bf16_bits(*values: float) -> list[str]:
    return [f"{bits:04x}" for bits in encode(floats(*values), T.BF16).view(np.uint16)]


@pytest.mark.parametrize("type", [T.F16, T.BF16], ids=lambda t: t.name)
@given(values=st.lists(FINITE, min_size=1, max_size=8))
def test_halves_are_the_nearest_of_their_type(type: QuantType, values: list[float]) -> None:
    exact = floats(*values)
    found = dequantize(type, encode(exact, type))
    # whatever neighbour is taken instead, it is not nearer
    raw = encode(exact, type).view(np.uint16)
    for step in (1, -1):
        other = dequantize(type, (raw + np.uint16(step & 0xFFFF)).view(np.uint8))
        is_neighbour = np.isfinite(other) & (np.sign(other) == np.sign(found))
        nearer = np.abs(other.astype(np.float64) - exact[0]) < np.abs(
            found.astype(np.float64) - exact[0]
        )
        assert not (nearer & is_neighbour).any()


def test_bfloat16_ties_go_to_even() -> None:
    # 1 + 2^-8 lies between 1 (3f80) and 1 + 2^-7 (3f81); 1 + 3 * 2^-8 between 3f81 and 3f82
    assert bf16_bits(1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20) == ["3f80", "3f82", "3f81"]


def test_stored_bfloat16_survives() -> None:
    bits = np.arange(0, 0x7F80, 7, dtype=np.uint16)[None]
    np.testing.assert_array_equal(encode(decode(bits, "BF16"), T.BF16).view(np.uint16), bits[0])


@pytest.mark.parametrize("type", [T.F16, T.BF16, T.Q8_0], ids=lambda t: t.name)
def test_real_weights_become_the_bytes_that_ggml_makes(type: QuantType, data: Path) -> None:
    folder = data / "quants"
    cases = json.loads((folder / "quant_vectors.json").read_text())["vectors"]
    inputs = [case for case in cases if case["type"] == type.name and case.get("input")]
    assert inputs
    for case in inputs:
        weights = np.fromfile(folder / case["input"], np.float32).reshape(-1, 32)
        expected = np.fromfile(folder / case["blocks"], np.uint8)
        np.testing.assert_array_equal(encode(weights, type), expected)


@given(values=st.lists(FINITE, min_size=32, max_size=32))
def test_q8_0_is_within_half_a_step(values: list[float]) -> None:
    exact = floats(*values)
    largest = float(np.abs(exact).max())
    found = dequantize(T.Q8_0, encode(exact, T.Q8_0))
    # half a step, and what rounding the scale to half precision moves 127 steps
    allowed = largest / 254 + largest * 2**-11 + 127 * 2**-25
    assert np.abs(found - exact[0]).max() <= allowed


def test_q8_0_rounds_halves_away_from_zero() -> None:
    # a largest weight of 127 makes the step 1
    below = np.nextafter(np.float32(0.5), np.float32(0))
    weights = np.zeros((1, 32), np.float32)
    weights[0, :8] = [127, 0.5, -0.5, below, 1.5, -2.5, 126.5, -below]
    found = encode(weights, T.Q8_0)[2:10].view(np.int8).tolist()
    assert found == [127, 1, -1, 0, 2, -3, 127, 0]
    # every float32 next to a half, on both sides
    halves = np.arange(0.5, 127, dtype=np.float32)
    for near in (
        np.nextafter(halves, np.float32(0)),
        halves,
        np.nextafter(halves, np.float32(200)),
    ):
        rows = np.concatenate([near, np.zeros(-len(near) % 31, np.float32)]).reshape(-1, 31)
        rows = np.hstack([np.full((len(rows), 1), 127, np.float32), rows])
        blocks = encode(rows, T.Q8_0).reshape(-1, 34)
        expected = np.floor(np.abs(rows.astype(np.float64)) + 0.5)
        np.testing.assert_array_equal(blocks[:, 2:].view(np.int8), expected)


def test_a_block_of_zeros_stays_zero() -> None:
    assert not encode(np.zeros((2, 32), np.float32), T.Q8_0).any()
    tiny = np.full((1, 32), 1e-44, np.float32)  # no finite inverse
    assert not dequantize(T.Q8_0, encode(tiny, T.Q8_0)).any()


@pytest.mark.parametrize("type", [T.F32, T.F16, T.BF16, T.Q8_0], ids=lambda t: t.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found(type: QuantType, value: float) -> None:
    weights = np.ones((3, 32), np.float32)
    weights[1, 5] = weights[2, 0] = value
    with pytest.raises(NotEncodableError, match="NaN" if np.isnan(value) else "infinite") as found:
        encode(weights, type)
    assert found.value.index == 37


@pytest.mark.parametrize(
    ("type", "value"), [(T.F16, 65520.0), (T.BF16, 3.4e38), (T.Q8_0, 8.33e6)], ids=str
)
def test_what_is_too_large_is_found(type: QuantType, value: float) -> None:
    weights = np.ones((1, 32), np.float32)
    weights[0, 7] = value
    with pytest.raises(NotEncodableError, match=f"too large for {type.name}"):
        encode(weights, type)
    weights[0, 7] = (
        np.nextafter(np.float32(value), np.float32(0)) if type is T.F16 else value / 1.01
    )
    encode(weights, type)
