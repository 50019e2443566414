"""OpenAI's interface, with plain HTTP and with OpenAI's own client."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.llama import Llama
from tests.api.llama.make_reference import OTHER_SCHEMA, TOOL
from tests.api.server.running import Running

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
USER = [{"role": "user", "content": "Hi"}]


def events(server: Running, path: str, body: dict[str, Any]) -> list[Any]:
    with server.http.stream("POST", path, json={**body, "stream": True}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def post(server: Running, path: str, **body: Any) -> Any:
    reply = server.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.fixture(scope="module")
def llm(server: Running) -> Any:
    with Llama(server.service.model_info.path, n_ctx=256) as model:
        yield model


def test_models_are_listed(server: Running) -> None:
    (model,) = server.http.get("/v1/models").json()["data"]
    assert model["id"] == "stories"
    assert model["meta"]["n_ctx"] == 256
    assert model["meta"]["quant"] == "F32"


def test_a_completion_is_llamas(server: Running, llm: Llama) -> None:
    body: dict[str, Any] = {"prompt": "Once upon", **GREEDY}
    answer = post(server, "/v1/completions", **body)
    expected = llm("Once upon", **GREEDY)
    assert answer["choices"] == expected["choices"]
    assert expected["usage"].items() <= answer["usage"].items()
    assert answer["model"] == "stories"
    chunks = events(server, "/v1/completions", body)
    text = "".join(c["choices"][0]["text"] for c in chunks)
    assert text == expected["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_stream_tells_its_usage_where_asked(server: Running) -> None:
    body = {"prompt": "Once", **GREEDY, "stream_options": {"include_usage": True}}
    last = events(server, "/v1/completions", body)[-1]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 12)


def test_several_prompts_and_answers_come_in_order(server: Running, llm: Llama) -> None:
    answer = post(server, "/v1/completions", prompt=["Once", "Tom"], n=2, seed=3, max_tokens=8)
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    texts = [c["text"] for c in answer["choices"]]
    expected = [
        llm(prompt, seed=seed, max_tokens=8)["choices"][0]["text"]
        for prompt in ("Once", "Tom")
        for seed in (3, 4)
    ]
    assert texts == expected
    chunks = events(server, "/v1/completions", {"prompt": ["Once", "Tom"], "n": 2, "seed": 3,
                                                "max_tokens": 8})  # fmt: skip
    for i, text in enumerate(expected):
        parts = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == i]
        assert "".join(p["text"] for p in parts) == text


@pytest.mark.parametrize("prompt", [[1, 403, 407], [[1, 403, 407]]])
def test_prompts_may_be_tokens(server: Running, prompt: Any) -> None:
    answer = post(server, "/v1/completions", prompt=prompt, echo=True, temperature=0, max_tokens=3)
    assert answer["choices"][0]["text"] == "Once upon a time,"


def test_log_probabilities_and_stops(server: Running, llm: Llama) -> None:
    options: dict[str, Any] = {**GREEDY, "logprobs": 2, "stop": [" there"]}
    answer = post(server, "/v1/completions", prompt="Once upon", **options)
    assert answer["choices"] == llm("Once upon", **options)["choices"]
    chat = post(server, "/v1/chat/completions", messages=USER, logprobs=True, top_logprobs=2,
                max_tokens=3)  # fmt: skip
    assert len(chat["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2


def test_conversations_are_answered_and_streamed(server: Running) -> None:
    body = {"messages": USER, **GREEDY}
    message = post(server, "/v1/chat/completions", **body)["choices"][0]["message"]
    deltas = [c["choices"][0]["delta"] for c in events(server, "/v1/chat/completions", body)]
    assert deltas[0] == {"role": "assistant"}
    assert "".join(d.get("content", "") for d in deltas) == message["content"]


def test_embeddings_come_as_numbers_or_as_bytes(server: Running) -> None:
    plain = post(server, "/v1/embeddings", input=["Once upon a time", "Tom"])
    packed = post(server, "/v1/embeddings", input="Tom", encoding_format="base64")
    vectors = [np.array(entry["embedding"]) for entry in plain["data"]]
    assert np.allclose([np.linalg.norm(v) for v in vectors], 1, atol=1e-5)
    found = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert np.allclose(found, vectors[1], atol=1e-6)
    assert plain["usage"]["prompt_tokens"] == 8


# -- OpenAI's own client ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.mark.slow
def test_openais_client_completes_and_streams(client: Any, llm: Llama) -> None:
    expected = llm("Once upon", **GREEDY)["choices"][0]["text"]
    body: dict[str, Any] = {"model": "stories", "prompt": "Once upon", **GREEDY}
    assert client.completions.create(**body).choices[0].text == expected
    stream = client.completions.create(stream=True, **body)
    assert "".join(chunk.choices[0].text for chunk in stream) == expected
    assert [model.id for model in client.models.list()] == ["stories"]


def test_openais_client_chats_and_streams(client: Any) -> None:
    body: dict[str, Any] = {"model": "stories", "messages": USER, **GREEDY}
    answer = client.chat.completions.create(**body).choices[0].message.content
    stream = client.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **body
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == answer
    assert chunks[-1].usage.completion_tokens == 12


def test_openais_client_embeds(client: Any) -> None:
    answer = client.embeddings.create(model="stories", input=["Once upon a time", "Tom"])
    assert [len(entry.embedding) for entry in answer.data] == [64, 64]


def test_openais_client_gets_json_of_a_schema(client: Any) -> None:
    schema = {"name": "person", "schema": OTHER_SCHEMA}
    answer = client.chat.completions.create(
        model="stories", messages=USER, seed=2, max_tokens=200,
        response_format={"type": "json_schema", "json_schema": schema},
    )  # fmt: skip
    assert set(json.loads(answer.choices[0].message.content)) == {"name", "age"}


def test_openais_client_calls_tools(client: Any) -> None:
    body: dict[str, Any] = {"model": "stories", "messages": USER, "tools": [TOOL], "seed": 1}
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = client.chat.completions.create(tool_choice=choice, **body).choices[0]
        (call,) = answer.message.tool_calls
        assert call.function.name == "weather"
        assert isinstance(json.loads(call.function.arguments)["sunny"], bool)
        assert answer.finish_reason == "tool_calls"
        with client.chat.completions.stream(tool_choice=choice, **body) as stream:
            final = stream.get_final_completion().choices[0].message
        assert final.tool_calls[0].function.arguments == call.function.arguments
    # the answer to a call goes back to the model
    messages = [
        *USER,
        answer.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sun"},
    ]
    again = client.chat.completions.create(model="stories", messages=messages, max_tokens=4)
    assert again.choices[0].finish_reason in ("stop", "length")


def test_openais_client_gets_our_errors_as_its_own(client: Any) -> None:
    import openai

    with pytest.raises(openai.BadRequestError, match="top_p"):
        client.completions.create(model="stories", prompt="x", top_p=3)
    with pytest.raises(openai.BadRequestError, match="fewer than the context of 256"):
        client.completions.create(model="stories", prompt=[1] * 300)


# -- OpenAI's old form of tools -------------------------------------------------------------------

FUNCTION = {"name": "tell", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "choice",
    [{"function_call": {"name": "tell"}},
     {"grammar": "root ::= " + json.dumps('{"name": "tell", "arguments": {}}' * 2)}],
    ids=["forced", "free"],
)  # fmt: skip
def test_functions_are_called_in_their_old_form_alone(
    server: Running, choice: dict[str, Any]
) -> None:
    body = {"messages": USER, "functions": [FUNCTION], "max_tokens": 80, **choice}
    (answer,) = post(server, "/v1/chat/completions", **body)["choices"]
    assert answer["message"].keys() == {"role", "content", "function_call"}
    called = answer["message"]["function_call"]
    assert (called["name"], json.loads(called["arguments"])) == ("tell", {})
    assert answer["finish_reason"] == "function_call"
    found = [chunk["choices"][0] for chunk in events(server, "/v1/chat/completions", body)]
    deltas = [choice["delta"] for choice in found]
    assert not any("tool_calls" in delta for delta in deltas)
    calls = [delta["function_call"] for delta in deltas if "function_call" in delta]
    assert [call["name"] for call in calls if "name" in call] == ["tell"]
    assert json.loads("".join(call["arguments"] for call in calls)) == {}
    assert found[-1]["finish_reason"] == "function_call"


def test_a_tool_without_parameters_gets_no_arguments(server: Running) -> None:
    body = {"messages": USER, "max_tokens": 80, "temperature": 2, "top_k": 0,
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": "required"}  # fmt: skip
    for seed in range(4):
        (answer,) = post(server, "/v1/chat/completions", **body, seed=seed)["choices"]
        (call,) = answer["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {}
