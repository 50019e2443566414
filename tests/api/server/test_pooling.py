"""One vector for a text: pooled as the model asks, alike on every surface."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.gguf.edit import Edits, plan_edit
from gguf_hub.run.generation.pooling import Pooling, scaled
from tests.api.server.running import Running
from tests.api.server.scripted import post

TEXT = "Once upon a time"
LONG = "Tom and Lily went to the park. " * 100


def edited(path: str, target: Path, **edits: str) -> Path:
    """Write the model with other metadata."""
    keys = {"pooling": "llama.pooling_type:uint32", "ends": "tokenizer.ggml.add_eos_token"}
    changes = {keys[name]: value for name, value in edits.items()}
    plan_edit(path, Edits(changes)).rewrite.write(target)
    return target


def unit(vector: Any) -> np.ndarray[Any, Any]:
    found = np.asarray(vector, np.float64)
    return np.asarray(found / np.linalg.norm(found))


def library(path: Path, text: str, **settings: Any) -> list[list[float]]:
    """The hidden states of all tokens."""
    llm = Llama(str(path), embedding=True, pooling_type=0, verbose=False, **settings)
    try:
        return llm.embed(text)  # type: ignore[no-any-return]
    finally:
        llm.close()


@pytest.mark.parametrize("pooling", [0, 1, 2, 3])
def test_servers_pool_as_the_file_says(server: Running, tmp_path: Path, pooling: int) -> None:
    path = edited(server.service.model_info.path, tmp_path / "a.gguf", pooling=str(pooling))
    hidden = np.array(library(path, TEXT, n_ctx=128))
    expected = unit({2: hidden[0], 3: hidden[-1]}.get(pooling, hidden.mean(axis=0)))
    with ExitStack() as stack:
        running = Running(path, stack, {})
        openai = post(running, "/v1/embeddings", input=TEXT)["data"][0]["embedding"]
        native = post(running, "/embedding", content=TEXT)[0]["embedding"][0]
        ollama = post(running, "/api/embed", model="a", input=TEXT)["embeddings"][0]
    for found in (openai, native, ollama):
        assert np.allclose(found, expected, atol=1e-5)


def test_the_last_token_is_the_end_where_texts_have_one(server: Running, tmp_path: Path) -> None:
    last = str(int(Pooling.LAST))
    path = edited(server.service.model_info.path, tmp_path / "a.gguf", pooling=last, ends="true")
    with ExitStack() as stack:
        running = Running(path, stack, {}, n_ctx=64)
        tokenizer = running.service.tokenizer
        n_ctx = running.service.model_info.n_ctx
        llm = Llama(str(path), embedding=True, n_ctx=n_ctx, verbose=False)
        assert llm.tokenize(TEXT.encode())[-1] == tokenizer.eos_id
        for text in (TEXT, LONG):  # cut, it still ends with the end
            ollama = post(running, "/api/embed", model="a", input=text)["embeddings"][0]
            assert np.allclose(ollama, unit(llm.embed(text)), atol=1e-5)
            tokens = tokenizer.encode(text)
            kept = [*tokens[: n_ctx - 1], tokens[-1]] if len(tokens) > n_ctx else tokens
            assert kept[-1] == tokenizer.eos_id
            ids = post(running, "/v1/embeddings", input=kept)["data"][0]["embedding"]
            assert np.allclose(ollama, ids, atol=1e-5)
        llm.close()


def test_a_type_that_does_not_run_is_refused_where_vectors_are_asked_for(
    server: Running, tmp_path: Path
) -> None:
    path = edited(server.service.model_info.path, tmp_path / "a.gguf", pooling="5")
    with ExitStack() as stack:
        running = Running(path, stack, {})
        answer = running.http.post("/v1/embeddings", json={"input": TEXT})
        assert answer.status_code == 501
        assert answer.json()["error"]["type"] == "not_supported_error"
        assert "`llama.pooling_type`: expected" in answer.json()["error"]["message"]
        assert post(running, "/v1/completions", prompt=TEXT, max_tokens=2)["choices"]


@pytest.mark.parametrize("pooling", [0, 1, 2, 3])
def test_langchain_pools_as_the_file_says(server: Running, tmp_path: Path, pooling: int) -> None:
    pytest.importorskip("langchain_core", reason="langchain-core is not installed")
    from gguf_hub.api.langchain import GgufEmbeddings

    path = edited(server.service.model_info.path, tmp_path / "a.gguf", pooling=str(pooling))
    hidden = np.array(library(path, TEXT, n_ctx=64))
    expected = {2: hidden[0], 3: hidden[-1]}.get(pooling, hidden.mean(axis=0))
    plain = GgufEmbeddings(model_path=str(path), n_ctx=64, normalize=False)
    assert np.allclose(plain.embed_query(TEXT), expected, atol=1e-5)
    normalized = GgufEmbeddings(client=plain.client)
    assert np.allclose(normalized.embed_query(TEXT), unit(expected), atol=1e-5)
    plain.client.close()


@pytest.mark.parametrize("norm", [-1, 0, 1, 2, 3])
def test_vectors_have_the_length_of_a_norm(server: Running, norm: int) -> None:
    path = server.service.model_info.path
    expected = scaled(np.array(library(Path(path), TEXT, n_ctx=64), np.float32).mean(axis=0), norm)
    with ExitStack() as stack:
        running = Running(Path(path), stack, {}, norm=norm)
        one = post(running, "/v1/embeddings", input=TEXT)["data"][0]["embedding"]
        ollama = post(running, "/api/embed", model="stories", input=TEXT)["embeddings"][0]
    two = post(server, "/embedding", content=TEXT, embd_normalize=norm)[0]["embedding"][0]
    three = post(server, "/v1/embeddings", input=TEXT, embd_normalize=norm)["data"][0]["embedding"]
    for found in (one, two, three):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.allclose(ollama, unit(expected), atol=1e-5)  # Ollama's clients expect no other


@pytest.mark.parametrize("norm", [-2, 2**31, "x", 0.5])
def test_a_norm_that_is_none_is_refused(server: Running, norm: Any) -> None:
    answer = post(server, "/v1/embeddings", 400, input=TEXT, embd_normalize=norm)
    assert "embd_normalize: expected" in answer["error"]["message"]


def test_the_first_numbers_of_a_vector_have_length_1(server: Running) -> None:
    whole = post(server, "/v1/embeddings", input=TEXT)["data"][0]["embedding"]
    for n in (1, 20, len(whole)):
        found = post(server, "/v1/embeddings", input=TEXT, dimensions=n)["data"][0]["embedding"]
        assert np.allclose(found, unit(whole[:n]), atol=1e-6)
        body = {"model": "stories", "input": TEXT, "dimensions": n}
        ollama = post(server, "/api/embed", **body)["embeddings"][0]
        assert np.allclose(found, ollama, atol=1e-6)
    plain = {"input": TEXT, "embd_normalize": -1}
    cut = post(server, "/v1/embeddings", dimensions=5, **plain)["data"][0]["embedding"]
    assert cut == post(server, "/v1/embeddings", **plain)["data"][0]["embedding"][:5]
    for n in (0, -1, len(whole) + 1):
        answer = post(server, "/v1/embeddings", 400, input=TEXT, dimensions=n)
        assert f"dimensions: expected [1, {len(whole)}]" in answer["error"]["message"]


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS, Pooling.LAST])
def test_the_server_pools_as_it_is_told(server: Running, tmp_path: Path, pooling: Pooling) -> None:
    path = edited(server.service.model_info.path, tmp_path / "a.gguf", pooling="1")
    hidden = np.array(library(path, TEXT, n_ctx=64))
    expected = {2: hidden[0], 3: hidden[-1]}.get(int(pooling), hidden.mean(axis=0))
    with ExitStack() as stack:
        running = Running(path, stack, {}, pooling=pooling)
        found = post(running, "/v1/embeddings", input=TEXT)["data"][0]["embedding"]
    assert np.allclose(found, unit(expected), atol=1e-5)


def test_without_pooling_llama_servers_route_has_the_vector_of_each_token(server: Running) -> None:
    path = Path(server.service.model_info.path)
    with ExitStack() as stack:
        running = Running(path, stack, {}, pooling=Pooling.NONE)
        (found,) = post(running, "/embedding", content=TEXT)
        answer = post(running, "/v1/embeddings", 400, input=TEXT)
        ollama = post(running, "/api/embed", 400, model="stories", input=TEXT)
    assert np.allclose(found["embedding"], library(path, TEXT, n_ctx=64), atol=1e-5)
    assert "found the pooling type `none`" in answer["error"]["message"]
    assert "found the pooling type `none`" in ollama["error"]
