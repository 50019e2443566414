"""Messages for bodies that are wrong: one line that says where, what was expected and found."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.server.running import Running
from tests.api.server.scripted import post

USER = [{"role": "user", "content": "Hi"}]
MODEL = {"model": "stories"}
CHAT = {"messages": USER}
MESSAGES = {"messages": USER, "max_tokens": 2}


def content(path: str, part: Any) -> dict[str, Any]:
    key = "input" if path == "/v1/responses" else "messages"
    return {"max_tokens": 2, key: [{"role": "user", "content": part}]}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/completions", {"stop": 5}, "stop: expected text or a list, found 5"),
        ("/v1/completions", {"stop": ["a", {}]}, "stop.1: expected text, found an object"),
        ("/v1/completions", {"stop": ["x" * 2**14, "x"]},
         "stop: expected at most 16384 bytes in all, found 16385"),
        ("/v1/completions", {"prompt": [-1]},
         "prompt.0: expected a number of at least 0, text or a list, found -1"),
        ("/v1/completions", {"prompt": ["a", [1, -2]]},
         "prompt.1.1: expected a number of at least 0 or text, found -2"),
        ("/v1/completions", {"prompt": {}}, "prompt: expected text or a list, found an object"),
        ("/v1/completions", {"n": 9}, "n: expected a number of at most 8, found 9"),
        ("/v1/completions", {"n": 1.5}, "n: expected a whole number, found 1.5"),
        ("/v1/completions", {"stream": "maybe"}, "stream: expected true or false, found text"),
        ("/v1/completions", {"model": "x" * 1025},
         "model: expected at most 1,024 characters, found 1,025"),
        ("/v1/completions", {"logit_bias": [[5]]},
         "logit_bias.0.1: expected a value, found none"),
        ("/v1/completions", {"logit_bias": {"k" * 99: []}},
         f"logit_bias.{'k' * 60}: expected a number, or false for a ban, found a list"),
        ("/v1/completions", {"logit_bias": [[5, True]]},
         "logit_bias.0.1: expected a number, or false for a ban, found true"),
        ("/v1/completions", {"logit_bias": {"5": 10**400}},
         "logit_bias.5: expected a number, or false for a ban, found a longer number"),
        ("/v1/responses", {"input": "x", "metadata": dict.fromkeys(map(str, range(17)), "x")},
         "metadata: expected at most 16 values, found 17"),
        ("/v1/completions", {"seed": 10**30},
         "seed: expected a number of at most 18446744073709551615"),
        ("/v1/completions", {"stop": 5, "n": "x"},
         "n: expected a whole number, found text; stop: expected text or a list, found 5"),
        ("/v1/chat/completions", {}, "messages: expected a value, found none"),
        ("/v1/chat/completions", {"messages": [5]}, "messages.0: expected an object, found 5"),
        ("/v1/chat/completions", {"messages": []},
         "messages: expected at least 1 values, found 0"),
        ("/v1/chat/completions", {**CHAT, "reasoning_format": "x" * 99},
         "reasoning_format: expected `none`, `auto`, `deepseek` or `deepseek-legacy`, found "
         f"`{'x' * 60}`"),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "function", "function": {}}]},
         "tools.0: expected a function with a name, found {'type': 'function', 'function': {}}"),
        ("/v1/chat/completions", {**CHAT, "tool_choice": [True]},
         "tool_choice: expected text or an object, found a list"),
        ("/v1/chat/completions", content("/v1/chat/completions", [{"type": "text"}]),
         "message 0: expected text as `text` of part 0 of its content, found None"),
        ("/v1/chat/completions", content("/v1/chat/completions", [{"text": 5}]),
         "message 0: expected text as `text` of part 0 of its content, found 5"),
        ("/v1/messages", content("/v1/messages", [{"type": "text"}]),
         "messages.0.content.0.text: expected a value, found none"),
        ("/v1/messages", content("/v1/messages", [{"type": "text", "text": 5}]),
         "messages.0.content.0.text: expected text, found 5"),
        ("/v1/messages", content("/v1/messages", [{"text": "x"}]),
         "messages.0.content.0.type: expected a value, found none"),
        ("/v1/messages", content("/v1/messages", 5),
         "messages.0.content: expected text or a list of blocks"),
        ("/v1/messages", {**MESSAGES, "stop_sequences": 5},
         "stop_sequences: expected text or a list, found 5"),
        ("/v1/messages", {**MESSAGES, "thinking": {"type": "x"}},
         "thinking.type: expected `enabled`"),
        ("/v1/responses", content("/v1/responses", [{"type": "input_text"}]),
         "input.0.content.0.text: expected text, found null"),
        ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}, {"type": "function"}]},
         "tools.1.name: expected text, found null"),
        ("/v1/responses", {"input": "x", "background": True},
         "background: expected false, found true"),
        ("/api/chat", {**MODEL, **CHAT, "options": {"stop": 5}},
         "options.stop: expected text or a list, found 5"),
        ("/api/chat", {**MODEL, **CHAT, "format": "xml"},
         "format: expected empty text or `json` or an object, found `xml`"),
        ("/api/chat", {**MODEL, **CHAT, "think": "x"}, "think: expected true or false or `none`"),
        ("/detokenize", {"tokens": ["a"]}, "tokens.0: expected a whole number, found text"),
        ("/infill", {"input_suffix": 5}, "input_suffix: expected text, found 5"),
        ("/infill", {"suffix": "x"}, "suffix: write `input_suffix`"),
        ("/infill", {"input_suffix": "x"}, "/infill: this model's vocabulary has no tokens for"),
        ("/infill", {"input_extra": [{"filename": "x"}]},
         "input_extra.0.text: expected a value, found none"),
        ("/tokenize", [], "expected an object, found a list"),
        ("/tokenize", 5, "expected an object, found 5"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_message_is_one_line_that_people_can_read(
    server: Running, path: str, body: Any, message: str
) -> None:
    reply = server.http.post(path, json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    text = error if path.startswith("/api/") else error["message"]
    assert text.startswith(message)
    for word in ("constrained", "union", "function-", "literal", "Input", "[int", "dict["):
        assert word not in text


@pytest.mark.parametrize("prompt", [[1.5] * 290_000, [["a", 1.5]] * 60, ["x", 2.5, [[]]]])
@pytest.mark.parametrize("path", ["/v1/completions", "/completion", "/v1/embeddings"])
def test_many_problems_are_a_short_message_at_once(server: Running, path: str, prompt: Any) -> None:
    field = "input" if path == "/v1/embeddings" else "prompt"
    message = post(server, path, 400, **{field: prompt})["error"]["message"]
    assert message.startswith(f"{field}.")
    assert message.count(": expected ") <= 5
    assert len(message) < 500


def test_a_key_with_the_name_of_an_alternative_is_a_key(server: Running) -> None:
    body = {"input": "x", "metadata": {"str": [], "list[int]": {}}}
    message = post(server, "/v1/responses", 400, **body)["error"]["message"]
    assert message == (
        "metadata.str: expected text, found a list; "
        "metadata.list[int]: expected text, found an object"
    )
