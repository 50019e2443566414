"""Fields that would change what an answer means are followed or refused, never ignored."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.server.running import Running
from tests.api.server.scripted import post

USER = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "tell", "parameters": {"type": "object"}}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Once", "max_tokens": 1},
    "/completion": {"prompt": "Once", "n_predict": 1},
    "/v1/chat/completions": {"messages": USER, "max_tokens": 1},
    "/v1/messages": {"messages": USER, "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": USER},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 1},
    "/api/chat": {"model": "stories", "messages": USER, "options": {"num_predict": 1},
                  "stream": False},
    "/api/generate": {"model": "stories", "prompt": "Hi", "options": {"num_predict": 1},
                      "stream": False},
}  # fmt: skip

COMMON: dict[str, Any] = {
    "lora": [{"id": 0, "scale": 1.0}], "image_data": [{"id": 1, "data": "x"}], "n_indent": 4,
    "multimodal_data": ["x"], "grammar_lazy": True, "grammar_triggers": [{"type": 0, "value": "x"}],
    "n_discard": 10, "adaptive_target": 0.5, "min_tokens": 4, "stop_token_ids": [5],
    "guided_json": {"enum": [1]}, "guided_regex": "a", "guided_choice": ["a"],
    "guided_grammar": "root ::= \"a\"", "structured_outputs": {"regex": "a"},
}  # fmt: skip
REFUSED: dict[str, dict[str, Any]] = {
    "/v1/completions": COMMON,
    "/completion": {**COMMON, "response_format": {"type": "json_object"}, "suffix": "x"},
    "/v1/chat/completions": {
        **COMMON, "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"},
        "web_search_options": {}, "mcp_servers": [{"url": "x"}], "reasoning_budget_tokens": -2,
        "tool_choice": "required", "function_call": {"name": "x"}, "reasoning_effort": "banana",
        "top_logprobs": 2, "response_format": {"type": "json_schema"},
    },
    "/v1/messages": {**COMMON, "mcp_servers": [{"type": "url", "name": "x", "url": "x"}],
                     "tool_choice": {"type": "any"}, "output_config": {"effort": "banana"}},
    "/v1/messages/count_tokens": {"mcp_servers": [{"name": "x"}],
                                  "tool_choice": {"type": "tool", "name": "x"}},
    "/v1/responses": {**COMMON, "tool_choice": "required", "reasoning": {"effort": "banana"},
                      "conversation": "x", "prompt": {"id": "x"}, "background": True,
                      "truncation": "auto"},
    "/api/chat": {"options": {"lora": [{"id": 0, "scale": 1.0}]}, "keep_alive": "abc",
                  "top_logprobs": 3, "think": "banana"},
    "/api/generate": {"keep_alive": "5 bananas", "template": "x", "context": [1]},
}  # fmt: skip


def last_name(field: str, value: Any) -> str:
    """Return the name that a message has of a field: the innermost."""
    is_nested = field in ("options", "output_config", "reasoning")
    return next(iter(value)) if is_nested else field


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [(path, field, value) for path, fields in REFUSED.items() for field, value in fields.items()],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_that_cannot_be_followed_is_named(
    server: Running, path: str, field: str, value: Any
) -> None:
    error = post(server, path, 400, **{**BODIES[path], field: value})["error"]
    assert last_name(field, value) in (error if path.startswith("/api/") else error["message"])


DEFAULTS: dict[str, list[Any]] = {
    "lora": [[]], "image_data": [[]], "multimodal_data": [[]], "grammar_lazy": [False],
    "grammar_triggers": [[]], "n_indent": [0], "n_discard": [0], "adaptive_target": [-1.0],
    "min_tokens": [0], "stop_token_ids": [[]], "guided_json": [""], "modalities": [["text"]],
    "mcp_servers": [[]], "reasoning_budget_tokens": [-1, 0, 5],
    "tool_choice": ["none", "auto"], "function_call": ["none", "auto"], "top_logprobs": [0],
    "response_format": [{"type": "text"}], "suffix": [""], "background": [False],
    "truncation": ["disabled"], "keep_alive": ["", "5m", 300, -1], "context": [[]],
    "template": [""], "audio": [],
}  # fmt: skip


@pytest.mark.parametrize("path", REFUSED)
def test_what_asks_for_nothing_is_taken(server: Running, path: str) -> None:
    body = BODIES[path]
    post(server, path, **{**dict.fromkeys(REFUSED[path]), **body})
    for field, value in REFUSED[path].items():
        if isinstance(value, dict) and last_name(field, value) != field:
            post(server, path, **{**body, field: dict.fromkeys(value)})
        for default in DEFAULTS.get(field, ()):
            is_anthropic = field == "tool_choice" and path.startswith("/v1/messages")
            post(server, path, **{**body, field: {"type": default} if is_anthropic else default})


@pytest.mark.parametrize("path", [path for path in BODIES if path.startswith("/v1")])
def test_what_cannot_change_an_answer_is_taken(server: Running, path: str) -> None:
    plain = {"user": "x", "store": False, "service_tier": "auto", "prompt_cache_key": "x",
             "safety_identifier": "x", "verbosity": "low", "speed": "standard",
             "cache_prompt": False, "sse_ping_interval": 5, "n_cache_reuse": 8}  # fmt: skip
    post(server, path, **{**BODIES[path], **plain, "metadata": {"user_id": "x"}})


@pytest.mark.parametrize(
    ("path", "choice"),
    [
        ("/v1/chat/completions", "required"),
        ("/v1/chat/completions", {"type": "function", "function": {"name": "tell"}}),
        ("/v1/messages", {"type": "any"}),
        ("/v1/messages", {"type": "tool", "name": "tell"}),
        ("/v1/messages/count_tokens", {"type": "any"}),
        ("/v1/responses", "required"),
        ("/v1/responses", {"type": "function", "name": "tell"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("tools", [{}, {"tools": []}, {"tools": None}], ids=str)
def test_a_call_without_tools_is_refused(
    server: Running, path: str, choice: Any, tools: dict[str, Any]
) -> None:
    message = post(server, path, 400, **BODIES[path], **tools, tool_choice=choice)["error"]
    assert message["message"].startswith("tool_choice: expected a tool to call, found no tools")


def test_two_forms_of_tools_are_refused(server: Running) -> None:
    body = {**BODIES["/v1/chat/completions"], "tools": [TOOL], "functions": [TOOL["function"]]}
    message = post(server, "/v1/chat/completions", 400, **body)["error"]["message"]
    assert message == "expected `tools` or `functions`, found both"


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_every_effort_is_known_to_every_interface(server: Running, effort: str) -> None:
    for path, field in (
        ("/v1/chat/completions", {"reasoning_effort": effort}),
        ("/v1/responses", {"reasoning": {"effort": effort}}),
        ("/v1/messages", {"output_config": {"effort": effort}}),
    ):
        post(server, path, **BODIES[path], **field)


def test_roles_that_a_format_does_not_print_are_put_into_words(server: Running) -> None:
    turns = [*USER, {"role": "banana", "content": "Split"}]
    prompt = post(server, "/apply-template", messages=turns)["prompt"]
    assert "<|im_start|>user\nHi\n\nbanana: Split<|im_end|>" in prompt
