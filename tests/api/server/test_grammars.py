"""Grammars of requests: what one costs, no other client pays."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.conftest import need
from tests.api.server.running import Running
from tests.run.grammar.hostile import GRAMMARS, SCHEMAS

ENDLESS = GRAMMARS["doubling64opt"][0]


@pytest.fixture(scope="module")
def tiny(embedded: Path, kernels: None) -> Iterator[Running]:
    """The model that ships with the package, in a server."""
    need()
    with ExitStack() as stack:
        yield Running(embedded, stack, {}, n_ctx=512)


def ask(server: Running, **body: Any) -> Any:
    return server.http.post("/completion", json={"prompt": "Hello", "n_predict": 4, **body})


@pytest.mark.slow
def test_others_are_served_while_large_grammars_are_made(tiny: Running) -> None:
    with ThreadPoolExecutor(3) as pool:
        large: list[Future[Any]] = [
            pool.submit(ask, tiny, grammar=f"{ENDLESS}# {i}") for i in range(3)
        ]
        tiny.wait(lambda: tiny.service.grammar_pool._open_calls != set())
        answers = [
            ask(tiny, grammar='root ::= "ab"').json()["content"],
            ask(tiny, ignore_eos=True).json()["tokens_predicted"],
            tiny.http.get("/health").json()["status"],
        ]
        n_open = sum(not future.done() for future in large)
        replies = [future.result(60) for future in large]
    assert answers == ["ab", 4, "ok"]
    assert n_open > 0
    assert [reply.status_code for reply in replies] == [400] * 3
    assert all("it takes more than" in reply.json()["error"]["message"] for reply in replies)


def test_a_text_with_too_many_ways_ends_and_others_go_on(tiny: Running) -> None:
    body = {"prompt": "Once", "n_predict": 100, "ignore_eos": True, "stream": True}
    with ThreadPoolExecutor(1) as pool:
        has_begun = threading.Event()

        def read() -> list[Any]:
            with tiny.http.stream("POST", "/completion", json=body) as reply:
                lines = []
                for line in reply.iter_lines():
                    lines += [json.loads(line[6:])] if line else []
                    has_begun.set()
            return lines

        other = pool.submit(read)
        assert has_begun.wait(60)
        # of all tokens, only this one leads on: the letter without a space before it
        tokenizer = tiny.service.tokenizer
        letter = next(i for i in range(tokenizer.n_vocab) if tokenizer.token_bytes(i) == b"a")
        grammar = GRAMMARS["ambig_stack3"][0].replace('"d"', f'"{"d" * 200}"')
        reply = ask(tiny, grammar=grammar, n_predict=500, logit_bias={str(letter): 100})
        lines = other.result(60)
    assert reply.status_code == 400
    assert "too many ways to read the text" in reply.json()["error"]["message"]
    assert lines[-1]["tokens_predicted"] == 100


@pytest.mark.parametrize("name", ["redos_enum", "redos_names", "dag_allOf_60", "minContains_1e9"])
def test_schemas_that_look_small_are_answered(tiny: Running, name: str) -> None:
    reply = ask(tiny, json_schema=SCHEMAS[name])
    assert reply.status_code == (400 if name == "redos_enum" else 200)
    tiny.http.get("/health").raise_for_status()


def test_json_mode_may_answer_with_more_than_an_empty_object(tiny: Running) -> None:
    closing = [
        i for i in range(tiny.service.model_info.n_vocab)
        if b"}" in tiny.service.tokenizer.token_bytes(i)
    ]  # fmt: skip
    for response_format in (
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    ):
        body = {
            "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12,
            "response_format": response_format, "logit_bias": {str(i): -1e9 for i in closing},
        }  # fmt: skip
        reply = tiny.http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"].split('"')[0].strip() == "{"


# -- what is not held ------------------------------------------------------------------------------

IN_PART = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
WHERE = "at `/properties/a/uniqueItems`"


def chat(server: Running, **body: Any) -> Any:
    base = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    return server.http.post("/v1/chat/completions", json={**base, **body})


def answer_format(**more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": IN_PART, **more}}


def required_tool(**more: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": IN_PART, **more}
    return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}


def chunks(reply: Any) -> list[Any]:
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_what_is_not_held_is_a_warning_of_each_answer(tiny: Running) -> None:
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    for body in ({"response_format": answer_format()}, required_tool()):
        (warning,) = chat(tiny, **body).json()["warnings"]
        assert WHERE in warning
        *others, last, cost = chunks(chat(tiny, **body, **stream))
        assert last["warnings"] == cost["warnings"] == [warning]
        assert not any("warnings" in chunk for chunk in others)
    assert WHERE in ask(tiny, json_schema=IN_PART).json()["warnings"][0]
    assert WHERE in chunks(ask(tiny, json_schema=IN_PART, stream=True))[-1]["warnings"][0]
    assert "warnings" not in chat(tiny).json()
    assert "warnings" not in ask(tiny, json_schema={"type": "object"}).json()


def test_what_is_strict_and_cannot_be_held_is_refused_with_its_place(tiny: Running) -> None:
    for body in ({"response_format": answer_format(strict=True)}, required_tool(strict=True)):
        reply = chat(tiny, **body)
        assert reply.status_code == 400
        assert WHERE in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "field",
    [{"json_schema": schema} for schema in (
        {"enum": ["\ud83d"]}, {"properties": {"\ud83d": {}}}, {"description": "\ud83d"}
    )] + [{"grammar": 'root ::= "\ud83d"'}], ids=ascii,
)  # fmt: skip
def test_half_of_a_character_is_the_clients_error(tiny: Running, field: dict[str, Any]) -> None:
    content = json.dumps({"prompt": "Hello", **field})  # escapes the half
    headers = {"Content-Type": "application/json"}
    reply = tiny.http.post("/completion", content=content, headers=headers)
    assert reply.status_code == 400, reply.text
    assert "half of a UTF-16 surrogate pair" in reply.json()["error"]["message"]


def test_half_of_a_pattern_is_the_clients_error(tiny: Running) -> None:
    reply = ask(tiny, json_schema={"pattern": "(a"})
    assert reply.status_code == 400
    assert "schema, at `/pattern`" in reply.json()["error"]["message"]
