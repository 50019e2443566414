"""OpenAI's Responses, with plain HTTP and with OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.server.running import Running
from tests.api.server.scripted import CALL, PARAMETERS, THOUGHT, named_events, post, saying

pytest.importorskip("fastapi", reason="fastapi is not installed")

from gguf_hub.api.server.responses.store import NoResponseError, ResponseStore

N_CTX = 1024
PATH = "/v1/responses"
GREEDY: dict[str, Any] = {"model": "any", "input": "Hi", "max_output_tokens": 12, "temperature": 0}
TOOL = {"type": "function", "name": "tell", "description": "Tell it", "parameters": PARAMETERS}
ENUM = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"],
        "additionalProperties": False}  # fmt: skip
SAMPLES = [
    ("Hello.", ["message"]),
    (f"{THOUGHT}Hello.", ["reasoning", "message"]),
    (f"{THOUGHT}So: {CALL} {CALL}", ["reasoning", "message", "function_call", "function_call"]),
    (CALL, ["function_call"]),
    ("", []),
]


def text_of(response: dict[str, Any]) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


def test_a_response_is_the_chats_answer(server: Running) -> None:
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]
    chat = post(server, "/v1/chat/completions", messages=messages, max_tokens=12, temperature=0)
    response = post(server, PATH, **GREEDY, instructions="Be brief", metadata={"a": "b"})
    assert text_of(response) == chat["choices"][0]["message"]["content"]
    assert (response["object"], response["model"]) == ("response", "any")
    assert (response["status"], response["incomplete_details"]) == (
        "incomplete", {"reason": "max_output_tokens"})  # fmt: skip
    assert (response["instructions"], response["metadata"]) == ("Be brief", {"a": "b"})
    assert response["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert response["usage"]["total_tokens"] == chat["usage"]["total_tokens"]
    n_tokens = post(server, f"{PATH}/input_tokens", input="Hi", instructions="Be brief")
    assert n_tokens["input_tokens"] == chat["usage"]["prompt_tokens"]


def without_ids(value: Any) -> Any:
    """Return a response without what differs from one request to the next."""
    if isinstance(value, list):
        return [without_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    changing = ("id", "call_id", "created_at", "completed_at", "input_tokens_details")
    return {key: without_ids(item) for key, item in value.items() if key not in changing}


@pytest.mark.parametrize(("text", "kinds"), SAMPLES)
def test_a_response_is_the_same_whole_and_streamed(
    server: Running, text: str, kinds: list[str]
) -> None:
    body = {**GREEDY, "max_output_tokens": 200, "tools": [TOOL], "grammar": saying(text)}
    whole = post(server, PATH, **body)
    assert [item["type"] for item in whole["output"]] == kinds
    assert all(item["status"] == "completed" for item in whole["output"])
    assert whole["status"] == "completed"
    n_reasoning = whole["usage"]["output_tokens_details"]["reasoning_tokens"]
    assert (0 < n_reasoning < whole["usage"]["output_tokens"]) == ("reasoning" in kinds)
    events = named_events(server, PATH, **body)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert without_ids(events[-1]["response"]) == without_ids(whole)


@pytest.mark.parametrize(("text", "kinds"), SAMPLES)
def test_events_make_the_items_that_end_them(server: Running, text: str, kinds: list[str]) -> None:
    body = {**GREEDY, "max_output_tokens": 200, "tools": [TOOL], "grammar": saying(text)}
    events = named_events(server, PATH, **body)
    names = [event["type"].removeprefix("response.") for event in events]
    assert (names[:2], names[-1]) == (["created", "in_progress"], "completed")
    items: list[dict[str, Any]] = []
    deltas: list[str] = []
    for name, event in zip(names, events, strict=True):
        if name == "output_item.added":
            assert (event["output_index"], event["item"]["status"]) == (len(items), "in_progress")
            items.append(event["item"])
            deltas.append("")
        elif name.endswith(".delta"):
            assert event["item_id"] == items[-1]["id"]
            deltas[-1] += event["delta"]
        elif name == "output_item.done":
            assert event["item"]["id"] == items[-1]["id"]
            items[-1] = event["item"]
    assert items == events[-1]["response"]["output"]
    for item, delta, kind in zip(items, deltas, kinds, strict=True):
        whole = item["arguments"] if kind == "function_call" else item["content"][0]["text"]
        assert delta == whole
        prefix = {"message": "output_text", "reasoning": "reasoning_text"}.get(kind)
        done = f"{prefix}.done" if prefix else "function_call_arguments.done"
        assert done in names


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "tell"},
                                    {"type": "allowed_tools", "mode": "required",
                                     "tools": [{"type": "function", "name": "tell"}]}])  # fmt: skip
def test_a_function_that_must_be_called_is(server: Running, choice: Any) -> None:
    tools = [{**TOOL, "name": "other"}, {**TOOL, "parameters": ENUM}]
    if choice == "required":
        tools = tools[1:]
    body = {**GREEDY, "max_output_tokens": 100, "tools": tools}
    (call,) = post(server, PATH, **body, tool_choice=choice)["output"]
    assert (call["name"], json.loads(call["arguments"])) == ("tell", {"a": 1})


@pytest.mark.parametrize(
    "text",
    [{"format": {"type": "json_schema", "name": "x", "schema": ENUM, "strict": True}},
     {"format": {"type": "json_object"}}],
)  # fmt: skip
def test_a_format_holds_the_answer(server: Running, text: dict[str, Any]) -> None:
    response = post(server, PATH, **{**GREEDY, "max_output_tokens": 400}, text=text)
    if response["status"] == "completed":
        assert isinstance(json.loads(text_of(response)), dict)
    assert response["text"]["format"] == text["format"] | (
        {} if "schema" in text["format"] else {"strict": False}
    )


def test_log_probabilities_are_in_the_text(server: Running) -> None:
    include = ["message.output_text.logprobs"]
    response = post(server, PATH, **GREEDY, include=include, top_logprobs=2)
    (part,) = response["output"][0]["content"]
    assert "".join(entry["token"] for entry in part["logprobs"]).strip() == part["text"].strip()
    assert {len(entry["top_logprobs"]) for entry in part["logprobs"]} == {2}


# -- conversations --------------------------------------------------------------------------------


def test_items_reach_the_prompt_as_one_conversation(server: Running) -> None:
    items = [
        {"role": "developer", "content": "Be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "One"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [],
         "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "Two", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "tell", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"role": "user", "content": "Three"},
    ]  # fmt: skip
    call = {"id": "c1", "type": "function",
            "function": {"name": "tell", "arguments": '{"a": 1}'}}  # fmt: skip
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two", "reasoning_content": "Hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "user", "content": "Three"},
    ]
    chat = post(server, "/v1/chat/completions", messages=messages, max_tokens=12, temperature=0)
    response = post(server, PATH, **{**GREEDY, "input": items})
    assert text_of(response) == chat["choices"][0]["message"]["content"]
    assert response["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]


def test_a_response_continues_the_one_before_it(server: Running) -> None:
    grammar = saying(f"{THOUGHT}Hello.")
    first = post(server, PATH, **{**GREEDY, "max_output_tokens": 100, "grammar": grammar})
    second = post(server, PATH, **{**GREEDY, "input": "More", "previous_response_id": first["id"]})
    third = post(server, PATH, **{**GREEDY, "input": "Go", "previous_response_id": second["id"]})
    turns = [
        {"role": "user", "content": "Hi"}, *first["output"],
        {"role": "user", "content": "More"}, *second["output"],
        {"role": "user", "content": "Go"},
    ]  # fmt: skip
    whole = post(server, PATH, **{**GREEDY, "input": turns})
    assert text_of(third) == text_of(whole)
    assert third["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert third["previous_response_id"] == second["id"]
    referring = [{"type": "item_reference", "id": item["id"]} if "id" in item else item
                 for item in turns]  # fmt: skip
    assert text_of(post(server, PATH, **{**GREEDY, "input": referring})) == text_of(whole)


def test_responses_are_kept_until_they_are_deleted(server: Running) -> None:
    response = post(server, PATH, **GREEDY)
    url = f"{PATH}/{response['id']}"
    assert server.http.get(url).json() == response
    assert server.http.get(f"{url}?stream=true").status_code == 400
    assert server.http.delete(url).json()["deleted"] is True
    for reply in (server.http.get(url), server.http.delete(url)):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    error = post(server, PATH, 400, **GREEDY, previous_response_id=response["id"])["error"]
    assert error["code"] == "previous_response_not_found"
    unstored = post(server, PATH, **GREEDY, store=False)
    assert server.http.get(f"{PATH}/{unstored['id']}").status_code == 404
    streamed = named_events(server, PATH, **GREEDY)[-1]["response"]
    assert server.http.get(f"{PATH}/{streamed['id']}").json() == streamed


def test_the_store_keeps_the_newest_within_its_bounds() -> None:
    def response(i: int, text: str = "x") -> dict[str, Any]:
        return {"id": f"r{i}", "output": [{"id": f"m{i}", "content": text}]}

    def kept(store: ResponseStore, n: int) -> list[int]:
        found = []
        for i in range(n):
            try:
                found.append(int(store.get(f"r{i}")["id"][1:]))
            except NoResponseError:
                continue
        return found

    few = ResponseStore(max_responses=3)
    small = ResponseStore(max_bytes=2500)
    for i in range(5):
        few.add(response(i), [])
        small.add(response(i, "x" * 400), [])
    assert kept(few, 5) == [2, 3, 4]
    assert kept(small, 5) == [3, 4]
    small.delete("r4")
    small.add(response(5, "x" * 400), [])
    assert kept(small, 6) == [3, 5]
    small.add(response(6, "x" * 4000), [])  # too large for itself
    assert kept(small, 7) == []


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": None}, "input: "),
        ({"input": []}, "expected at least one item"),
        ({"input": [7]}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input.0: `computer_call` is not read"),
        ({"input": [{"type": ["x"]}]}, "input.0: "),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role: expected one of"),
        ({"input": [{"role": ["user"], "content": "x"}]}, "input.0.role: expected one of"),
        ({"input": [{"role": "user", "content": 7}]}, "input.0.content: expected text"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": ""}]}]},
         "input.0.content.0: `input_image` is not read"),
        ({"input": [{"type": "function_call", "call_id": 1}]}, "input.0.name: expected text"),
        ({"input": [{"type": "reasoning", "summary": 7}]}, "input.0"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "no item `msg_1`"),
        ({"input": [{"type": "item_reference", "id": {}}]}, "no item"),
        ({"conversation": "conv_1"}, "conversation: this server keeps none"),
        ({"prompt": {"id": "x"}}, "prompt: this server keeps none"),
        ({"background": True}, "background: "),
        ({"truncation": "auto"}, "truncation: "),
        ({"max_output_tokens": -1}, "max_output_tokens: "),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format: expected a `schema`"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type: "),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice: "),
        ({"tool_choice": "required"}, "tool_choice: expected a tool to call, found no tools"),
        ({"tools": [{"type": "function"}]}, "tools.0.name: expected text, found null"),
        ({"tools": [{**TOOL, "parameters": 7}], "tool_choice": "required"}, ""),
        ({"previous_response_id": "resp_1"}, "no response `resp_1`"),
        ({"input": "word " * 1000}, "fewer than the context"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_is_said(server: Running, fields: dict[str, Any], message: str) -> None:
    error = post(server, PATH, 400, **{**GREEDY, **fields})["error"]
    assert message in error["message"]
    assert error["type"] in ("invalid_request_error", "exceed_context_size_error")


def test_tools_of_openais_servers_are_left_out_and_named(server: Running) -> None:
    response = post(server, PATH, **GREEDY, tools=[TOOL, {"type": "web_search"}])
    (warning,) = response["warnings"]
    assert "`web_search` is left out" in warning


def test_every_route_asks_for_the_key(serve: Callable[..., Running]) -> None:
    server = serve({"api_keys": ("secret",)})
    for method, path in (("GET", f"{PATH}/resp_1"), ("DELETE", f"{PATH}/resp_1"),
                         ("POST", PATH), ("POST", f"{PATH}/input_tokens")):  # fmt: skip
        assert server.http.request(method, path, json=GREEDY).status_code == 401


def test_an_error_in_a_stream_fails_the_response(server: Running, monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(server.service.scheduler, "round", fail)
    last = named_events(server, PATH, **GREEDY)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "server_error", "message": "RuntimeError: broken"}


def test_a_stream_shows_that_the_answer_is_computed(slow_server: Running) -> None:
    events = named_events(slow_server, PATH, **{**GREEDY, "max_output_tokens": 1})
    assert sum(event["type"] == "response.in_progress" for event in events) > 2
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert text_of(events[-1]["response"])


# -- OpenAI's own client --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_openais_client_creates_and_streams(client: Any) -> None:
    body = {**GREEDY, "max_output_tokens": 50, "extra_body": {"grammar": saying("Hello.")}}
    text = client.responses.create(**body).output_text
    with client.responses.stream(**body) as stream:
        assert "".join(e.delta for e in stream if e.type == "response.output_text.delta") == text
        final = stream.get_final_response()
    assert final.output_text == text
    assert client.responses.retrieve(final.id).output_text == text
    client.responses.delete(final.id)
    n_tokens = client.responses.input_tokens.count(model="any", input="Hi").input_tokens
    assert n_tokens == final.usage.input_tokens


def test_what_a_response_answers_is_listed(server: Running, client: Any) -> None:
    first = post(server, PATH, **GREEDY)
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "Go on"}]}]
    body = {**GREEDY, "input": parts, "previous_response_id": first["id"]}
    second = post(server, PATH, **body)
    url = f"{PATH}/{second['id']}/input_items"
    newest = server.http.get(url).json()
    items = server.http.get(f"{url}?order=asc").json()["data"]
    assert newest["data"] == items[::-1]
    assert [item["role"] for item in items] == ["user", "assistant", "user"]
    assert items[1]["id"] == first["output"][0]["id"]
    texts = [item["content"][0] for item in items]
    assert [part["text"] for part in texts] == ["Hi", text_of(first), "Go on"]
    assert [part["type"] for part in texts] == ["input_text", "output_text", "input_text"]
    assert (newest["first_id"], newest["last_id"]) == (items[2]["id"], items[0]["id"])
    page = server.http.get(f"{url}?limit=2").json()
    assert (page["data"], page["has_more"]) == (newest["data"][:2], True)
    rest = server.http.get(f"{url}?limit=2&after={page['last_id']}").json()
    assert (rest["data"], rest["has_more"]) == (newest["data"][2:], False)
    listed = list(client.responses.input_items.list(second["id"], limit=1, order="asc"))
    assert [item.id for item in listed] == [item["id"] for item in items]


def test_lists_of_what_is_not_there_are_refused(server: Running) -> None:
    response = post(server, PATH, **GREEDY)
    url = f"{PATH}/{response['id']}/input_items"
    for query, message in (("limit=0", "limit: "), ("order=up", "order: "), ("after=x", "after: ")):
        reply = server.http.get(f"{url}?{query}")
        assert (reply.status_code, reply.json()["error"]["message"][: len(message)]) == (
            400,
            message,
        )
    ended = post(server, f"{PATH}/{response['id']}/cancel", 400)["error"]["message"]
    assert "has ended" in ended
    for method, path in (("GET", "input_items"), ("POST", "cancel")):
        reply = server.http.request(method, f"{PATH}/resp_none/{path}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


def test_openais_client_parses_and_calls(client: Any) -> None:
    from pydantic import BaseModel

    class Person(BaseModel):
        age: int

    body = {**GREEDY, "max_output_tokens": 100, "extra_body": {"grammar": None}}
    parsed = client.responses.parse(**body, text_format=Person)
    assert isinstance(parsed.output_parsed, Person) or parsed.status == "incomplete"
    grammar = {"grammar": saying(f"{THOUGHT}So: {CALL}")}
    body = {**GREEDY, "max_output_tokens": 200, "tools": [TOOL], "extra_body": grammar}
    whole = client.responses.create(**body)
    with client.responses.stream(**body) as stream:
        streamed = stream.get_final_response()
    for response in (whole, streamed):
        assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
        assert json.loads(response.output[2].arguments) == {"a": 1}
    result = {"type": "function_call_output", "call_id": whole.output[2].call_id, "output": "told"}
    again = client.responses.create(
        **{**GREEDY, "input": [result]}, previous_response_id=whole.id, tools=[TOOL]
    )
    assert again.status in ("completed", "incomplete")
