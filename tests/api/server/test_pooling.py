"""One vector for a text: pooled as the model asks, alike on every surface."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.gguf.edit import Edits, plan_edit
from gguf_hub.run.generation.pooling import Pooling
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
    path = edited(server.service.model_info.path, tmp_path / "a.gguf", pooling="4")
    with ExitStack() as stack:
        running = Running(path, stack, {})
        answer = running.http.post("/v1/embeddings", json={"input": TEXT})
        assert answer.status_code == 500
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
