"""A model that writes control tokens in its answers: clients of all interfaces get calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.gguf.format import Field
from gguf_hub.run.generation.logits_sampler import LogitsSampler
from tests.api.server.conftest import need
from tests.api.server.running import Running
from tests.api.server.scripted import PARAMETERS, post
from tests.run.generation.calls_written import harmony
from tests.run.tokenizer.small import bpe_metadata
from tests.synth import TINY, write_mixtral

CONTROL = 3
MARKS = {
    "mistral": ("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]", "[INST]", "</s>"),
    "harmony": ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>",
                "<|return|>"),
}  # fmt: skip
_TURNS = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEMPLATES = {
    "mistral": "[INST]" + _TURNS + "{# [TOOL_CALLS] [ARGS] [THINK] [/THINK] #}",
    "harmony": "<|start|>user<|message|>" + _TURNS + "<|end|><|start|>assistant{# <|channel|> #}",
}
TELL = {"type": "function", "function": {"name": "tell", "parameters": PARAMETERS}}
ARGUMENTS = {"a": 1}
ANSWERS = {
    "mistral": "[THINK]I wonder.[/THINK]So:[TOOL_CALLS]tell[ARGS]{\"a\": 1}</s>",
    "harmony": harmony([("tell", ARGUMENTS)], "So:", "I wonder.") + "<|call|>",
}  # fmt: skip
TEXTS = {
    "mistral": "[THINK]I wonder.[/THINK]So: [TOOL_CALLS][INST]so.</s>",
    "harmony": harmony([], "So: so.", "I wonder.") + "<|return|>",
}
USER = [{"role": "user", "content": "Hi"}]
Script = Callable[[str], None]


def model(folder: Path, kind: str) -> Path:
    """Write a model whose vocabulary is bytes and the marks of a format as control tokens."""
    values = bpe_metadata([], dict.fromkeys(MARKS[kind], CONTROL), pre="llama-bpe")
    n_more = TINY.n_vocab - len(values["tokenizer.ggml.tokens"])
    values["tokenizer.ggml.tokens"] += [f"w{i}" for i in range(n_more)]
    values["tokenizer.ggml.token_type"] += [1] * n_more
    end = values["tokenizer.ggml.tokens"].index(MARKS[kind][-1])
    values |= {"tokenizer.ggml.eos_token_id": end, "tokenizer.chat_template": TEMPLATES[kind]}
    fields = {key: Field.of(value) for key, value in values.items()}
    return write_mixtral(folder / f"{kind}.gguf", TINY, layout="merged", fields=fields)


@pytest.fixture(scope="module", params=MARKS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("models"), kind)


@pytest.fixture(scope="module")
def server(path: Path, kernels: None) -> Iterator[Running]:
    need()
    with ExitStack() as stack:
        yield Running(path, stack, {}, n_ctx=512, n_slots=1)


@pytest.fixture
def say(server: Running, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Let the model say a text, control tokens in it included."""
    ids: list[int] = []

    def choose(sampler: LogitsSampler, *arguments: Any) -> int:
        return ids[next(count)]

    count = iter(())

    def begin(text: str) -> None:
        nonlocal count
        ids[:] = server.service.tokenizer.encode(text, add_bos=False, parse_special=True)
        count = iter(range(len(ids)))

    monkeypatch.setattr(LogitsSampler, "choose", choose)
    return begin


def chunks(server: Running, path: str, **body: Any) -> list[Any]:
    with server.http.stream("POST", path, json={**body, "stream": True}) as reply:
        assert reply.status_code == 200, reply.read()
        lines = reply.read().decode().splitlines()
    texts = [line.removeprefix("data: ") for line in lines if line.startswith(("data: ", "{"))]
    return [json.loads(text) for text in texts if text != "[DONE]"]


def joined(deltas: list[dict[str, Any]]) -> tuple[str, str, list[tuple[str, Any]]]:
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for call in delta.get("tool_calls", ()):
            function = call["function"]
            entry = calls.setdefault(call["index"], ["", ""])
            entry[0] += function.get("name", "")
            entry[1] += function["arguments"]
    text = "".join(delta.get("content") or "" for delta in deltas)
    reasoning = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    return text, reasoning, [(name, json.loads(arguments)) for name, arguments in calls.values()]


EXPECTED = ("So:", "I wonder.", [("tell", ARGUMENTS)])


def test_chat_completions_has_the_call_whole_and_streamed(
    server: Running, kind: str, say: Script
) -> None:
    body = {"messages": USER, "tools": [TELL], "logprobs": True}
    say(ANSWERS[kind])
    choice = post(server, "/v1/chat/completions", **body)["choices"][0]
    message = choice["message"]
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "tell"
    assert json.loads(call["function"]["arguments"]) == ARGUMENTS
    assert (message["content"], message["reasoning_content"]) == EXPECTED[:2]
    assert choice["finish_reason"] == "tool_calls"
    say(ANSWERS[kind])
    choices = [chunk["choices"][0] for chunk in chunks(server, "/v1/chat/completions", **body)]
    assert joined([choice["delta"] for choice in choices]) == EXPECTED
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_a_call_that_max_tokens_cuts_short_says_length(
    server: Running, kind: str, say: Script
) -> None:
    say(ANSWERS[kind])
    n_tokens = len(server.service.tokenizer.encode(ANSWERS[kind], False, True)) - 3
    body = {"messages": USER, "tools": [TELL], "max_tokens": n_tokens}
    choice = post(server, "/v1/chat/completions", **body)["choices"][0]
    assert choice["finish_reason"] == "length"


def test_marks_that_are_left_over_are_not_shown(server: Running, kind: str, say: Script) -> None:
    for tools in ([], [TELL]):
        say(TEXTS[kind])
        body = {"messages": USER, "tools": tools}
        choice = post(server, "/v1/chat/completions", **body)["choices"][0]
        message = choice["message"]
        assert (message["content"], message["reasoning_content"]) == ("So: so.", "I wonder.")
        assert choice["finish_reason"] == "stop" and "tool_calls" not in message


def test_responses_messages_and_ollama_have_the_call(
    server: Running, kind: str, say: Script
) -> None:
    function = {"type": "function", "name": "tell", "parameters": PARAMETERS}
    say(ANSWERS[kind])
    answer = post(server, "/v1/responses", input="Hi", tools=[function])
    assert [item["type"] for item in answer["output"]] == ["reasoning", "message", "function_call"]
    assert json.loads(answer["output"][-1]["arguments"]) == ARGUMENTS

    say(ANSWERS[kind])
    tool = {"name": "tell", "input_schema": PARAMETERS}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    body = {"messages": USER, "tools": [tool], "max_tokens": 400, "thinking": thinking}
    answer = post(server, "/v1/messages", **body)
    assert answer["content"][-1]["input"] == ARGUMENTS and answer["stop_reason"] == "tool_use"
    assert [block["type"] for block in answer["content"]] == ["thinking", "text", "tool_use"]

    say(ANSWERS[kind])
    lines = chunks(server, "/api/chat", model=kind, messages=USER, tools=[TELL])
    messages = [line["message"] for line in lines]
    (call,) = [call for message in messages for call in message.get("tool_calls", ())]
    assert call["function"]["arguments"] == ARGUMENTS
    assert "".join(message["content"] for message in messages) == "So:"
    assert "thinking" in post(server, "/api/show", model=kind)["capabilities"]


def test_completions_without_a_conversation_print_no_marks(
    server: Running, kind: str, say: Script
) -> None:
    if kind == "mistral":
        say(ANSWERS[kind])
        text = post(server, "/v1/completions", prompt="Hi", max_tokens=99)["choices"][0]["text"]
        assert text == 'I wonder.So:tell{"a": 1}'


def test_llama_has_the_call_whole_and_streamed(path: Path, kind: str, say: Script) -> None:
    with Llama(path, n_ctx=512, verbose=False) as llm:
        say(ANSWERS[kind])
        answer: Any = llm.create_chat_completion(USER, tools=[TELL])
        message = answer["choices"][0]["message"]
        assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == ARGUMENTS
        say(ANSWERS[kind])
        stream: Any = llm.create_chat_completion(USER, tools=[TELL], stream=True)
        text, _, calls = joined([chunk["choices"][0]["delta"] for chunk in stream])
        assert (text, calls) == (message["content"], EXPECTED[2])
        assert text.endswith("So:") and "[" not in text and "<" not in text
