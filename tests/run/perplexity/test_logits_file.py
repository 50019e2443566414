"""Files of logits: their bytes, what comes back, and damage."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufHubError
from gguf_hub.run.perplexity import LogitsReader, ModelSource, cut, measure, write_logits
from gguf_hub.run.perplexity.logits_file import file_size_bytes
from tests.run.perplexity.fakes import Markov, random_probs, random_text

N_CTX = 20


def save(path: Path, probs: np.ndarray) -> np.ndarray:
    """Save what a model predicts; return the chunks."""
    v = len(probs)
    chunks = cut(random_text(v, 6 * N_CTX), N_CTX)
    with write_logits(path, chunks, v) as sink:
        measure(chunks, ModelSource(Markov(probs), v, 0), sink=sink)
    return chunks


def read_rows(path: Path, v: int) -> list[list[float]]:
    """All rows of a file, as llama.cpp reads them: plain C, number by number."""
    raw = path.read_bytes()
    magic, n_ctx, n_vocab, n_chunks = struct.unpack_from("<8siii", raw)
    assert (magic, n_ctx, n_vocab, n_chunks) == (b"_logits_", N_CTX, v, 6)
    at = 20 + 4 * n_ctx * n_chunks
    nv = 2 * ((n_vocab + 1) // 2) + 4
    rows = []
    for _ in range(n_chunks * (n_ctx - 1 - n_ctx // 2)):
        scale, smallest = struct.unpack_from("<ff", raw, at)
        numbers = struct.unpack_from(f"<{n_vocab}H", raw, at + 8)
        rows.append([scale * number + smallest for number in numbers])
        at += 2 * nv
    assert raw[at:].startswith(b"_scored_")  # ours, where llama.cpp has stopped reading
    return rows


def as_of_llama_cpp(path: Path, v: int) -> None:
    """Cut off what llama.cpp's files lack."""
    path.write_bytes(path.read_bytes()[: file_size_bytes(6, N_CTX, v)])


def surprised(v: int) -> np.ndarray:
    """Probabilities of a model that a third of the tokens take entirely by surprise."""
    probs = random_probs(v, 1)
    probs[:, : v // 3] = 1e-12
    return probs / probs.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("v", [7, 8])
def test_a_file_holds_the_logs_of_the_probabilities(v: int, tmp_path: Path) -> None:
    probs = random_probs(v, 1)
    chunks = save(tmp_path / "l.bin", probs)
    before = [t for chunk in chunks for t in chunk[N_CTX // 2 : -1]]
    rows = np.array(read_rows(tmp_path / "l.bin", v))
    expected = np.log(probs[before])
    # half a step of 65535, and single precision of the two floats
    step = (expected.max(axis=1) - expected.min(axis=1)) / 65535
    assert (np.abs(rows - expected).max(axis=1) <= step / 2 + 65535 * step * 2**-24 + 1e-6).all()


def test_what_is_far_below_the_best_is_cut_off(tmp_path: Path) -> None:
    probs = random_probs(8, 1)
    probs[:, 3] = 1e-30
    save(tmp_path / "l.bin", probs)
    rows = np.array(read_rows(tmp_path / "l.bin", 8))
    np.testing.assert_allclose(rows[:, 3], rows.max(axis=1) - 16, atol=1e-3)


def test_equal_probabilities_have_no_scale(tmp_path: Path) -> None:
    save(tmp_path / "l.bin", np.full((8, 8), 1 / 8))
    np.testing.assert_allclose(read_rows(tmp_path / "l.bin", 8), math.log(1 / 8), rtol=1e-6)


@pytest.mark.parametrize("v", [7, 8])
def test_saved_logits_serve_as_well_as_the_model(v: int, tmp_path: Path) -> None:
    p, q = random_probs(v, 1), random_probs(v, 2)
    chunks = save(tmp_path / "l.bin", p)
    with (tmp_path / "l.bin").open("rb") as file:
        saved = LogitsReader.open(file, tmp_path / "l.bin")
        np.testing.assert_array_equal(saved.chunks, chunks)
        found = measure(saved.chunks, ModelSource(Markov(q), v, 0), base=saved).divergence
    model = ModelSource(Markov(q), v, 0)
    expected = measure(chunks, model, base=ModelSource(Markov(p), v, 0)).divergence
    assert found is not None
    assert expected is not None
    assert found.kl.value == pytest.approx(expected.kl.value, abs=1e-3)
    assert found.base.value.value == pytest.approx(expected.base.value.value, rel=1e-3)
    assert found.same_top == expected.same_top


def test_a_surprised_base_keeps_its_perplexity(tmp_path: Path) -> None:
    probs, path = surprised(9), tmp_path / "l.bin"
    chunks = save(path, probs)
    model = ModelSource(Markov(probs), 9, 0)
    with path.open("rb") as file:
        saved = LogitsReader.open(file, path)
        result = measure(chunks, model, base=saved)
    assert result.divergence is not None
    assert result.divergence.base == result.perplexity
    assert result.divergence.ratio.value == 1
    assert result.divergence.dp_rms.value == 0
    assert result.divergence.kl.value == pytest.approx(0, abs=1e-3)
    assert saved.n_cut_off == 0


@pytest.mark.parametrize(("probs", "is_surprised"), [(surprised, True), (random_probs, False)])
def test_tokens_that_llama_cpps_file_lacks_are_counted(
    probs, is_surprised: bool, tmp_path: Path
) -> None:
    args = (9,) if is_surprised else (9, 1)
    path = tmp_path / "l.bin"
    chunks = save(path, probs(*args))
    as_of_llama_cpp(path, 9)
    with path.open("rb") as file:
        saved = LogitsReader.open(file, path)
        measure(chunks, ModelSource(Markov(random_probs(9, 2)), 9, 0), base=saved)
    n_surprises = int((chunks[:, N_CTX // 2 + 1 :] < 3).sum())
    assert saved.n_cut_off == (n_surprises if is_surprised else 0)


@pytest.mark.parametrize("value", [math.nan, 1.0])
def test_a_damaged_part_of_ours_is_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "l.bin"
    save(path, random_probs(7, 1))
    path.write_bytes(path.read_bytes()[:-8] + struct.pack("<d", value))
    with path.open("rb") as file, pytest.raises(GgufHubError, match="_scored_"):
        LogitsReader.open(file, path)


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    chunks = cut(random_text(7, 100), N_CTX)
    with pytest.raises(KeyboardInterrupt), write_logits(tmp_path / "l.bin", chunks, 7):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_told_first(tmp_path: Path) -> None:
    chunks = np.zeros((2**20, 512), np.int32)
    with (
        pytest.raises(GgufHubError, match="not enough space"),
        write_logits(tmp_path / "l.bin", chunks, 2**20),
    ):
        raise AssertionError("never reached")


def header(n_ctx: int, n_vocab: int, n_chunks: int) -> bytes:
    return struct.pack("<8siii", b"_logits_", n_ctx, n_vocab, n_chunks)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is no file of logits"),
        (b"GGUF" * 10, "is no file of logits"),
        (b"_logits_", "is no file of logits"),
        (header(20, 7, 6), "take 9,20[0-9] bytes|take [0-9,]+ bytes, found 20"),
        (header(-1, 7, 6), "found 20"),
        (header(20, 2**31 - 1, 2**31 - 1), "found 20"),
        (header(0, 0, 0), "found 20"),
    ],
)
def test_what_is_no_whole_file_is_refused(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "l.bin"
    path.write_bytes(raw)
    with path.open("rb") as file, pytest.raises(GgufHubError, match=message):
        LogitsReader.open(file, path)


def test_tokens_outside_of_the_vocabulary_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.bin"
    rows = bytes(file_size_bytes(2, 4, 7) - 20 - 4 * 8)
    path.write_bytes(header(4, 7, 2) + struct.pack("<8i", 0, 1, 2, 3, 4, 5, 6, 7) + rows)
    with path.open("rb") as file, pytest.raises(GgufHubError, match=r"outside of \[0, 6\]"):
        LogitsReader.open(file, path)


def test_rows_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.bin"
    save(path, random_probs(7, 1))
    with path.open("r+b") as file:
        file.seek(20 + 4 * 6 * N_CTX)
        file.write(struct.pack("<f", math.nan))
    with path.open("rb") as file:
        saved = LogitsReader.open(file, path)
        model = ModelSource(Markov(random_probs(7, 1)), 7, 0)
        with pytest.raises(GgufHubError, match="not finite"):
            measure(saved.chunks, model, base=saved)


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "l.bin"
    save(path, random_probs(7, 1))
    with path.open("rb", buffering=0) as file:
        saved = LogitsReader.open(file, path)
        path.write_bytes(path.read_bytes()[: file_size_bytes(6, N_CTX, 7) - 1])
        model = ModelSource(Markov(random_probs(7, 1)), 7, 0)
        with pytest.raises(GgufHubError, match="became shorter"):
            measure(saved.chunks, model, base=saved)
