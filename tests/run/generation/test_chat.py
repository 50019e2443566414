"""Conversations: which tools an answer calls, whatever form a model gives its calls."""

from __future__ import annotations

import json

import pytest

from gguf_hub.run.generation.chat import Call, ChatPlan

WHERE = {"city": "Köln", "days": 2}


@pytest.mark.parametrize("key", ["arguments", "parameters"], ids=["OpenAI", "Llama 3"])
@pytest.mark.parametrize("lead", ["", "\n "], ids=["", "after space"])
def test_a_call_is_read_in_the_forms_of_openai_and_llama_3(key: str, lead: str) -> None:
    text = lead + json.dumps({"name": "weather", key: WHERE})
    (call,) = ChatPlan("", tools=("weather", "tell")).calls(text)
    assert (call.name, json.loads(call.arguments)) == ("weather", WHERE)


@pytest.mark.parametrize(
    "answer",
    [
        {"name": "wether", "parameters": WHERE},
        {"name": "weather", "parameters": "Köln"},
        {"name": "weather", "input": WHERE},
        {"name": ["weather"], "parameters": WHERE},
        {"parameters": WHERE},
        [{"name": "weather", "parameters": WHERE}],
        "weather",
    ],
    ids=json.dumps,
)
def test_json_that_calls_no_tool_is_text(answer: object) -> None:
    text = json.dumps(answer)
    assert ChatPlan("", tools=("weather", "tell")).calls(text) == []
    assert ChatPlan("", tools=("weather",)).calls(text[:-1]) == []


def test_without_tools_nothing_is_a_call_and_of_a_named_tool_all_is() -> None:
    text = json.dumps({"name": "weather", "parameters": WHERE})
    assert ChatPlan("").calls(text) == []
    assert ChatPlan("", tool="tell").calls(text) == [Call("tell", text)]
