"""The generic kernels against the oracle, on real blocks, random bits and edge blocks."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.gguf.memory.activations import (
    ACTIVATION_OF,
    activation_bytes,
    activation_floats,
)
from gguf_hub.gguf.types import RUNNABLE_TYPES, QuantType
from gguf_hub.run.kernels.generic import generic
from tests import naive
from tests.run.kernels.modes import MODES, in_mode
from tests.synth import store_other_factors

TYPES = sorted(RUNNABLE_TYPES)
PACKED = [t for t in TYPES if t.block_size > 1]
KINDS = ("q8_0", "q8_k")
EPSILON = 2.0**-24
"""Largest relative error of one rounding to float32."""

each_type = pytest.mark.parametrize("type", TYPES, ids=lambda t: t.name)
each_packed_type = pytest.mark.parametrize("type", PACKED, ids=lambda t: t.name)
each_mode = pytest.mark.parametrize("mode", MODES)
CODED = [t for t in TYPES if t.name in generic.CODED_TYPES]
COMPILED = [
    t for t in TYPES
    if t not in CODED or t in (QuantType.IQ2_XS, QuantType.IQ4_XS, QuantType.NVFP4)
]  # fmt: skip
"""Types whose dot products are compiled; of codes, one for each way that they are multiplied."""


def each_dot_of(types: list[QuantType]) -> pytest.MarkDecorator:
    pairs = [(t, mode) for t in types for mode in MODES if mode == "plain" or t in COMPILED]
    names = [f"{t.name}-{mode}" for t, mode in pairs]
    return pytest.mark.parametrize(("type", "mode"), pairs, ids=names)


each_dot, each_packed_dot = each_dot_of(TYPES), each_dot_of(PACKED)
each_kind = pytest.mark.parametrize("kind", KINDS)

# NaN and infinite scales are meant in some tests; numpy's scalars warn of them, compiled code not
pytestmark = pytest.mark.filterwarnings(
    "ignore:(invalid value|overflow) encountered:RuntimeWarning"
)


# -- rows to test with ---------------------------------------------------------------------------


def scale_offsets(type: QuantType) -> list[int]:
    """Byte offsets of the halves in a block."""
    dtype = np.dtype(naive.STRUCTS[type])
    return [dtype.fields[name][1] for name in ("d", "m", "dmin") if name in dtype.names]


def random_row(type: QuantType, n: int, seed: int = 0) -> np.ndarray:
    """A row of random bits, with scales (or, where there are none, weights) of sane size."""
    rng = np.random.default_rng(seed)
    row = rng.integers(0, 256, type.row_bytes(n), dtype=np.uint8)
    if type == QuantType.F32:
        return rng.standard_normal(n).astype("<f4").view(np.uint8)
    blocks = row.reshape(-1, type.type_size)
    offsets = scale_offsets(type) if type in PACKED else [0]
    for at in offsets:
        blocks[:, at + 1] &= 0xBF  # clear the top bit of the exponent: magnitude below 2
    store_other_factors(type, blocks, -1)
    return row


def row_length(type: QuantType, blocks: int) -> int:
    return blocks * type.block_size if type in PACKED else 8 * blocks + 3


def dequantized(type: QuantType, row: np.ndarray, n: int, mode: str) -> np.ndarray:
    """The weights of a row that lies at an odd offset; nothing else may be written."""
    w = np.concatenate([np.full(3, 0xAB, np.uint8), row])
    y = np.full(n + 10, -7, np.float32)
    in_mode(generic.DEQUANTIZE[type.name], mode)(w, 3, y, 5, n)
    assert (y[:5] == -7).all()
    assert (y[5 + n :] == -7).all()
    return y[5 : 5 + n]


def dotted(type: QuantType, row: np.ndarray, q: np.ndarray, f: np.ndarray, n: int, mode: str):
    """The dot product of a row with activations, all of them at odd offsets."""
    w = np.concatenate([np.full(5, 0xAB, np.uint8), row])
    q = np.concatenate([np.full(2, 99, np.int8), q])
    f = np.concatenate([np.full(1, 99, np.float32), f])
    function = in_mode(generic.DOT[type.name], mode)
    result = function(w, 5, q, 2, f, 1, n)
    assert mode == "compiled" or isinstance(result, np.float32)
    return np.float32(result)


def quantized(kind: str, x: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """An activation row, from and to odd offsets; nothing else may be written."""
    n = len(x)
    n_floats, n_bytes = activation_floats(kind, n), activation_bytes(kind, n)
    q, f = np.full(n_bytes + 4, 99, np.int8), np.full(n_floats + 6, 99, np.float32)
    source = np.concatenate([np.full(3, 1e9, np.float32), x])
    in_mode(getattr(generic, f"quantize_row_{kind}"), mode)(source, 3, q, 1, f, 2, n)
    assert (q[:1] == 99).all() and (q[1 + n_bytes :] == 99).all()
    assert (f[:2] == 99).all() and (f[2 + n_floats :] == 99).all()
    return q[1 : 1 + n_bytes], f[2 : 2 + n_floats]


def vectors(data: Path, type: QuantType) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, bytes and weights of the published vectors of a type."""
    if type.name in generic.CODED_TYPES:
        return coded_vectors(data, type)
    folder = data / "quants"
    listed = json.loads((folder / "quant_vectors.json").read_text())["vectors"]
    return [
        (v["source"], np.fromfile(folder / v["blocks"], np.uint8),
         np.fromfile(folder / v["dequantized"], np.float32))
        for v in listed if v["type"] == type.name
    ]  # fmt: skip


def coded_vectors(data: Path, type: QuantType) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The same where only the digest of ggml's weights is kept: the oracle's must have it."""
    listed = json.loads((data / "codes" / "block_vectors.json").read_text())
    found = []
    for vector in (v for v in listed if v["type"] == type.name):
        blocks = np.frombuffer(base64.b64decode(vector["blocks"]), np.uint8)
        weights = naive.dequantize(type, blocks)
        assert hashlib.sha256(weights.tobytes()).hexdigest() == vector["sha256"], vector["source"]
        found.append((vector["source"], blocks, weights))
    assert len(found) == 2
    return found


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    """Equal to the last bit, the sign of zero too; any NaN equals any other."""
    is_nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), is_nan)
    np.testing.assert_array_equal(got[~is_nan].view(np.uint32), want[~is_nan].view(np.uint32))


# -- weights ---------------------------------------------------------------------------------------


@each_type
def test_oracle_equals_ggml_on_every_vector(type: QuantType, data: Path) -> None:
    for _, blocks, weights in vectors(data, type):
        assert_same_bits(naive.dequantize(type, blocks), weights)


@each_mode
@each_type
def test_weights_equal_ggml_on_every_vector(type: QuantType, mode: str, data: Path) -> None:
    for _, blocks, weights in vectors(data, type):
        n = len(weights) if mode == "compiled" else 2 * 256
        got = dequantized(type, blocks[-type.row_bytes(n) :], n, mode)
        assert_same_bits(got, weights[-n:])


@each_mode
@each_type
@pytest.mark.parametrize("blocks", [1, 3])
def test_weights_equal_the_oracle_on_random_bits(type: QuantType, blocks: int, mode: str) -> None:
    n = row_length(type, blocks)
    row = random_row(type, n, seed=blocks)
    assert_same_bits(dequantized(type, row, n, mode), naive.dequantize(type, row))


@each_mode
@each_type
@pytest.mark.parametrize(
    ("filling", "half"),
    [
        (0x00, 0x0000), (0xFF, 0x7BFF), (0xFF, 0xFBFF), (0x80, 0x8000), (0x7F, 0x0001),
        (0x55, 0x7C00), (0xAA, 0xFC00), (0xFF, 0x7E00), (0xFF, 0x7C01),
    ],
    ids=["zeros", "largest", "lowest", "minus-zero", "subnormal", "inf", "-inf", "nan", "snan"],
)  # fmt: skip
def test_weights_of_edge_blocks_equal_the_oracle(
    type: QuantType, filling: int, half: int, mode: str
) -> None:
    n = row_length(type, 1)
    row = np.full(type.row_bytes(n), filling, np.uint8)
    for at in scale_offsets(type) if type in PACKED else []:
        row.reshape(-1, type.type_size)[:, at : at + 2] = half & 0xFF, half >> 8
    assert_same_bits(dequantized(type, row, n, mode), naive.dequantize(type, row))


# -- activations -----------------------------------------------------------------------------------


@pytest.mark.slow
@each_mode
@each_kind
def test_activations_equal_the_oracle(kind: str, mode: str) -> None:
    rng = np.random.default_rng(11)
    x = (rng.standard_normal(3 * 256) * 2.0 ** rng.integers(-20, 20, 3 * 256)).astype(np.float32)
    q, f = quantized(kind, x, mode)
    want_q, want_f = naive.activations(kind, x)
    np.testing.assert_array_equal(q, want_q)
    assert_same_bits(f, want_f)


@each_mode
@each_kind
def test_steps_round_half_away_from_zero(kind: str, mode: str) -> None:
    x = np.zeros(256, np.float32)
    # the block's scale is 127 / 127 = 1 (for q8_0, that of the first 32)
    below_half = np.nextafter(np.float32(0.5), np.float32(0))
    x[:9] = 127, 0.5, -0.5, 1.5, -2.5, 126.5, below_half, -below_half, 0.25
    q, _ = quantized(kind, x, mode)
    assert q[:9].tolist() == [127, 1, -1, 2, -3, 127, 0, 0, 0]


@each_mode
@each_kind
@pytest.mark.parametrize("size", [0.0, 1e-45, 3e-44, 2.66e-43, 1e-38, 1e-3, 1.0, 3e38])
def test_activations_of_any_size_stay_within_half_a_step(kind: str, size: float, mode: str) -> None:
    x = np.linspace(-1, 1, 256).astype(np.float32) * np.float32(size)
    q, f = quantized(kind, x, mode)
    want_q, want_f = naive.activations(kind, x)
    np.testing.assert_array_equal(q, want_q)
    assert_same_bits(f, want_f)
    block_size = 32 if kind == "q8_0" else 256
    scale = np.repeat(f[: 256 // block_size].astype(np.float64), block_size)
    # half a step, the rounding of x/d, and 127 times that of the scale: to a half in q8_0 (relative
    # 2**-11), and where it is subnormal to a multiple of 2**-149
    steps = 0.5 * (1 + 255 * 2 * EPSILON) + (128 * 2.0**-11 if kind == "q8_0" else 128 * EPSILON)
    allowed = scale * steps + 128 * 2.0**-150
    assert (np.abs(x - scale * q[:256]) <= allowed).all()


@each_mode
@each_kind
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_poisons_its_block_only(
    kind: str, bad: float, mode: str
) -> None:
    block_size = 32 if kind == "q8_0" else 256
    x = np.ones(3 * block_size, np.float32)
    x[block_size + 5] = bad
    q, f = quantized(kind, x, mode)
    assert np.isnan(f[:3]).tolist() == [False, True, False]
    assert (q[block_size : 2 * block_size] == 0).all()
    want_q, want_f = naive.activations(kind, x)
    np.testing.assert_array_equal(q, want_q)
    np.testing.assert_array_equal(f, want_f)


# -- dot products ----------------------------------------------------------------------------------


@pytest.mark.slow
@given(data=st.data())
@pytest.mark.parametrize("type", [T for T in TYPES if T.name in generic.CODED_TYPES], ids=str)
def test_any_bits_are_weights(type: QuantType, data: st.DataObject) -> None:
    """No code is out of a table's bounds, and all mean what the oracle says."""
    row = np.frombuffer(
        data.draw(st.binary(min_size=type.type_size, max_size=type.type_size)), "u1"
    )
    got = dequantized(type, row, type.block_size, "plain")
    assert_same_bits(got, naive.dequantize(type, row))


def tolerance(type: QuantType, n: int, magnitude: float) -> float:
    """Bound of the rounding errors of a dot product whose terms' magnitudes sum to ``magnitude``.

    Steps are multiplied and summed exactly, in integers. Rounded are: the two products that scale
    a block's sum, the product with a minimum, the sums that the activations carry (one each), and
    one addition for each block and each minimum: every term goes through at most 8 roundings and
    as many as there are additions.
    """
    additions = {1: n, 256: n // 256 * 17}.get(type.block_size, n // 16)
    return (8 + additions) * EPSILON * magnitude + 1e-37


@each_dot
@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_dot_equals_float64(type: QuantType, blocks: int, mode: str) -> None:
    n = row_length(type, blocks)
    row = random_row(type, n, seed=blocks)
    kind = ACTIVATION_OF[type]
    x = np.random.default_rng(blocks).standard_normal(n).astype(np.float32)
    q, f = naive.activations(kind, x)
    assert (len(q), len(f)) == (activation_bytes(kind, n), activation_floats(kind, n))
    want, magnitude = naive.dot(type, row, naive.activation_values(kind, q, f))
    got = dotted(type, row, q, f, n, mode)
    assert abs(float(got) - want) <= tolerance(type, n, magnitude)


@pytest.mark.parametrize("type", COMPILED, ids=lambda t: t.name)
def test_dot_equals_float64_on_real_weights(type: QuantType, data: Path) -> None:
    for source, blocks, weights in vectors(data, type):
        n = len(weights) // 256 * 256
        kind = ACTIVATION_OF[type]
        x = np.random.default_rng(1).standard_normal(n).astype(np.float32)
        q, f = naive.activations(kind, x)
        row = blocks[: type.row_bytes(n)]
        want, magnitude = naive.dot(type, row, naive.activation_values(kind, q, f))
        got = dotted(type, row, q, f, n, "compiled")
        assert abs(float(got) - want) <= tolerance(type, n, magnitude), source


@pytest.mark.parametrize("type", [t for t in PACKED if t in COMPILED], ids=lambda t: t.name)
def test_dot_is_the_same_compiled_or_not(type: QuantType) -> None:
    n = 3 * type.block_size
    row = random_row(type, n)
    x = np.random.default_rng(2).standard_normal(n).astype(np.float32)
    q, f = naive.activations(ACTIVATION_OF[type], x)
    assert dotted(type, row, q, f, n, "plain") == dotted(type, row, q, f, n, "compiled")


@each_packed_dot
def test_largest_steps_do_not_overflow(type: QuantType, mode: str) -> None:
    n = 2 * type.block_size
    row = np.full(type.row_bytes(n), 0xFF, np.uint8)
    for at in scale_offsets(type):
        row.reshape(-1, type.type_size)[:, at : at + 2] = 0x00, 0x3C  # 1.0
    store_other_factors(type, row.reshape(-1, type.type_size), 0)
    if type == QuantType.Q6_K:
        row.reshape(-1, 210)[:, 192:208] = 0x80  # scales of -128
    x = np.full(n, 127, np.float32)
    kind = ACTIVATION_OF[type]
    q, f = naive.activations(kind, x)
    want, magnitude = naive.dot(type, row, naive.activation_values(kind, q, f))
    assert abs(float(dotted(type, row, q, f, n, mode)) - want) <= tolerance(type, n, magnitude)


@each_packed_dot
def test_a_nan_scale_makes_the_dot_nan(type: QuantType, mode: str) -> None:
    n = 3 * type.block_size
    q, f = naive.activations(ACTIVATION_OF[type], np.ones(n, np.float32))
    for at in scale_offsets(type):
        row = random_row(type, n)
        row.reshape(-1, type.type_size)[1, at : at + 2] = 0x01, 0x7E
        assert np.isnan(dotted(type, row, q, f, n, mode))


@each_dot
def test_activations_that_are_not_finite_make_the_dot_nan(type: QuantType, mode: str) -> None:
    n = row_length(type, 2)
    x = np.ones(n, np.float32)
    x[n // 2] = np.nan
    q, f = naive.activations(ACTIVATION_OF[type], x)
    assert np.isnan(dotted(type, random_row(type, n), q, f, n, mode))


@each_dot
def test_zeros_on_either_side_make_zero(type: QuantType, mode: str) -> None:
    n = row_length(type, 2)
    kind = ACTIVATION_OF[type]
    q, f = naive.activations(kind, np.zeros(n, np.float32))
    assert dotted(type, random_row(type, n), q, f, n, mode) == 0
    q, f = naive.activations(kind, np.ones(n, np.float32))
    assert dotted(type, np.zeros(type.row_bytes(n), np.uint8), q, f, n, mode) == 0


@pytest.mark.slow
@each_mode
def test_rows_beyond_two_gib_are_found(mode: str, tmp_path: Path) -> None:
    type, n, at = QuantType.Q4_K, 256, 2**31 + 17
    row = random_row(type, n)
    path = tmp_path / "sparse"
    with path.open("wb") as file:  # a hole on disk, but for the row
        file.seek(at)
        file.write(row.tobytes())
    w = np.asarray(np.memmap(path, np.uint8, mode="r+"))
    y = np.zeros(n, np.float32)
    in_mode(generic.DEQUANTIZE["Q4_K"], mode)(w, at, y, 0, n)
    assert_same_bits(y, naive.dequantize(type, row))
    q, f = naive.activations("q8_k", np.ones(n, np.float32))
    got = in_mode(generic.DOT["Q4_K"], mode)(w, at, q, 0, f, 0, n)
    assert got == dotted(type, row, q, f, n, mode)
