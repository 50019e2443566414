"""Encoders against ggml's blocks, against the oracle's reading of their own, and at the edges."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.gguf.types import COMMON_TYPES
from gguf_hub.gguf.types import QuantType as T
from gguf_hub.run.kernels.build.library import kernel_function
from gguf_hub.run.kernels.quantize import encode
from gguf_hub.run.kernels.quantize.encode_memory import QUANTS, SCRATCH
from gguf_hub.run.kernels.simd import lanes
from gguf_hub.run.kernels.vm.machine import Memory, PlainMachine
from gguf_hub.run.kernels.vm.ops import CHUNK_BAD_ROW, CHUNK_ROWS, step
from tests import naive

TYPES = sorted(COMMON_TYPES | {T.IQ4_NL, T.IQ4_XS})
CODES = [T.IQ4_NL, T.IQ4_XS, T.MXFP4, T.TQ1_0, T.TQ2_0]
"""Points of grids are searched among thousands: they are tested compiled, in test_transcode."""
SIMPLE = [T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1]
K_TYPES = [T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K]
# Root mean square error of Gaussian weights, in standard deviations: what so many bits can do.
# Uniform steps over +-3 deviations of a group, and a little for rounded scales.
ERRORS = {
    T.Q8_0: 0.008, T.Q6_K: 0.022, T.Q5_0: 0.055, T.Q5_1: 0.05, T.Q5_K: 0.045, T.Q4_0: 0.11,
    T.Q4_1: 0.10, T.Q4_K: 0.09, T.Q3_K: 0.19, T.Q2_K: 0.36,
    T.IQ4_NL: 0.085, T.IQ4_XS: 0.09, T.F16: 3e-4, T.BF16: 3e-3, T.F32: 0,
}  # fmt: skip


def encoded(type: T, values: np.ndarray) -> np.ndarray:
    """Blocks of a row by the portable encoder, as plain Python."""
    n = len(values)
    f = np.zeros(n + SCRATCH, np.float32)
    f[:n] = values
    blocks = np.zeros(type.row_bytes(n), np.uint8)
    row = encode.make_encode_row(type.name, lanes)
    row(f, 0, blocks, 0, n, np.zeros(QUANTS, np.int8), 0, n, 0)
    return blocks


def error(type: T, blocks: np.ndarray, values: np.ndarray) -> float:
    """Root mean square error of what the blocks stand for."""
    found = naive.dequantize(type, blocks).astype(np.float64)
    return float(np.sqrt(np.mean((found - values) ** 2)))


def vectors(data: Path, type: T) -> list[dict[str, Any]]:
    listed = json.loads((data / "quants" / "quant_vectors.json").read_text())["vectors"]
    return [v for v in listed if v["type"] == type.name and v.get("input")]


@pytest.mark.parametrize("type", SIMPLE, ids=lambda t: t.name)
def test_simple_types_give_the_bytes_of_ggml(type: T, data: Path) -> None:
    for vector in vectors(data, type):
        values = np.fromfile(data / "quants" / vector["input"], np.float32)[:2048]
        theirs = np.fromfile(data / "quants" / vector["blocks"], np.uint8)
        ours = encoded(type, values)
        assert np.array_equal(ours, theirs[: len(ours)]), vector["source"]


@pytest.mark.parametrize("type", K_TYPES, ids=lambda t: t.name)
def test_k_types_lose_as_little_as_ggml(type: T, data: Path) -> None:
    for vector in vectors(data, type):
        values = np.fromfile(data / "quants" / vector["input"], np.float32)[:1024]
        theirs = np.fromfile(data / "quants" / vector["blocks"], np.uint8)
        ours = encoded(type, values)
        # two rows are few: chance alone moves the ratio by some percent
        assert error(type, ours, values) <= 1.05 * error(type, theirs[: len(ours)], values)


@pytest.mark.parametrize("type", CODES, ids=lambda t: t.name)
def test_codes_lose_as_little_as_ggmls(type: T, data: Path) -> None:
    """Those of MXFP4 and of the ternary types are the very bytes."""
    listed = json.loads((data / "codes" / "block_vectors.json").read_text())
    vector = next(v for v in listed if v["type"] == type.name and v["source"] != "random-bits")
    values = np.fromfile(data / "quants" / "stories260K.embd.f32.bin", np.float32)[:1024]
    theirs = np.frombuffer(base64.b64decode(vector["blocks"]), np.uint8)
    ours = encoded(type, values)
    if type.name.startswith("IQ"):
        limit = 1.05  # theirs may be by an importance matrix
        assert error(type, ours, values) <= limit * error(type, theirs[: len(ours)], values)
    else:
        assert np.array_equal(ours, theirs[: len(ours)])


@pytest.mark.parametrize("size", [1e-38, 1e-44, 2.0**-125, 1.0, 3.99, 4.0, 1e38], ids=str)
def test_powers_of_mxfp4_fit_any_size(size: float) -> None:
    values = (np.linspace(-1, 1, 32) * size).astype(np.float32)
    found = naive.dequantize(T.MXFP4, encoded(T.MXFP4, values))
    assert np.isfinite(found).all()
    assert np.abs(found - values).max() <= max(0.26 * np.abs(values).max(), 2.0**-127)


@pytest.mark.parametrize("type", TYPES, ids=lambda t: t.name)
def test_gaussian_weights_keep_what_the_bits_allow(type: T) -> None:
    values = np.random.default_rng(1).standard_normal(512).astype(np.float32)
    assert error(type, encoded(type, values), values) <= ERRORS[type]


@pytest.mark.parametrize("type", TYPES, ids=lambda t: t.name)
def test_zeros_stay_zeros(type: T) -> None:
    blocks = encoded(type, np.zeros(256, np.float32))
    assert not naive.dequantize(type, blocks).any()


@pytest.mark.parametrize("value", [-3.0, 3.0, -1e-30, 1e-30], ids=str)
@pytest.mark.parametrize("type", TYPES, ids=lambda t: t.name)
def test_equal_weights_are_kept(type: T, value: float) -> None:
    found = naive.dequantize(type, encoded(type, np.full(256, value, np.float32)))
    assert np.isfinite(found).all()
    assert np.allclose(found, value, rtol=0.01, atol=1e-7)


@pytest.mark.parametrize("type", TYPES, ids=lambda t: t.name)
def test_groups_of_different_size_do_not_spoil_each_other(type: T) -> None:
    """One loud group in a block: quiet groups have steps of their own, but for small blocks."""
    values = np.random.default_rng(2).standard_normal(256).astype(np.float32)
    values[:32] *= 8
    found = naive.dequantize(type, encoded(type, values))
    quiet = np.sqrt(np.mean((found[32:] - values[32:]) ** 2))
    assert quiet <= 2 * ERRORS[type]


@pytest.mark.parametrize("type", K_TYPES, ids=lambda t: t.name)
def test_encoding_what_was_decoded_changes_little(type: T) -> None:
    values = np.random.default_rng(3).standard_normal(256).astype(np.float32)
    once = naive.dequantize(type, encoded(type, values))
    twice = naive.dequantize(type, encoded(type, once))
    assert np.sqrt(np.mean((twice - once) ** 2)) <= 0.5 * ERRORS[type]


def test_ties_of_magnitude_take_the_sign_of_the_first() -> None:
    """As in ggml: the value that comes first gets the lowest step, which alone is exact."""
    for first in (1.0, -1.0):
        values = np.zeros(32, np.float32)
        values[3], values[7] = first, -first
        found = naive.dequantize(T.Q4_0, encoded(T.Q4_0, values))
        assert found[3] == first
        assert found[7] == -first * 7 / 8


def test_a_row_of_any_length_becomes_halves() -> None:
    values = np.linspace(-1, 1, 13, dtype=np.float32)
    assert np.array_equal(encoded(T.F16, values).view(np.float16), values.astype(np.float16))


def plain_machine(values: np.ndarray) -> PlainMachine:
    """A machine of one thread whose first file is the values and whose second takes blocks."""
    file = values.astype(np.float16).view(np.uint8).reshape(-1)
    floats = values.size + SCRATCH
    files = [file, np.zeros(4 * values.size, np.uint8)]
    memory = Memory.allocate(n=1, f=floats, q=QUANTS, kv=1, files=files)
    return PlainMachine(memory, kernel_function)


def steps(n_rows: int, n_in: int, slice_rows: int) -> list[Any]:
    """Decode and encode ``n_rows`` in slices."""
    shared = {"rows": slice_rows, "n_in": n_in, "x": 0, "x_stride": slice_rows * n_in}
    largest = int(np.float32(65504).view(np.int32))
    program = []
    for first in range(0, n_rows, slice_rows):
        program += [
            step("decode.F16", first=first, row_bytes=2 * n_in, largest=largest, **shared),
            step("encode.Q8_0", file=1, first=first, row_bytes=n_in // 32 * 34,
                 scratch=n_rows * n_in, **shared),
        ]  # fmt: skip
    return program


def test_slices_make_a_whole() -> None:
    values = np.random.default_rng(4).standard_normal((7, 64)).astype(np.float16)
    machine = plain_machine(values)
    machine.memory.n[CHUNK_ROWS], machine.memory.n[CHUNK_BAD_ROW] = 7, -1
    machine.run(machine.load(steps(7, 64, 3)))
    expected = encoded(T.Q8_0, values.astype(np.float32).reshape(-1))
    assert np.array_equal(machine.memory.files[1][: len(expected)], expected)
    assert machine.memory.n[CHUNK_BAD_ROW] == -1


def test_rows_beyond_the_chunk_are_left_alone() -> None:
    values = np.ones((4, 32), np.float16)
    machine = plain_machine(values)
    machine.memory.n[CHUNK_ROWS], machine.memory.n[CHUNK_BAD_ROW] = 3, -1
    machine.run(machine.load(steps(4, 32, 2)))
    written = machine.memory.files[1]
    assert written[: 3 * 34].any()
    assert not written[3 * 34 :].any()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # which compiled code has not
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_the_first_row_with_no_number_is_marked(bad: float) -> None:
    values = np.ones((6, 32), np.float16)
    values[4, 31] = values[5, 0] = bad
    machine = plain_machine(values)
    machine.memory.n[CHUNK_ROWS], machine.memory.n[CHUNK_BAD_ROW] = 6, -1
    machine.run(machine.load(steps(6, 32, 2)))
    assert machine.memory.n[CHUNK_BAD_ROW] == 4
