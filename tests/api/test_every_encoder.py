"""Each encoder's tiny model, as people use a file: vectors on every surface, and no text."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.errors import UsageError
from tests.arch_models import N_VOCAB, write_arch_model
from tests.encoder_recipes import ENCODERS
from tests.run.tokenizer.small import wordpiece_metadata

Cli = Callable[..., tuple[int, str, str]]
TEXT = "the cat slept"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
REFUSAL = "makes embeddings and generates no text"
MEAN = 1


def write(path: Path, name: str = "bert", **keys: Any) -> Path:
    """Write an encoder of a vocabulary of words and letters, whose vectors are their mean."""
    words = [f"▁{word}" for word in ["the", "cat", "slept", "while", "a", "river", "turned"]]
    pieces = [*words, *LETTERS, *(f"▁{letter}" for letter in LETTERS[1:])]
    found = wordpiece_metadata(" ".join(pieces[: N_VOCAB - 3]))
    types = "tokenizer.ggml.token_type"
    vocabulary = {**found, types: np.array(found[types], np.int32)}
    return write_arch_model(
        path, name, vocabulary=vocabulary, keys={"pooling_type": MEAN, **keys}
    )  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_commands_take_it(name: str, tmp_path: Path, gguf_hub: Cli) -> None:
    def report(*args: object) -> Any:
        code, out, err = gguf_hub(*args, "--json")
        assert code == 0, err
        return json.loads(out)

    model = write(tmp_path / "model.gguf", name)
    facts = report("inspect", model)
    assert facts["architecture"] == ENCODERS[name].arch
    assert facts["compatibility"][0] == {"name": "gguf-hub", "loads": True, "reason": ""}
    assert report("verify", model)
    picked = report("pick", model, "--ram", "8GB")
    assert picked["recommended"]
    assert picked["commands"] == [f"gguf-hub serve {model} -c 256"]


@pytest.mark.parametrize("command", [("run", "-p", TEXT), ("bench",), ("perplexity", "--text")])
def test_commands_that_need_logits_refuse_it(
    command: tuple[str, ...], tmp_path: Path, gguf_hub: Cli
) -> None:
    model, text = write(tmp_path / "model.gguf"), tmp_path / "text.txt"
    text.write_text(TEXT * 300)
    name, *flags = command
    code, out, err = gguf_hub(name, model, *flags, *([text] if flags == ["--text"] else []))
    assert (code, out) == (2, "")
    assert f"architecture `bert` {REFUSAL}" in err
    assert "/v1/embeddings" in err and "embedding=True" in err
    assert "compiling" not in err


@pytest.mark.parametrize("name", ENCODERS)
def test_every_surface_makes_the_same_vectors(name: str, tmp_path: Path, kernels: None) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    from tests.api.server.running import Running
    from tests.api.server.scripted import post

    model = write(tmp_path / "model.gguf", name)
    with Llama(model, n_threads=1, embedding=True, verbose=False) as llm:
        vector = np.array(llm.embed(TEXT, normalize=True))
        tokens = Llama(model, n_threads=1, embedding=True, pooling_type=0, verbose=False)
        mean = np.mean(tokens.embed(TEXT), axis=0)
        tokens.close()
        assert llm.create_embedding([TEXT, TEXT])["usage"]["total_tokens"] == 10
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
    with ExitStack() as stack:
        server = Running(model, stack, {}, n_ctx=4096, n_slots=2)
        openai = post(server, "/v1/embeddings", input=[TEXT, "a river", TEXT])["data"]
        native = post(server, "/embedding", content=TEXT)[0]["embedding"][0]
        ollama = post(server, "/api/embed", model="stories", input=TEXT)["embeddings"][0]
    for found in (openai[0]["embedding"], openai[2]["embedding"], native, ollama):
        np.testing.assert_allclose(found, vector, atol=1e-6)


def test_langchain_embeds(tmp_path: Path, kernels: None) -> None:
    pytest.importorskip("langchain_core", reason="langchain-core is not installed")
    from gguf_hub.api.langchain import GgufEmbeddings

    model = write(tmp_path / "model.gguf")
    embeddings = GgufEmbeddings(model_path=str(model), n_threads=1)
    with Llama(model, n_threads=1, embedding=True, verbose=False) as llm:
        np.testing.assert_allclose(
            embeddings.embed_query(TEXT), llm.embed(TEXT, normalize=True), atol=1e-6
        )


def test_a_server_writes_no_text_and_goes_on(tmp_path: Path, kernels: None) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    from tests.api.server.running import Running
    from tests.api.server.scripted import post

    chat = {"messages": [{"role": "user", "content": TEXT}]}
    with ExitStack() as stack:
        server = Running(write(tmp_path / "model.gguf"), stack, {})
        for path, body in (
            ("/v1/completions", {"prompt": TEXT}),
            ("/v1/chat/completions", chat),
            ("/v1/chat/completions", {**chat, "stream": True}),
            ("/completion", {"prompt": TEXT}),
            ("/api/generate", {"model": "stories", "prompt": TEXT}),
            ("/api/chat", {"model": "stories", **chat}),
            ("/v1/messages", {"model": "stories", "max_tokens": 5, **chat}),
            ("/v1/responses", {"input": TEXT}),
        ):
            answer = server.http.post(path, json=body)
            assert answer.status_code == 400, path
            assert REFUSAL in answer.text, path
        long = server.http.post("/v1/embeddings", json={"input": "a " * 400})
        assert long.status_code == 400 and "256" in long.text
        assert len(post(server, "/v1/embeddings", input=TEXT)["data"]) == 1


def test_llama_writes_no_text(tmp_path: Path, kernels: None) -> None:
    with Llama(write(tmp_path / "model.gguf"), n_threads=1, verbose=False) as llm:
        for call in (
            lambda: llm(TEXT),
            lambda: list(llm(TEXT, stream=True)),
            lambda: llm.create_chat_completion([{"role": "user", "content": TEXT}]),
            lambda: llm.eval([5, 6]),
        ):
            with pytest.raises(UsageError, match=REFUSAL):
                call()


def test_what_is_added_to_embeddings_is_not_quantised(tmp_path: Path, gguf_hub: Cli) -> None:
    model, target = write(tmp_path / "model.gguf"), tmp_path / "q8.gguf"
    code, _, err = gguf_hub("quantize", model, target, "Q8_0")
    assert code == 0, err
    with Llama(target, n_threads=1, embedding=True, verbose=False) as llm:
        found = np.array(llm.embed(TEXT, normalize=True))
    with Llama(model, n_threads=1, embedding=True, verbose=False) as llm:
        assert found @ np.array(llm.embed(TEXT, normalize=True)) > 0.999
