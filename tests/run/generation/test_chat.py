"""Conversations: which tools an answer calls, whatever form a model gives its calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gguf_hub.errors import GrammarError, UsageError
from gguf_hub.run.chat import find_format
from gguf_hub.run.generation import GrammarCache
from gguf_hub.run.generation.chat import Call, ChatPlan, plan_chat
from gguf_hub.run.grammar import Grammar
from tests.run.grammar.vocabularies import Words

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


# -- schemas of tools and answers ------------------------------------------------------------------


def tool(name: str, parameters: Any = None, **more: Any) -> dict[str, Any]:
    given = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **given, **more}}


def plan(**options: Any) -> ChatPlan:
    return plan_chat(find_format("chatml"), [{"role": "user", "content": "Hi"}], **options)


CITY = {
    "type": "object",
    "properties": {"to": {"$ref": "#/$defs/X"}, "via": {"$ref": "#/properties/to"}},
    "required": ["to"],
    "$defs": {"X": {"type": "string"}},
}
COUNT = {
    "type": "object",
    "properties": {"n": {"$ref": "#/$defs/X"}, "more": {"$ref": "#"}},
    "required": ["n"],
    "$defs": {"X": {"type": "integer"}},
}


def test_references_in_parameters_mean_the_tools_own_document() -> None:
    tools = [tool("go", CITY), tool("a/b~c%", COUNT), tool("go", COUNT), tool("free")]
    grammar = Grammar.from_schema(plan(tools=tools, tool_choice="required").schema)
    for name, arguments, expected in [
        ("go", {"to": "x", "via": "y"}, True),
        ("go", {"to": 1}, False),
        ("go", {"to": "x", "via": 1}, False),
        ("go", {"n": 1}, True),  # the second of this name
        ("a/b~c%", {"n": 1, "more": {"n": 2}}, True),
        ("a/b~c%", {"n": "x"}, False),
        ("a/b~c%", {"n": 1, "more": {"n": "x"}}, False),
        ("free", {}, True),
        ("free", {"any": {"name": [1, {"at": "all"}]}}, True),
        ("free", 1, False),
        ("other", {}, False),
    ]:
        text = json.dumps({"name": name, "arguments": arguments})
        assert grammar.accepts(text) == expected, text


@pytest.mark.parametrize("properties", [None, {}], ids=["none", "empty"])
def test_a_tool_without_parameters_takes_any(properties: Any) -> None:
    given = {} if properties is None else {"properties": properties}
    for parameters in (None, {"type": "object", **given}, given):
        schema = plan(tools=[tool("a", parameters)], tool_choice="required").schema
        assert Grammar.from_schema(schema).accepts('{"x": {"y": [1]}, "z": null}')


def answer_format(**inner: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": inner}


HELD_IN_PART = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, False),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {}, "strict": True},
                }
            },
            True,
        ),
        ({"tools": [tool("a")], "tool_choice": "required"}, False),
        ({"tools": [tool("a", strict=True)], "tool_choice": "required"}, True),
        ({"tools": [tool("a", strict=True), tool("b")], "tool_choice": "b"}, False),
        ({"tools": [tool("a", strict=True), tool("b")], "tool_choice": "any"}, True),
    ],
)
def test_strict_is_that_of_the_answer_or_of_the_tools_to_be_called(
    options: dict[str, Any], expected: bool
) -> None:
    assert plan(**options).strict == expected


def test_a_strict_tool_that_the_model_may_call_is_warned_of() -> None:
    free = plan(tools=[tool("a", strict=True), tool("b")])
    assert len(free.warnings) == 1 and "`strict` of `a` is not held" in free.warnings[0]
    assert plan(tools=[tool("b")]).warnings == ()


def test_a_schema_of_an_answer_that_is_no_object_is_refused() -> None:
    with pytest.raises(UsageError, match="expected an object as `json_schema`, found 'x'"):
        plan(response_format={"type": "json_schema", "json_schema": "x"})


def test_a_grammar_goes_before_a_schema_and_what_is_not_held_is_said() -> None:
    cache = GrammarCache(Words("1", "a", "[", "]"))
    assert cache.constraint(None).matcher is None
    both = cache.constraint('root ::= "a"', {"type": "integer"})
    assert both.matcher is not None and both.matcher.mask().tolist() == [False, True, *[False] * 3]
    assert both.warnings == ("the schema is not held: there is a grammar",)
    with pytest.raises(GrammarError, match="there is a grammar, and it is strict"):
        cache.constraint('root ::= "a"', {}, strict=True)
    for schema in (HELD_IN_PART, json.dumps(HELD_IN_PART)):
        (warning,) = cache.constraint(None, schema).warnings
        assert warning.startswith("schema, at `/properties/x/uniqueItems`: `uniqueItems` can be")
        with pytest.raises(GrammarError, match="at `/properties/x/uniqueItems`"):
            cache.constraint(None, schema, strict=True)
    with pytest.raises(GrammarError, match="expected what JSON can hold"):
        cache.constraint(None, {"enum": [{1, 2}]})
