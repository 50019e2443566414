"""Methods show llama-cpp-python's parameters and take them by position in its order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.llama import Llama
from tests.api.llama.make_signatures import METHODS, signature

PEER = json.loads(Path(__file__).with_name("signatures.json").read_text())
OWN = {"__init__": {"cluster"}, "from_pretrained": {"revision"},
       "create_chat_completion": {"stream_options"}}  # fmt: skip
FREE = {"options", "more", "kwargs"}
"""Names of ``**`` parameters."""


@pytest.fixture(scope="module")
def llm(embedded: Path, kernels: None) -> Iterator[Llama]:
    with Llama(embedded, n_ctx=128, verbose=False) as model:
        yield model


@pytest.mark.parametrize("name", METHODS)
def test_the_parameters_are_the_same(name: str) -> None:
    more = OWN.get(name, set()) | FREE
    found = [row for row in signature(getattr(Llama, name)) if row[0] not in more]
    assert found == [row for row in PEER[name] if row[0] not in FREE]


def test_arguments_may_stand_in_their_order(llm: Llama) -> None:
    named: Any = llm(prompt="Once", max_tokens=8, temperature=0.0, logprobs=1, stop="a")
    placed: Any = llm("Once", None, 8, 0.0, 0.95, 0.05, 1.0, 1, False, "a")
    assert placed["choices"] == named["choices"]
    turns = [{"role": "user", "content": "Hi"}]
    answer: Any = llm.create_chat_completion(turns, None, None, None, None, 0.0, max_tokens=4)
    assert answer["usage"]["completion_tokens"] == 4
    tokens = llm.tokenize(b"Once upon")
    first = next(llm.generate(tokens, 1))
    assert first == llm.sample(1) == next(llm.generate(tokens, temp=0.0))


@pytest.mark.parametrize(
    ("given", "options", "problem"),
    [
        (["a"], {"prompt": "b"}, "multiple values for argument 'prompt'"),
        (["a"] * 40, {}, "takes at most 26 positional arguments but 41 were given"),
        ([], {}, "prompt"),
    ],
)
def test_wrong_calls_are_type_errors(
    llm: Llama, given: list[Any], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TypeError, match=problem):
        llm(*given, **options)
