"""Chunks of rows through compiled kernels: error, threads, chunk borders, what cannot be stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufError
from gguf_hub.gguf.types import WRITABLE_TYPES
from gguf_hub.gguf.types import QuantType as T
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.quants import transcode
from gguf_hub.run.quants.transcode import Transcoder
from tests import naive


@pytest.fixture(scope="module")
def builder() -> Iterator[KernelBuilder]:
    """One builder for all: linking takes time, too."""
    with pytest.MonkeyPatch.context() as patch:
        from tests.conftest import KERNELS

        patch.setenv("GGUF_HUB_KERNEL_CACHE", str(KERNELS))
        made = KernelBuilder()
        names = [f"encode.{type.name}" for type in WRITABLE_TYPES]
        made.addresses([*names, "decode.F32", "decode.F16", "decode.Q4_K", "run_program"])
        yield made


def transcoded(
    builder: KernelBuilder, raw: np.ndarray, pair: tuple[T, T], n_in: int, n_threads: int = 2
) -> np.ndarray:
    data = raw.reshape(-1).view(np.uint8)
    with Transcoder(data, row_length=n_in, n_threads=n_threads, builder=builder) as transcoder:
        chunks = transcoder.chunks("x", *pair, n_in, [(0, data.nbytes)])
        return np.concatenate([chunk.copy() for chunk in chunks])


@pytest.mark.parametrize("type", sorted(WRITABLE_TYPES - {T.F32}), ids=lambda t: t.name)
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
        chunks = [c.copy() for c in transcoder.chunks("x", T.F32, T.F16, 32, ranges)]
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
    assert found[256 + 9] == pytest.approx(-largest, rel=0.05)
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


@pytest.mark.usefixtures("builder")  # which has them compiled
def test_kernels_are_requested_together() -> None:
    fresh = Remembering()
    with Transcoder(np.zeros(64, np.uint8), row_length=32, n_threads=1, builder=fresh) as made:
        made.prepare([(T.F16, T.F16), (T.F16, T.BF16)])
    assert set(fresh.asked[-1]) >= {"decode.F16", "encode.F16", "encode.BF16"}
