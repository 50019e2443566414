"""Bodies with a value of any kind anywhere: every interface answers or says what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.server.running import Running
from tests.api.server.scripted import PARAMETERS

N_EXAMPLES = int(os.environ.get("GGUF_HUB_FUZZ_BODIES", "25"))
"""Bodies of each route."""

N_CTX = 512
USER = [{"role": "user", "content": "Hi"}]
FUNCTION = {"name": "tell", "description": "x", "parameters": PARAMETERS, "strict": True}
CALL = {"id": "c1", "type": "function", "function": {"name": "tell", "arguments": "{}"}}
TOLD = {"role": "tool", "tool_call_id": "c1", "content": "x"}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, "b"]}}, "required": ["a"]}
SAMPLING = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 1, "logit_bias": {"5": 1.0}}

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Once", "max_tokens": 2, "stop": ["x"], "n": 1, **SAMPLING},
    "/completion": {"prompt": ["Once", 5], "n_predict": 2, "n_probs": 1, **SAMPLING},
    "/v1/chat/completions": {
        "messages": [*USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, TOLD],
        "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "auto",
        "max_tokens": 2, "reasoning_effort": "low", "chat_template_kwargs": {"a": 1}, **SAMPLING,
    },
    "/v1/messages": {
        "model": "any", "max_tokens": 2, "system": [{"type": "text", "text": "x"}],
        "messages": [
            *USER,
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "x", "signature": "x"},
                {"type": "tool_use", "id": "c1", "name": "tell", "input": {"a": 1}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "is_error": True,
                 "content": [{"type": "text", "text": "x"}]}]},
        ],
        "tools": [{"name": "tell", "input_schema": SCHEMA}], "tool_choice": {"type": "auto"},
        "stop_sequences": ["x"], "thinking": {"type": "enabled", "budget_tokens": 5}, **SAMPLING,
    },
    "/v1/messages/count_tokens": {"messages": USER, "output_config": {
        "effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}},
    "/v1/responses": {
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]},
            {"type": "function_call", "call_id": "c1", "name": "tell", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "x"},
        ],
        "instructions": "x", "max_output_tokens": 2, "metadata": {"a": "b"}, "include": ["x"],
        "tools": [{"type": "function", **FUNCTION}], "reasoning": {"effort": "low"},
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "tell"}]},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}, **SAMPLING,
    },
    "/v1/responses/input_tokens": {"input": "x", "text": {"verbosity": "low"}},
    "/api/chat": {
        "model": "stories", "stream": False, "think": True, "keep_alive": "5m",
        "messages": [
            *USER, {"role": "assistant", "tool_calls": [{"function": {
                "name": "tell", "arguments": {"a": 1}}}]},
            {"role": "tool", "tool_name": "tell", "content": "x"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "options": {"num_predict": 2, "num_ctx": 100, "num_keep": 1, "stop": ["x"], **SAMPLING},
    },
    "/api/generate": {
        "model": "stories", "stream": False, "prompt": "x", "system": "x", "format": SCHEMA,
        "options": {"num_predict": 2}, "logprobs": True, "top_logprobs": 1,
    },
    "/api/embed": {"model": "stories", "input": ["x", "y"], "truncate": True},
    "/api/embeddings": {"model": "stories", "prompt": "x"},
    "/api/show": {"model": "stories"},
    "/api/pull": {"name": "stories", "stream": False},
    "/v1/embeddings": {"input": ["x", [5]], "encoding_format": "base64"},
    "/tokenize": {"content": "x", "with_pieces": True},
    "/detokenize": {"tokens": [5]},
}  # fmt: skip

KEYS = st.sampled_from(["type", "name", "role", "content", "a", "$ref", "stream", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**64) | st.floats() | st.text(max_size=4)
    | st.sampled_from(["none", "auto", "required", "user", "assistant", "tool", "text", "json",
                       "\ud800", "function", "tool_use", "item_reference", "stories"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value in a body, the body itself left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield (*place, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*place, key))


@st.composite
def changed(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    """Return a body in which a few values are others, missing, or new."""
    body = deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(body))
        if not found:
            break
        *outer, last = draw(st.sampled_from(found))
        target: Any = body
        for key in outer:
            target = target[key]
        act = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if act == "remove":
            del target[last]
        elif act == "add" and isinstance(target, dict):
            target[draw(KEYS)] = draw(VALUES)
        else:
            target[last] = draw(VALUES)
    return body


@pytest.mark.parametrize("path", BODIES)
def test_a_body_as_it_should_be_is_answered(server: Running, path: str) -> None:
    reply = server.http.post(path, json=BODIES[path])
    assert reply.status_code == 200, reply.text


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_no_body_is_more_than_a_client_can_put_right(server: Running, path: str) -> None:
    headers = {"content-type": "application/json"}

    @settings(max_examples=N_EXAMPLES, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(changed(BODIES[path]))
    def ask(body: dict[str, Any]) -> None:
        text = json.dumps(body)
        reply = server.http.post(path, content=text, headers=headers)
        assert reply.status_code in (200, 400, 404), (reply.status_code, reply.text, text)
        if reply.status_code == 200:
            assert "server_error" not in reply.text and "api_error" not in reply.text, text
            return
        error = reply.json()["error"]
        assert isinstance(error if path.startswith("/api/") else error["message"], str)

    ask()
    assert server.service.errors == []
