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
