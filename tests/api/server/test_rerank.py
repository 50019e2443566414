"""Documents in the order of llama.cpp's scores, in Jina's form and TEI's; models that rank none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.run.generation.pooling import Pooling
from tests.api.server.running import Running
from tests.api.server.scripted import post
from tests.rerankers import PAIRS, write_reranker
from tests.run.generation.test_classifier import HALVES, SCORES

PATHS = ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking")
QUERY, DOCUMENTS = "abcd", ["bacd", "quick brown fox", "cat", "bacd"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("rerank") / "model.gguf")


@pytest.fixture(scope="module")
def reranker(path: Path, kernels: None) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(path, stack, {}, n_ctx=64, n_slots=2, name="ranks")


@pytest.fixture(scope="module")
def scores(path: Path, kernels: None) -> list[float]:
    with Llama(str(path), n_ctx=64, embedding=True, verbose=False) as llm:
        return llm.rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("route", PATHS)
def test_scores_are_llama_cpps(reranker: Running, route: str) -> None:
    reference = json.loads(SCORES.read_text())
    for (query, document), (score, _), ids in zip(
        PAIRS, reference["rank"], reference["tokens"], strict=True
    ):
        answer = post(reranker, route, query=query, documents=[document])
        (result,) = answer["results"]
        assert result["index"] == 0
        assert result["relevance_score"] == pytest.approx(score, abs=HALVES)
        assert answer["usage"] == {"prompt_tokens": len(ids), "total_tokens": len(ids)}
        assert (answer["model"], answer["object"]) == ("ranks", "list")


def test_the_best_documents_come_first(reranker: Running, scores: list[float]) -> None:
    order = sorted(range(4), key=lambda i: -scores[i])
    assert order != [0, 1, 2, 3]
    for top_n in (None, 0, 2, 9):
        answer = post(reranker, "/v1/rerank", query=QUERY, documents=DOCUMENTS, top_n=top_n)
        assert [result["index"] for result in answer["results"]] == order[:top_n]
        for result in answer["results"]:
            assert set(result) == {"index", "relevance_score"}
            assert result["relevance_score"] == pytest.approx(scores[result["index"]], abs=1e-6)


def test_the_text_of_documents_is_returned_on_request(reranker: Running) -> None:
    documents = [DOCUMENTS[0], {"text": DOCUMENTS[1]}]
    answer = post(
        reranker, "/v1/rerank", query=QUERY, documents=documents, return_documents=True, model="x"
    )
    found = {result["index"]: result["document"] for result in answer["results"]}
    assert found == {i: {"text": DOCUMENTS[i]} for i in (0, 1)}
    assert answer["model"] == "x"


def test_the_form_of_text_embeddings_inference(reranker: Running, scores: list[float]) -> None:
    for more in ({}, {"return_text": True}):
        found = post(reranker, "/rerank", query=QUERY, texts=DOCUMENTS, top_n=3, **more)
        assert len(found) == 3
        assert [entry["score"] for entry in found] == pytest.approx(sorted(scores)[:0:-1])
        for entry in found:
            assert entry["score"] == pytest.approx(scores[entry["index"]], abs=1e-6)
            assert entry.get("text") == (DOCUMENTS[entry["index"]] if more else None)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"documents": ["a"]}, "query: expected"),
        ({"query": 5, "documents": ["a"]}, "query: expected"),
        ({"query": "a"}, "documents: expected 1 to 2048 texts, found none"),
        ({"query": "a", "documents": []}, "documents: expected 1 to 2048 texts, found none"),
        ({"query": "a", "texts": []}, "texts: expected 1 to 2048 texts, found none"),
        ({"query": "a", "documents": [5]}, "documents"),
        ({"query": "a", "documents": ["a"], "top_n": -1}, "top_n: expected"),
        ({"query": "a", "documents": ["a" * 3000]}, "tokens: expected fewer than the context"),
    ],
)
def test_a_body_that_cannot_be_is_refused(
    reranker: Running, body: dict[str, Any], problem: str
) -> None:
    assert problem in post(reranker, "/v1/rerank", 400, **body)["error"]["message"]


@pytest.mark.parametrize("route", PATHS)
def test_another_model_ranks_nothing(server: Running, route: str) -> None:
    error = post(server, route, 501, query="a", documents=["b"])["error"]
    assert "does not support reranking: its pooling type is `none`" in error["message"]
    assert error["type"] == "not_supported_error"


def test_a_reranker_has_no_vectors_but_writes(reranker: Running) -> None:
    for route in ("/v1/embeddings", "/embedding"):
        error = post(reranker, route, 501, input="ab")["error"]
        assert "does not support embeddings" in error["message"]
        assert "/v1/rerank" in error["message"]
    assert post(reranker, "/v1/completions", prompt="ab", max_tokens=2)["choices"]


def test_with_another_pooling_a_reranker_has_vectors(path: Path, kernels: None) -> None:
    with ExitStack() as stack:
        running = Running(path, stack, {}, n_ctx=64, pooling=Pooling.LAST)
        (found,) = post(running, "/v1/embeddings", input="ab")["data"]
        post(running, "/v1/rerank", 501, query="a", documents=["b"])
    with Llama(str(path), n_ctx=64, embedding=True, pooling_type=3, verbose=False) as llm:
        assert np.allclose(found["embedding"], llm.embed("ab", normalize=True), atol=1e-5)


def test_a_classifier_ranks_where_the_server_is_told_to(
    tmp_path: Path, reranker: Running, kernels: None
) -> None:
    path = write_reranker(tmp_path / "a.gguf", keys={"pooling_type": 3})
    body = {"query": QUERY, "documents": DOCUMENTS}
    with ExitStack() as stack:
        running = Running(path, stack, {}, n_ctx=64, pooling=Pooling.RANK)
        found = post(running, "/v1/rerank", **body)["results"]
    assert found == post(reranker, "/v1/rerank", **body)["results"]


def test_a_model_without_a_classifier_is_not_served_as_a_reranker(
    tmp_path: Path, kernels: None
) -> None:
    path = write_reranker(tmp_path / "a.gguf", has_classifier=False)
    expected = pytest.raises(UnsupportedGgufError, match="does not support reranking")
    with expected, ExitStack() as stack:
        Running(path, stack, {}, n_ctx=64, pooling=Pooling.RANK)


# -- Llama -----------------------------------------------------------------------------------------


def test_llama_embeds_scores(path: Path, kernels: None) -> None:
    reference = json.loads(SCORES.read_text())
    with Llama(str(path), n_ctx=64, embedding=True, verbose=False) as llm:
        assert llm.pooling_type() == Pooling.RANK
        for (query, document), (score, _) in zip(PAIRS, reference["rank"], strict=True):
            assert llm.rank(query, [document]) == pytest.approx([score], abs=HALVES)
        found = llm.embed(["ab", "cd"], normalize=True)
        assert np.allclose(np.sum(found, axis=1), 1)  # probabilities, as they are
        answer = llm.create_embedding("ab")
        assert answer["data"][0]["embedding"] == found[0]


def test_llama_ranks_with_a_reranker_alone(path: Path, kernels: None) -> None:
    with Llama(str(path), n_ctx=64, verbose=False) as llm, pytest.raises(RuntimeError):
        llm.rank("a", ["b"])
    with (
        Llama(str(path), n_ctx=64, embedding=True, pooling_type=1, verbose=False) as llm,
        pytest.raises(UnsupportedGgufError, match="its pooling type is `mean`, expected `rank`"),
    ):
        llm.rank("a", ["b"])
