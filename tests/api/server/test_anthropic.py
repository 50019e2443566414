"""Anthropic's Messages, with plain HTTP and with Anthropic's own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.server.running import Running
from tests.api.server.scripted import CALL, PARAMETERS, THOUGHT, named_events, post, saying

N_CTX = 1024
PATH = "/v1/messages"
USER = [{"role": "user", "content": "Hi"}]
ASKED: dict[str, Any] = {"model": "any", "messages": USER, "max_tokens": 12}
GREEDY: dict[str, Any] = {**ASKED, "temperature": 0}
TOOL = {"name": "tell", "description": "Tell it", "input_schema": PARAMETERS}


def content_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the blocks that the events of a stream make, as clients do."""
    blocks: list[dict[str, Any]] = []
    texts: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append({**event["content_block"]})
        if event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1
            delta, block = event["delta"], blocks[-1]
            if delta["type"] == "input_json_delta":
                texts[event["index"]] = texts.get(event["index"], "") + delta["partial_json"]
                continue
            key = delta["type"].removesuffix("_delta")
            block[key] += delta[key]
    for i, text in texts.items():
        blocks[i]["input"] = json.loads(text)
    return blocks


def test_a_message_is_the_chats_answer(server: Running) -> None:
    chat = post(server, "/v1/chat/completions", messages=USER, max_tokens=12, temperature=0)
    message = post(server, PATH, **GREEDY)
    assert message["content"] == [
        {"type": "text", "text": chat["choices"][0]["message"]["content"]}
    ]
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "any")
    assert (message["stop_reason"], message["stop_sequence"]) == ("max_tokens", None)
    usage = message["usage"]
    n_prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert n_prompt == chat["usage"]["prompt_tokens"]
    assert usage["output_tokens"] == 12
    again = post(server, PATH, **GREEDY)["usage"]
    assert again["cache_read_input_tokens"] == n_prompt - again["input_tokens"] > 0


def test_a_stream_has_every_event_in_its_order(server: Running) -> None:
    events = named_events(server, PATH, **GREEDY)
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[3:-3]) == {"content_block_delta"}
    start = events[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == (
        [], None, 0)  # fmt: skip
    end = events[-2]
    assert end["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert end["usage"]["output_tokens"] == 12
    assert content_of(events) == post(server, PATH, **GREEDY)["content"]


@pytest.mark.parametrize(
    ("text", "kinds", "reason"),
    [
        ("Hello.", ["text"], "end_turn"),
        (f"{THOUGHT}Hello.", ["thinking", "text"], "end_turn"),
        (f"{THOUGHT}So: {CALL} {CALL}", ["thinking", "text", "tool_use", "tool_use"], "tool_use"),
        (CALL, ["tool_use"], "tool_use"),
        ("", [], "end_turn"),
    ],
)
def test_thoughts_text_and_calls_are_the_same_whole_and_streamed(
    server: Running, text: str, kinds: list[str], reason: str
) -> None:
    body = {**GREEDY, "max_tokens": 200, "tools": [TOOL], "grammar": saying(text)}
    message = post(server, PATH, **body)
    events = named_events(server, PATH, **body)
    assert [block["type"] for block in message["content"]] == kinds
    assert message["stop_reason"] == reason == events[-2]["delta"]["stop_reason"]

    def without_ids(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in block.items() if key != "id"} for block in blocks]

    assert without_ids(content_of(events)) == without_ids(message["content"])
    for block in message["content"]:
        if block["type"] == "tool_use":
            assert (block["name"], block["input"]) == ("tell", {"a": 1})
            assert block["id"].startswith("toolu_")
        if block["type"] == "thinking":
            assert (block["thinking"], bool(block["signature"])) == ("I wonder.", True)


def test_thoughts_may_be_left_out_or_unwanted(server: Running) -> None:
    body = {**GREEDY, "max_tokens": 200, "grammar": saying(f"{THOUGHT}Hello.")}
    hidden = post(server, PATH, **body, thinking={"type": "adaptive", "display": "omitted"})
    assert [block.get("thinking") for block in hidden["content"]] == ["", None]
    budget = post(server, PATH, **body, thinking={"type": "enabled", "budget_tokens": 2000})
    assert budget["warnings"] == [
        "the budget of reasoning is not held: a grammar says what the answer is"
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_is_named(server: Running, stream: bool) -> None:
    body = {
        **GREEDY,
        "max_tokens": 50,
        "grammar": saying("One two three"),
        "stop_sequences": ["x", " three"],
    }
    events = named_events(server, PATH, **body)
    end = events[-2]["delta"] if stream else post(server, PATH, **body)
    assert (end["stop_reason"], end["stop_sequence"]) == ("stop_sequence", " three")


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "tell"}])
def test_a_tool_that_must_be_called_is(server: Running, choice: dict[str, str]) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    body = {**GREEDY, "max_tokens": 200, "tools": [{"name": "tell", "input_schema": schema}]}
    message = post(server, PATH, **body, tool_choice=choice)
    assert [block["input"] for block in message["content"]] == [{"a": 1}]
    streamed = content_of(named_events(server, PATH, **body, tool_choice=choice))
    assert [block["input"] for block in streamed] == [{"a": 1}]


def test_a_call_that_the_limit_cuts_short_has_no_arguments(server: Running) -> None:
    body = {**GREEDY, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "tell"}}
    message = post(server, PATH, **{**body, "max_tokens": 1})
    assert (message["content"][0]["input"], message["stop_reason"]) == ({}, "max_tokens")


def test_a_schema_holds_the_answer(server: Running) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    output = {"format": {"type": "json_schema", "schema": schema}}
    message = post(server, PATH, **{**GREEDY, "max_tokens": 200}, output_config=output)
    assert json.loads(message["content"][0]["text"]) == {"a": 1}


def test_what_was_said_before_reaches_the_prompt(server: Running) -> None:
    """The prompt is the one of the same conversation in OpenAI's shape."""
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "One"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "x"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "Two"},
            {"type": "tool_use", "id": "t1", "name": "tell", "input": {"a": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "sun"},
            {"type": "text", "text": "Three", "cache_control": {"type": "ephemeral"}}]},
    ]  # fmt: skip
    call = {"id": "t1", "type": "function",
            "function": {"name": "tell", "arguments": '{"a": 1}'}}  # fmt: skip
    chat = [
        {"role": "system", "content": "Be\nbrief"},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "sun"},
        {"role": "user", "content": "Three"},
    ]
    function = {"name": "tell", "description": "Tell it", "parameters": PARAMETERS}
    tools = [{"type": "function", "function": function}]
    system = [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}]
    body = {**GREEDY, "messages": turns, "system": system, "tools": [TOOL]}
    options = {"messages": chat, "tools": tools, "temperature": 0, "max_tokens": 12}
    expected = post(server, "/v1/chat/completions", **options)
    message = post(server, PATH, **body)
    texts = [block["text"] for block in message["content"]]
    assert "".join(texts) == expected["choices"][0]["message"]["content"]
    n_prompt = expected["usage"]["prompt_tokens"]
    del body["max_tokens"], body["temperature"]
    assert post(server, f"{PATH}/count_tokens", **body) == {"input_tokens": n_prompt}


def test_a_begun_answer_is_continued(server: Running) -> None:
    begun = [*USER, {"role": "assistant", "content": "Once upon"}]
    expected = post(server, "/v1/chat/completions", messages=begun, temperature=0, max_tokens=12)
    message = post(server, PATH, **{**GREEDY, "messages": begun})
    assert message["content"][0]["text"] == expected["choices"][0]["message"]["content"]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": None}, "max_tokens: "),
        ({"max_tokens": "x"}, "max_tokens: "),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "user"}]}, "messages.0.content: "),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: "),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "`image` is not read"),
        ({"messages": [{"role": "user", "content": [{"type": 7}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "assistant", "content": [
            {"type": "tool_result", "tool_use_id": "x"}]}]}, "in a turn of the assistant"),
        ({"messages": [{"role": "user", "content": [
            {"type": "tool_use", "id": "x", "name": "x", "input": {}}]}]}, "turn of the user"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "Anthropic's servers"),
        ({"tools": [{"name": "x"}]}, "tools.0.input_schema: "),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "the `name` of a tool"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "y"}}, "no tool `y`"),
        ({"top_p": 3}, "top_p: expected [0, 1]"),
        ({"stop_sequences": [7]}, "stop_sequences"),
        ({"thinking": {"type": "much"}}, "thinking.type: "),
        ({"messages": [{"role": "user", "content": "word " * 1000}]}, "prompt is too long: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_is_said_in_anthropics_shape(
    server: Running, fields: dict[str, Any], message: str
) -> None:
    error = post(server, PATH, 400, **{**GREEDY, **fields})
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert message in error["error"]["message"]


def test_replies_of_the_guard_and_the_router_have_its_shape(serve: Callable[..., Running]) -> None:
    server = serve({"api_keys": ("secret",), "max_body_bytes": 1000})
    assert post(server, PATH, 401, **GREEDY)["error"]["type"] == "authentication_error"
    key = {"x-api-key": "secret"}
    reply = server.http.post(PATH, json={**GREEDY, "max_tokens": 1}, headers=key)
    assert reply.status_code == 200
    for path, status, kind in ((PATH, 401, "authentication_error"),):
        assert server.http.get(path).json()["error"]["type"] == kind
        assert server.http.get(path).status_code == status
    missing = server.http.get(f"{PATH}/batches", headers=key)
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    large = server.http.post(PATH, json={"x": "y" * 2000}, headers=key)
    assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")
    page = server.http.post(PATH, json=GREEDY, headers={**key, "Origin": "https://evil.example"})
    assert (page.status_code, page.json()["error"]["type"]) == (403, "permission_error")


def test_an_error_in_a_stream_is_an_event(server: Running, monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(server.service.scheduler, "round", fail)
    events = named_events(server, PATH, **GREEDY)
    assert events[-1] == {
        "type": "error",
        "error": {"type": "api_error", "message": "RuntimeError: broken"},
    }


def test_a_stream_pings_while_the_answer_is_computed(slow_server: Running) -> None:
    events = named_events(slow_server, PATH, **{**GREEDY, "max_tokens": 1})
    assert sum(event["type"] == "ping" for event in events) > 2
    assert content_of(events)


# -- Anthropic's own client ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    anthropic = pytest.importorskip("anthropic", reason="anthropic is not installed")
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as found:
        yield found


@pytest.mark.slow
def test_anthropics_client_asks_streams_and_counts(client: Any) -> None:
    body = {**ASKED, "extra_body": {"temperature": 0}}
    message = client.messages.create(**body)
    with client.messages.stream(**body) as stream:
        assert "".join(stream.text_stream) == message.content[0].text
        final = stream.get_final_message()
    assert final.content[0].text == message.content[0].text
    assert final.usage.output_tokens == message.usage.output_tokens == 12
    assert client.messages.count_tokens(model="any", messages=USER).input_tokens > 5
    assert [model.id for model in client.models.list()] == ["stories"]


def test_anthropics_client_gets_thoughts_and_calls(client: Any) -> None:
    grammar = {"grammar": saying(f"{THOUGHT}So: {CALL}")}
    body = {**ASKED, "max_tokens": 200, "tools": [TOOL], "extra_body": grammar}
    message = client.messages.create(**body)
    with client.messages.stream(**body) as stream:
        final = stream.get_final_message()
    for found in (message, final):
        assert [block.type for block in found.content] == ["thinking", "text", "tool_use"]
        assert found.content[2].input == {"a": 1}
        assert found.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": message.content[2].id, "content": "told"}
    turns = [*USER, {"role": "assistant", "content": message.content},
             {"role": "user", "content": [result]}]  # fmt: skip
    assert client.messages.create(**{**ASKED, "messages": turns}).content


def test_anthropics_client_gets_our_errors_as_its_own(client: Any) -> None:
    import anthropic

    long = [{"role": "user", "content": "a b" * 2000}]
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        client.messages.create(**{**ASKED, "messages": long})
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.list()
