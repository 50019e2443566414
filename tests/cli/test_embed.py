"""``gguf-hub embed`` from the outside: the vectors of ``Llama``, and a reranker's scores."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.llama import Llama
from tests.rerankers import PAIRS, write_reranker
from tests.run.generation.test_classifier import HALVES, SCORES

TEXTS = ["Once upon a time", "Tom and Lily"]


@pytest.fixture(scope="module")
def hidden(embedded: Path, kernels: None) -> list[np.ndarray[Any, Any]]:
    """Vectors of the tokens of each text."""
    with Llama(str(embedded), n_ctx=64, embedding=True, verbose=False) as llm:
        return [np.array(llm.embed(text)) for text in TEXTS]


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory, kernels: None) -> Path:
    return write_reranker(tmp_path_factory.mktemp("rerank") / "model.gguf")


def unit(vectors: Any) -> np.ndarray[Any, Any]:
    found = np.asarray(vectors, float)
    return np.asarray(found / np.linalg.norm(found, axis=-1, keepdims=True))


def rows(gguf_hub: Any, *args: object) -> np.ndarray[Any, Any]:
    code, out, err = gguf_hub("embed", *args, "-t", 1)
    assert code == 0, err
    return np.array([[float(number) for number in line.split()] for line in out.splitlines()])


def test_each_text_has_a_line_of_numbers(embedded: Path, hidden: Any, gguf_hub: Any) -> None:
    expected = unit([each.mean(axis=0) for each in hidden])
    np.testing.assert_allclose(rows(gguf_hub, embedded, *TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(rows(gguf_hub, "-m", embedded, TEXTS[1]), expected[1:], atol=1e-6)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("mean", lambda x: x.mean(axis=0)),
        ("cls", lambda x: x[0]),
        ("last", lambda x: x[-1]),
        ("none", lambda x: x),
    ],
    ids=["mean", "cls", "last", "none"],
)
def test_texts_are_pooled_as_told(
    pooling: str, pool: Any, embedded: Path, hidden: Any, gguf_hub: Any
) -> None:
    expected = np.concatenate([np.atleast_2d(pool(each)) for each in hidden])
    found = rows(gguf_hub, embedded, *TEXTS, "--pooling", pooling, "--embd-normalize", -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    found = rows(gguf_hub, embedded, *TEXTS, "--pooling", pooling, "--embd-normalize", 1)
    np.testing.assert_allclose(found, expected / np.abs(expected).sum(-1, keepdims=True), atol=1e-6)


def test_numbers_of_16_bits_are_whole(embedded: Path, hidden: Any, gguf_hub: Any) -> None:
    found = rows(gguf_hub, embedded, *TEXTS, "--embd-normalize", 0)
    assert np.array_equal(found, found.round())
    assert list(np.abs(found).max(axis=1)) == [32760, 32760]


def test_texts_come_from_options_files_and_pipes(
    embedded: Path, tmp_path: Path, gguf_hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(gguf_hub, embedded, *TEXTS)
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n\n")
    assert np.array_equal(rows(gguf_hub, embedded, "-f", path), expected)
    assert np.array_equal(rows(gguf_hub, embedded, "-p", r"\n".join(TEXTS)), expected)
    other = "<#sep#>".join(TEXTS)
    found = rows(gguf_hub, embedded, "-p", other, "--embd-separator", "<#sep#>")
    assert np.array_equal(found, expected)
    piped = io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode()), "utf-8")
    monkeypatch.setattr("sys.stdin", piped)
    assert np.array_equal(rows(gguf_hub, embedded), expected)


def test_json_is_that_of_openais_api(embedded: Path, gguf_hub: Any) -> None:
    expected = rows(gguf_hub, embedded, *TEXTS)
    code, out, _ = gguf_hub("embed", embedded, *TEXTS, "--json", "-t", 1)
    answer = json.loads(out)
    assert (code, out.count("\n")) == (0, 1)
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    found = [entry["embedding"] for entry in answer["data"]]
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    assert answer["object"] == "list"
    assert answer["usage"]["prompt_tokens"] > 2
    assert json.loads(gguf_hub("embed", embedded, *TEXTS, "--embd-output-format", "array",
                               "-t", 1)[1]) == found  # fmt: skip
    out = gguf_hub("embed", embedded, *TEXTS, "--embd-output-format", "json+", "-t", 1)[1]
    similarities = json.loads(out)["cosineSimilarity"]
    np.testing.assert_allclose(similarities, expected @ expected.T, atol=1e-6)


def test_a_reranker_scores_pairs(reranker: Path, gguf_hub: Any) -> None:
    reference = json.loads(SCORES.read_text())["rank"]
    pairs = ["\t".join(pair) for pair in PAIRS]
    np.testing.assert_allclose(rows(gguf_hub, reranker, *pairs), reference, atol=HALVES)
    separated = [pair.replace("\t", "<#>") for pair in pairs]
    found = rows(gguf_hub, reranker, *separated, "--cls-separator", "<#>")
    np.testing.assert_allclose(found, reference, atol=HALVES)
    answer = json.loads(gguf_hub("embed", reranker, *pairs, "--json", "-t", 1)[1])
    assert answer["labels"] == ["yes", "no"]


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        ([], 2, "expected a MODEL"),
        (["model", "--embd-normalize", "-3", "x"], 2, "--embd-normalize: expected -1 (none)"),
        (["model", "x", "-p", "y"], 2, "TEXT and -p both give texts"),
        (["model", " "], 2, "expected a text"),
        (["model", "x", "--pooling", "max"], 2, "'max' is not one of"),
        (["model", "x", "--pooling", "rank"], 1, "does not support reranking"),
        (["model", "word " * 300, "-c", "64"], 1, "64"),
    ],
    ids=["no model", "norm", "two places", "no text", "pooling", "no reranker", "too long"],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], code: int, problem: str, embedded: Path, gguf_hub: Any
) -> None:
    given = [str(embedded) if word == "model" else word for word in arguments]
    found, out, err = gguf_hub("embed", *given)
    assert (found, out) == (code, "")
    assert problem in err
    assert "Traceback" not in err
