"""Chunks of rows through compiled kernels: error, threads, chunk borders, what cannot be stored."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufError
from gguf_hub.gguf.types import COMMON_TYPES, WRITABLE_TYPES
from gguf_hub.gguf.types import QuantType as T
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.quantize import encode_grids
from gguf_hub.run.kernels.quantize.encode_memory import WEIGHTED_TYPES
from gguf_hub.run.quants import transcode
from gguf_hub.run.quants.transcode import Job, Transcoder
from tests import naive
from tests.conftest import KERNELS
from tests.selection import types_taken


@pytest.fixture(scope="module")
def builder(request: pytest.FixtureRequest) -> Iterator[KernelBuilder]:
    """One builder for all: linking takes time, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_HUB_KERNEL_CACHE", str(KERNELS))
        made = KernelBuilder()
        types = types_taken(request.config, WRITABLE_TYPES)
        names = [f"encode.{type.name}" for type in types]
        names += [f"encode_weighted.{type.name}" for type in types if type in WEIGHTED_TYPES]
        made.addresses([*names, "decode.F32", "decode.F16", "decode.Q4_K", "run_program"])
        yield made


def transcoded(
    builder: KernelBuilder, raw: np.ndarray, pair: tuple[T, T], n_in: int, n_threads: int = 2
) -> np.ndarray:
    data = raw.reshape(-1).view(np.uint8)
    with Transcoder(data, row_length=n_in, n_threads=n_threads, builder=builder) as transcoder:
        chunks = transcoder.chunks("x", Job(*pair, n_in), [(0, data.nbytes)])
        return np.concatenate([chunk.copy() for chunk in chunks])


@pytest.mark.slow
@pytest.mark.parametrize("type", sorted(COMMON_TYPES - {T.F32}), ids=lambda t: t.name)
def test_the_error_is_no_larger_than_ggmls(type: T, data: Path, builder: KernelBuilder) -> None:
    listed = json.loads((data / "quants" / "quant_vectors.json").read_text())["vectors"]
    vectors = [v for v in listed if v["type"] == type.name and v.get("input")]
    assert vectors
    for vector in vectors:
        values = np.fromfile(data / "quants" / vector["input"], np.float32)
        blocks = transcoded(builder, values, (T.F32, type), 256)
        difference = naive.dequantize(type, blocks).astype(np.float64) - values
        assert np.sqrt(np.mean(difference**2)) <= 1.02 * vector["rmse"], vector["source"]


def test_the_reach_of_every_type_that_can_be_written_is_known() -> None:
    assert set(transcode._LARGEST) == WRITABLE_TYPES


def test_threads_and_chunks_make_no_difference(
    builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).standard_normal((37, 256)).astype(np.float32)
    whole = transcoded(builder, values, (T.F32, T.Q4_K), 256, 1)
    monkeypatch.setattr(transcode, "CHUNK_WEIGHTS", 5 * 256)
    monkeypatch.setattr(transcode, "SLICE_WEIGHTS", 2 * 256)
    for n_threads in (1, 2, 3):
        assert np.array_equal(transcoded(builder, values, (T.F32, T.Q4_K), 256, n_threads), whole)


def test_ranges_are_joined_in_their_order(builder: KernelBuilder) -> None:
    values = np.random.default_rng(1).standard_normal((6, 32)).astype(np.float32)
    data = values.reshape(-1).view(np.uint8)
    ranges = [(4 * 128, 2 * 128), (0, 3 * 128)]
    with Transcoder(data, row_length=32, n_threads=2, builder=builder) as transcoder:
        chunks = [c.copy() for c in transcoder.chunks("x", Job(T.F32, T.F16, 32), ranges)]
    expected = np.concatenate([values[4:6], values[:3]]).astype(np.float16)
    assert np.array_equal(np.concatenate(chunks).view(np.float16), expected.reshape(-1))


def test_quantised_weights_are_read_as_they_stand(builder: KernelBuilder) -> None:
    values = np.random.default_rng(2).standard_normal((3, 256)).astype(np.float32)
    blocks = transcoded(builder, values, (T.F32, T.Q4_K), 256)
    floats = transcoded(builder, blocks, (T.Q4_K, T.F32), 256).view(np.float32)
    assert np.array_equal(floats, naive.dequantize(T.Q4_K, blocks))


@pytest.mark.parametrize(
    ("bad", "said"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")], ids=str
)
def test_what_is_no_number_is_named(bad: float, said: str, builder: KernelBuilder) -> None:
    values = np.ones((9, 64), np.float32)
    values[5, 3], values[7, 0] = bad, bad
    with pytest.raises(GgufError, match=rf"`x`: weight 323 \(row 5, column 3\) is {said}$"):
        transcoded(builder, values, (T.F32, T.Q8_0), 64)


@pytest.mark.parametrize("type", sorted(WRITABLE_TYPES - {T.F32, T.BF16}), ids=lambda t: t.name)
def test_what_a_type_cannot_reach_is_refused_and_all_below_is_kept(
    type: T, builder: KernelBuilder
) -> None:
    largest = transcode._LARGEST[type]
    values = np.random.default_rng(3).uniform(-1, 1, (2, 256)).astype(np.float32)
    values[1, 9] = -largest
    found = naive.dequantize(type, transcoded(builder, values, (T.F32, type), 256))
    assert np.isfinite(found).all()
    assert found[256 + 9] == pytest.approx(-largest, rel=0.05 if type in COMMON_TYPES else 0.3)
    values[1, 9] = -1.01 * largest
    with pytest.raises(GgufError, match=rf"weight 265 .* {type.name} holds magnitudes up to"):
        transcoded(builder, values, (T.F32, type), 256)


class Remembering(KernelBuilder):
    """A builder that remembers what it is asked for together."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def addresses(self, names: Iterable[str], progress: Progress = SILENT) -> dict[str, int]:
        self.asked.append(list(names))
        return super().addresses(self.asked[-1], progress)


@pytest.mark.slow
@pytest.mark.usefixtures("builder")  # which has them compiled
def test_kernels_are_requested_together() -> None:
    fresh = Remembering()
    with Transcoder(np.zeros(64, np.uint8), row_length=32, n_threads=1, builder=fresh) as made:
        made.prepare([Job(T.F16, T.F16, 32), Job(T.F16, T.BF16, 32)])
    assert set(fresh.asked[-1]) >= {"decode.F16", "encode.F16", "encode.BF16"}


def weighted(
    builder: KernelBuilder, values: np.ndarray, type: T, weights: np.ndarray, n_threads: int = 2
) -> np.ndarray:
    """Blocks by an importance matrix, [matrices, inputs]."""
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    job = Job(T.F32, type, values.shape[-1], is_weighted=True)
    with Transcoder(
        data, row_length=values.shape[-1], n_threads=n_threads, builder=builder
    ) as transcoder:
        chunks = transcoder.chunks("x", job, [(0, data.nbytes)], weights)
        return np.concatenate([chunk.copy() for chunk in chunks])


@pytest.mark.parametrize("type", sorted(WEIGHTED_TYPES), ids=lambda t: t.name)
def test_weighted_errors_are_no_larger_than_ggmls(
    type: T, builder: KernelBuilder, data: Path
) -> None:
    values = np.fromfile(data / "quants" / "stories260K.embd.f32.bin", np.float32)[:8192]
    values = values.reshape(-1, 256)
    importance = np.fromfile(data / "quants" / "imatrix-256.f32.bin", np.float32)
    of_ggml = json.loads((data / "quants" / "weighted-errors.json").read_text())[type.name]

    def error(found: np.ndarray) -> float:
        difference = naive.dequantize(type, found).reshape(-1, 256).astype(np.float64) - values
        return float(np.sqrt((importance * difference**2).sum()))

    limit = 1.05 if type.name.startswith("IQ") else 1.02
    assert error(weighted(builder, values, type, importance[None])) <= limit * of_ggml


@pytest.mark.parametrize("type", sorted(WEIGHTED_TYPES), ids=lambda t: t.name)
def test_importance_is_followed(type: T, builder: KernelBuilder) -> None:
    """Errors go to inputs that do not count; only relations matter; each matrix has its own."""
    values = np.random.default_rng(4).standard_normal((24, 512)).astype(np.float32)
    weights = np.exp(2 * np.random.default_rng(5).standard_normal((2, 512))).astype(np.float32)
    blocks = weighted(builder, values, type, weights)
    ones = weighted(builder, values, type, np.ones_like(weights))

    def error(found: np.ndarray) -> float:
        squares = (
            naive.dequantize(type, found).reshape(2, 12, 512) - values.reshape(2, 12, 512)
        ) ** 2
        return float((weights[:, None] * squares).sum())

    assert error(blocks) < 0.95 * error(ones)
    assert np.array_equal(blocks, weighted(builder, values, type, 2.0**20 * weights))
    second = weighted(builder, values[12:], type, weights[1:])
    assert np.array_equal(blocks[len(blocks) // 2 :], second)


@pytest.mark.parametrize("type", sorted(WEIGHTED_TYPES), ids=lambda t: t.name)
def test_weighted_blocks_are_sound_at_the_edges(type: T, builder: KernelBuilder) -> None:
    """Zeros, inputs that nothing counts for, one that alone does, tiny and huge weights."""
    rng = np.random.default_rng(6)
    values = rng.standard_normal((6, 256)).astype(np.float32)
    values[0] = 0
    values[1] = 1
    values[2] *= 1e-6
    values[3, :64] = 0
    values[4] *= 1000
    for weights in (np.zeros(256), np.eye(256)[7], np.full(256, 1e-30), rng.random(256) < 0.5):
        blocks = weighted(builder, values, type, weights.astype(np.float32)[None])
        found = naive.dequantize(type, blocks).reshape(values.shape)
        assert np.isfinite(found).all()
        assert not found[0].any()
        largest = np.abs(values).max(axis=1)
        assert (np.abs(found).max(axis=1) <= 3 * largest).all()


@pytest.mark.parametrize("n_in", [32, 96, 288, 544])
@pytest.mark.parametrize("type", [T.Q4_0, T.Q5_1], ids=lambda t: t.name)
def test_rows_of_any_number_of_blocks_are_weighted(
    type: T, n_in: int, builder: KernelBuilder
) -> None:
    values = np.random.default_rng(7).standard_normal((3, n_in)).astype(np.float32)
    weights = np.exp(np.random.default_rng(8).standard_normal(n_in)).astype(np.float32)
    found = naive.dequantize(type, weighted(builder, values, type, weights[None]))
    plain = naive.dequantize(type, transcoded(builder, values, (T.F32, type), n_in))
    errors = [(weights * (each.reshape(3, -1) - values) ** 2).sum() for each in (found, plain)]
    assert errors[0] < errors[1]


def test_pieces_do_not_reach_across_matrices(
    builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(9).standard_normal((30, 256)).astype(np.float32)
    weights = np.exp(np.random.default_rng(10).standard_normal((3, 256))).astype(np.float32)
    whole = weighted(builder, values, T.Q4_K, weights)
    monkeypatch.setattr(transcode, "CHUNK_WEIGHTS", 4 * 256)
    assert np.array_equal(weighted(builder, values, T.Q4_K, weights, 1), whole)


GRIDS = [T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S]


@pytest.mark.parametrize("type", GRIDS, ids=lambda t: t.name)
def test_points_of_a_grid_lose_as_little_as_ggmls(
    type: T, data: Path, builder: KernelBuilder
) -> None:
    """Without an importance matrix, against blocks that may be by one."""
    listed = json.loads((data / "codes" / "block_vectors.json").read_text())
    vector = next(v for v in listed if v["type"] == type.name and v["source"] != "random-bits")
    theirs = np.frombuffer(base64.b64decode(vector["blocks"]), np.uint8)
    values = np.fromfile(data / "quants" / "stories260K.embd.f32.bin", np.float32)[: vector["n"]]
    ours = transcoded(builder, values, (T.F32, type), 256)

    def error(blocks: np.ndarray) -> float:
        return float(np.sqrt(np.mean((naive.dequantize(type, blocks) - values) ** 2)))

    assert error(ours) <= 1.02 * error(theirs)


@pytest.mark.parametrize("type", [t for t in GRIDS if "IQ1" not in t.name], ids=lambda t: t.name)
def test_points_of_a_grid_are_found_again(type: T, builder: KernelBuilder) -> None:
    """Weights that the type can hold exactly, with scales of one size."""
    rng = np.random.default_rng(11)
    points, length = encode_grids.GRIDS[type.name].points, encode_grids.GRIDS[type.name].length
    chosen = points[rng.integers(0, len(points), 1024 // length)].reshape(-1, 8)
    signs = rng.choice([-1, 1], chosen.shape)
    signs[:, 7] *= signs.prod(axis=1)  # an even number of each eight is negative
    values = (chosen * signs * 31).astype(np.float32).reshape(4, 256)
    found = naive.dequantize(type, transcoded(builder, values, (T.F32, type), 256))
    assert np.abs(found.reshape(4, 256) - values).max() < 0.02 * np.abs(values).max()
