"""LangChain's interfaces: our own classes, and langchain-community's on the stand-in module."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("langchain_core", reason="langchain-core is not installed")

from langchain_core.documents import Document
from langchain_core.exceptions import OutputParserException

from gguf_hub.api.compat import llama_cpp as compat
from gguf_hub.api.langchain import ChatGguf, GgufEmbeddings, GgufLLM, GgufReranker
from gguf_hub.api.llama import Llama
from gguf_hub.errors import GrammarError, UnsupportedGgufError
from tests.rerankers import write_reranker

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def path(data: Path, kernels: None) -> str:
    return str(data / "models" / "stories260K.f32.gguf")


@pytest.fixture(scope="module")
def client(path: str) -> Iterator[Llama]:
    with Llama(path, n_ctx=256) as model:
        yield model


async def joined(parts: Any) -> str:
    return "".join([getattr(part, "content", part) async for part in parts])


def test_an_llm_completes_streams_and_does_so_async(path: str, client: Llama) -> None:
    llm = GgufLLM(model_path=path, n_ctx=256, **GREEDY)
    expected = client("Once upon", **GREEDY)["choices"][0]["text"]
    assert llm.invoke("Once upon") == expected
    assert "".join(llm.stream("Once upon")) == expected
    assert asyncio.run(llm.ainvoke("Once upon")) == expected
    assert asyncio.run(joined(llm.astream("Once upon"))) == expected
    assert llm.batch(["Once upon", "Tom"])[0] == expected
    assert llm.invoke("Once upon", stop=[","]) == " a time"
    assert llm.get_num_tokens("Once upon") == 2
    llm.client.close()


def test_gpu_layers_are_passed_on(client: Llama) -> None:
    for cls in (GgufLLM, ChatGguf, GgufEmbeddings):
        assert cls(client=client)._llama_arguments()["n_gpu_layers"] == 0
        assert cls(client=client, n_gpu_layers=-1)._llama_arguments()["n_gpu_layers"] == -1


def test_a_chat_model_answers_streams_and_does_so_async(client: Llama) -> None:
    chat = ChatGguf(client=client, **GREEDY)
    messages = [("system", "Be brief."), ("human", "Hi")]
    expected = client.create_chat_completion(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], **GREEDY
    )
    text = expected["choices"][0]["message"]["content"]
    answer = chat.invoke(messages)
    assert answer.content == text
    assert answer.usage_metadata["total_tokens"] == expected["usage"]["total_tokens"]
    assert answer.response_metadata["finish_reason"] == "length"
    chunks = list(chat.stream(messages))
    assert "".join(str(chunk.content) for chunk in chunks) == text
    assert sum(chunks[1:], chunks[0]).usage_metadata == answer.usage_metadata
    assert asyncio.run(chat.ainvoke(messages)).content == text
    assert asyncio.run(joined(chat.astream(messages))) == text


def weather(sunny: bool) -> str:
    """Tell the weather."""
    return "sun" if sunny else "rain"


def test_a_chat_model_calls_tools(client: Llama) -> None:
    chat = ChatGguf(client=client, temperature=0).bind_tools([weather], tool_choice="any")
    (call,) = chat.invoke("Hi").tool_calls
    assert call["name"] == "weather"
    assert isinstance(call["args"]["sunny"], bool)
    whole: Any = None
    for chunk in chat.stream("Hi"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["args"] == call["args"]


def test_a_call_that_is_cut_is_an_invalid_one(client: Llama) -> None:
    chat = ChatGguf(client=client, temperature=0, max_tokens=4)
    answer = chat.bind_tools([weather], tool_choice="any").invoke("Hi")
    assert answer.tool_calls == []
    (call,), (raw,) = answer.invalid_tool_calls, answer.additional_kwargs["tool_calls"]
    assert (call["name"], call["id"]) == ("weather", raw["id"])
    assert call["args"] and "not valid JSON" in call["error"]
    found = chat.with_structured_output(weather, include_raw=True).invoke("Hi")
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], OutputParserException)
    with pytest.raises(OutputParserException):
        chat.with_structured_output(weather).invoke("Hi")


def test_log_probabilities_are_in_the_metadata(client: Llama) -> None:
    chat = ChatGguf(client=client, temperature=0, max_tokens=4).bind(logprobs=True, top_logprobs=2)
    rows = chat.invoke("Hi").response_metadata["logprobs"]["content"]
    assert [len(row["top_logprobs"]) for row in rows] == [2] * 4
    parts = [chunk.response_metadata.get("logprobs") for chunk in chat.stream("Hi")]
    assert [row for part in parts if part for row in part["content"]] == rows


@pytest.mark.parametrize("kind", [GgufLLM, ChatGguf, GgufEmbeddings, GgufReranker])
def test_fields_that_are_unknown_or_missing_are_named(kind: Any, client: Llama) -> None:
    with pytest.raises(ValueError, match=r"temprature\n.*not permitted"):
        kind(client=client, temprature=0)
    with pytest.raises(ValueError, match="model_path: field required"):
        kind()


def test_structured_output_follows_its_schema(client: Llama) -> None:
    schema = {
        "title": "Weather",
        "description": "The weather",
        "type": "object",
        "properties": {"sunny": {"type": "boolean"}},
        "required": ["sunny"],
    }
    answer = ChatGguf(client=client, seed=1).with_structured_output(schema).invoke("Hi")
    assert set(answer) == {"sunny"}


def test_a_strict_tool_must_be_held_as_a_whole(client: Llama) -> None:
    tool = {
        "title": "f", "description": "x", "type": "object",
        "properties": {"a": {"type": "array", "uniqueItems": True}},
    }  # fmt: skip
    chat = ChatGguf(client=client, seed=1, max_tokens=9)
    with pytest.raises(GrammarError, match="at `/properties/a/uniqueItems`"):
        chat.bind_tools([tool], tool_choice="any", strict=True).invoke("Hi")
    with pytest.warns(UserWarning, match="at `/properties/a/uniqueItems`"):
        next(chat.bind_tools([tool], tool_choice="any").stream("Hi"))


def test_embeddings_are_vectors_of_length_one(path: str) -> None:
    embeddings = GgufEmbeddings(model_path=path, n_ctx=64)
    vectors = np.array(embeddings.embed_documents(["Once upon a time", "Tom"]))
    assert vectors.shape == (2, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert asyncio.run(embeddings.aembed_query("Tom")) == pytest.approx(vectors[1])
    embeddings.client.close()


def test_a_reranker_keeps_the_most_relevant_documents(tmp_path: Path, kernels: None) -> None:
    path = write_reranker(tmp_path / "model.gguf")
    reranker = GgufReranker(model_path=str(path), n_ctx=64, top_n=2)
    texts = ["bacd", "quick brown fox", "cat"]
    documents = [Document(text, metadata={"source": i}) for i, text in enumerate(texts)]
    scores = reranker.client.rank("abcd", texts)
    order = sorted(range(3), key=lambda i: -scores[i])
    found = reranker.compress_documents(documents, "abcd")
    assert [each.page_content for each in found] == [texts[i] for i in order[:2]]
    expected = [{"source": i, "relevance_score": scores[i]} for i in order[:2]]
    assert [each.metadata for each in found] == expected
    assert documents[0].metadata == {"source": 0}
    assert asyncio.run(reranker.acompress_documents(documents, "abcd")) == found
    assert (
        len(GgufReranker(client=reranker.client, top_n=None).compress_documents(documents, "a"))
        == 3
    )
    assert reranker.compress_documents([], "abcd") == []
    with pytest.raises(UnsupportedGgufError, match="does not support embeddings"):
        GgufEmbeddings(client=reranker.client).embed_query("ab")
    reranker.client.close()


# -- langchain-community ------------------------------------------------------------------------


@pytest.fixture
def community() -> Iterator[Any]:
    """Import langchain-community, which warns of its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip(
            "langchain_community", reason="langchain-community is not installed"
        )
        compat.install()
        yield package
        compat.uninstall()


def test_communitys_llm_runs_on_the_stand_in(community: Any, path: str, client: Llama) -> None:
    from langchain_community.llms import LlamaCpp

    llm = LlamaCpp(model_path=path, n_ctx=256, temperature=0, max_tokens=12, n_gpu_layers=35,
                   repeat_penalty=1.0)  # fmt: skip
    assert isinstance(llm.client, Llama)
    expected = client("Once upon", **GREEDY)["choices"][0]["text"]
    assert llm.invoke("Once upon") == expected
    assert "".join(llm.stream("Once upon")) == expected
    assert llm.get_num_tokens("Once upon") == 3
    held = LlamaCpp(model_path=path, grammar='root ::= "yes" | "no"', temperature=0)
    assert held.invoke("Is it?") in ("yes", "no")


def test_communitys_chat_model_runs_on_the_stand_in(community: Any, path: str) -> None:
    from langchain_community.chat_models import ChatLlamaCpp

    chat = ChatLlamaCpp(model_path=path, n_ctx=256, temperature=0, max_tokens=12)
    answer = chat.invoke("Hi")
    assert answer.content
    assert "".join(str(chunk.content) for chunk in chat.stream("Hi")) == answer.content
    choice = {"type": "function", "function": {"name": "weather"}}
    calling = ChatLlamaCpp(model_path=path, n_ctx=256, temperature=0).bind_tools(
        [weather], tool_choice=choice
    )
    (call,) = calling.invoke("Hi").tool_calls
    assert json.dumps(call["args"]) in ('{"sunny": true}', '{"sunny": false}')


def test_communitys_embeddings_run_on_the_stand_in(community: Any, path: str) -> None:
    from langchain_community.embeddings import LlamaCppEmbeddings

    embeddings = LlamaCppEmbeddings(model_path=path, n_ctx=64)
    assert np.array(embeddings.embed_documents(["Tom"])).shape[1] == 64
    assert len(embeddings.embed_query("Tom")) == 64
