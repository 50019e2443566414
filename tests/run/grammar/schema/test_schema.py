"""JSON schemas as grammars: what is accepted, what is refused, and that all output is valid."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar import Grammar, TokenGrammar, TokenTrie
from tests.run.grammar.schema.random_schemas import SCHEMAS
from tests.run.grammar.vocabularies import Words

VOCAB = Words(*(bytes([byte]) for byte in range(256)), '":', '", "', '{"', '"}', "true", "  ")
TRIE = TokenTrie(VOCAB)
CLOSING = [VOCAB.words.index(char.encode()) for char in '"]}el0']


def write(grammar: Grammar, rng: random.Random) -> str | None:
    """Return a text that the masks allow, any token at random; None when it has no end in sight."""
    matcher = TokenGrammar(grammar, TRIE).matcher()
    out = b""
    for i in range(2000):
        allowed = np.flatnonzero(matcher.mask()[:-1]).tolist()
        if matcher.is_complete and (not allowed or rng.random() < 0.6 or i > 200):
            return out.decode()
        assert allowed, f"stuck after {out!r}"
        closing = [token_id for token_id in CLOSING if token_id in allowed]
        if i > 60 and closing and rng.random() < 0.9:
            allowed = closing
        token_id = rng.choice(allowed)
        matcher.accept(token_id)
        out += VOCAB.words[token_id]
    return None


def accepted(schema: Any, *values: Any) -> list[bool]:
    grammar = Grammar.from_schema(schema)
    return [grammar.accepts(json.dumps(value, ensure_ascii=False)) for value in values]


NODE = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/n"}},
        "required": ["v"]}  # fmt: skip
OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {}, "c": {"type": "string"}},
    "required": ["b"],
}

# name -> schema, values that its grammar accepts, values that it does not
CASES: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "anything": ({}, [1, "a", None, [1, {"a": []}], -1.5e10, "é\n\\"], []),
    "types": ({"type": ["integer", "null"]}, [1, -20, 0, None], ["a", 1.5, True]),
    "text": ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "é🦙\n"], ["a", "abcd"]),
    "pattern": (
        {"type": "string", "pattern": "^[a-c]{2,3}-\\d+$"},
        ["ab-1", "abc-22"],
        ["ab", "xab-1"],
    ),
    "searched": ({"type": "string", "pattern": "a[bc]|^x"}, ["ab", "zacz", "xy"], ["cb", "yx"]),
    "pattern and length": (
        {"pattern": "^[a-z]+\\d*$", "maxLength": 3, "type": "string"},
        ["abc", "a"],
        ["abcd", "1"],
    ),
    "pattern of counted length": (
        {"type": "string", "pattern": "^(ab|cde)+x{0,2}$", "minLength": 3, "maxLength": 5},
        ["abx", "abxx", "abab", "cde", "abcde", "cdexx"],
        ["ab", "ababx" + "x", "cdeab" + "x"],
    ),
    "pattern of least length": (
        {"type": "string", "pattern": "^(a[bc])*d?$", "minLength": 3},
        ["abd", "abac", "abac" * 9],
        ["ab", "d", ""],
    ),
    "escaped": ({"type": "string", "pattern": '^["\\\\/\n]$'}, ['"', "\\", "/", "\n"], ["a"]),
    "date": (
        {"type": "string", "format": "date"},
        ["2024-02-28", "1999-12-31"],
        ["2023-02-30", "x"],
    ),
    "format of OpenAPI": ({"type": "string", "format": "password"}, ["x"], [1]),
    "enum": ({"enum": ["a", 1, None, [1, 2]]}, ["a", 1, None], ["b", 2]),
    "enum with type": ({"enum": ["a", 1, 2.5], "type": "number", "minimum": 2}, [2.5], ["a", 1]),
    "const": ({"const": {"a": [1]}}, [{"a": [1]}], [{"a": [2]}]),
    "whole numbers": (
        {"type": "integer", "minimum": -12, "maximum": 105},
        [-12, -9, 0, 99, 105],
        [-13, 106, 1.5],
    ),
    "over": ({"type": "integer", "exclusiveMinimum": 9}, [10, 123456], [9, -10]),
    "under": ({"type": "integer", "maximum": -5}, [-5, -77], [-4, 0, 5]),
    "numbers": (
        {"type": "number", "minimum": -1.5, "exclusiveMaximum": 2},
        [-1.5, 0, 1.99, 0.25],
        [-1.51, 2, 5],
    ),
    "narrow": (
        {"type": "number", "minimum": 0.125, "maximum": 0.1251},
        [0.125, 0.12505],
        [0, 0.1252],
    ),
    "multiples": ({"type": "integer", "multipleOf": 7}, [0, 7, -7007, 14], [1, 15]),
    "multiples from": (
        {"type": "integer", "multipleOf": 5, "minimum": 12},
        [15, 20, 100],
        [10, 16],
    ),
    "multiples to": (
        {"type": "integer", "multipleOf": 100, "maximum": -150},
        [-200, -300],
        [-100, -250],
    ),
    "wide multiples": ({"type": "integer", "multipleOf": 1000}, [0, 1000, -3000], [500]),
    "halves": ({"type": "integer", "multipleOf": 0.5, "minimum": 1, "maximum": 3}, [1, 2, 3], [4]),
    "every": ({"type": "integer", "multipleOf": 1, "minimum": 3}, [3, 4], [2]),
    "array": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        [[1], [1, 2]],
        [[], [1, 2, 3], ["a"]],
    ),
    "tuple": (
        {"type": "array", "prefixItems": [{"type": "integer"}, {}], "items": False},
        [[], [1], [1, "a"]],
        [["a"], [1, 2, 3]],
    ),
    "tuple of old": (
        {"type": "array", "items": [{"type": "integer"}], "additionalItems": {"type": "null"}},
        [[1], [1, None]],
        [[1, 2]],
    ),
    "short tuple": (
        {"type": "array", "prefixItems": [{}, {}, {}], "maxItems": 1},
        [[], [1]],
        [[1, 2]],
    ),
    "contains": ({"type": "array", "contains": {"const": 5}}, [[5], [5, 1]], [[], [1]]),
    "contains some": (
        {"type": "array", "contains": {"type": "null"}, "minContains": 2, "maxContains": 3},
        [[None, None]],
        [[None], [None] * 4],
    ),
    "contains at any place": (
        {
            "type": "array",
            "contains": {"const": 5},
            "minContains": 2,
            "maxContains": 2,
            "prefixItems": [{"type": "integer"}],
            "minItems": 3,
            "maxItems": 4,
        },
        [[5, "a", 5], [1, 5, 5], [1, 5, "a", 5], [5, 5, "a", None]],
        [[5, 5], [5, 5, 5], ["a", 5, 5], [1, 2, 5], [5, 5, 1, 2, 3]],
    ),
    "different in any order": (
        {"type": "array", "items": {"enum": ["a", 1, None]}, "uniqueItems": True, "maxItems": 2},
        [[], [None, "a"], ["a", None], [1, "a"]],
        [["a", "a"], [1, "a", None]],
    ),
    "one of two that overlap": (
        {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "integer", "maximum": 10}]},
        [11, -1],
        [0, 5, 10],
    ),
    "one of two patterns": (
        {"type": "string", "oneOf": [{"pattern": "^a"}, {"pattern": "b$"}]},
        ["ac", "cb", "a"],
        ["ab", "acb", "c"],
    ),
    "quarters": (
        {"type": "number", "multipleOf": 0.25},
        [1.25, 3, 0, -0.5, 100.75],
        [0.1, 1.3, 0.26],
    ),
    "thirds of halves": ({"type": "number", "multipleOf": 1.5}, [3, 4.5, -1.5, 0], [1, 2.5, 4]),
    "twentieths between": (
        {"type": "number", "multipleOf": 0.05, "minimum": 0.1, "exclusiveMaximum": 0.3},
        [0.1, 0.25],
        [0.05, 0.12, 0.3],
    ),
    "a bound is what is written": ({"type": "number", "minimum": 1.1}, [1.1, 1.2], [1, 1.09]),
    "ids of 64 bits": ({"type": "integer", "minimum": 0}, [9223372036854775807], [-1]),
    "closed after branches": (
        {
            "type": "object",
            "properties": {"a": {}},
            "anyOf": [{"properties": {"b": {}}, "required": ["b"]}, {"properties": {"c": {}}}],
            "unevaluatedProperties": False,
        },
        [{"a": 1, "b": 2}, {"a": 1, "c": 3}, {}],
        [{"a": 1, "d": 1}, {"b": 1, "d": 1}],
    ),
    "names of a schema inside of another": (
        {
            "$id": "https://x.y/z",
            "$ref": "one",
            "$defs": {
                "1": {
                    "$id": "one",
                    "type": "array",
                    "items": {"$ref": "#/$defs/x"},
                    "$defs": {"x": {"$ref": "two#x"}},
                },
                "2": {"$id": "two", "$defs": {"x": {"$anchor": "x", "type": "null"}}},
            },
        },
        [[None], []],
        [[1]],
    ),
    "different": (
        {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 2},
        [[1, 2], [1, 2, 3], [1, 3]],
        [[1], [1, 1]],
    ),
    "different booleans": (
        {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True},
        [[], [True, False]],
        [[True, True]],
    ),
    "object": (OBJECT, [{"b": 1}, {"a": 1, "b": [], "c": "x"}], [{}, {"a": 1}, {"b": 1, "d": 2}]),
    "any object": ({"type": "object"}, [{}, {"a": 1, "é\n": [{"b": {}}]}], [1, []]),
    "any object, said so": (
        {"type": "object", "additionalProperties": True, "description": "x"},
        [{}, {"a": {"b": None}}],
        [1],
    ),
    "any array": ({"type": "array"}, [[], [1, {"a": [None]}, "x"]], [{}]),
    "any object inside": (
        {"type": "object", "properties": {"o": {"type": "object"}}, "required": ["o"]},
        [{"o": {}}, {"o": {"a": 1, "b": {"c": 2}}}],
        [{}, {"o": 1}, {"o": {}, "a": 1}],
    ),
    "any objects": ({"type": "array", "items": {"type": "object"}}, [[{"a": 1}, {}]], [[1]]),
    "any object of some": ({"type": ["object", "null"]}, [None, {"a": 1}], [1]),
    "no properties": ({"type": "object", "properties": {}}, [{}, {"a": {"b": 1}}], [1]),
    "a forbidden property": (
        {"type": "object", "properties": {"a": False}},
        [{}, {"b": 1}],
        [{"a": 1}],
    ),
    "none additional": ({"type": "object", "additionalProperties": False}, [{}], [{"a": 1}]),
    "additional objects": (
        {"type": "object", "additionalProperties": {"type": "object"}},
        [{}, {"a": {"b": 1}}],
        [{"a": 1}],
    ),
    "required only": (
        {"type": "object", "required": ["a"]},
        [{"a": 1}, {"a": {}, "b": 2}],
        [{}, {"b": 2}],
    ),
    "any names": (
        {"type": "object", "propertyNames": {"pattern": "^[a-z]$"}},
        [{}, {"a": 1, "b": {}}],
        [{"A": 1}],
    ),
    "some of any": ({"type": "object", "minProperties": 1}, [{"a": 1}, {"x": 1, "y": 2}], [{}]),
    "few of any": ({"type": "object", "maxProperties": 1}, [{}, {"x": 1}], [{"x": 1, "y": 2}]),
    "one more than declared": (
        {
            "type": "object",
            "properties": {"a": {}},
            "additionalProperties": True,
            "minProperties": 2,
            "maxProperties": 2,
        },
        [{"a": 1, "b": 2}],
        [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2, "c": 3}],
    ),
    "additional": (
        {
            "type": "object",
            "properties": {"a": {"type": "null"}},
            "additionalProperties": {"type": "integer"},
        },
        [{"a": None, "ab": 1, "": 2}, {"b": 3}],
        [{"a": None, "b": "x"}, {"a": 1}],
    ),
    "key names": (
        {
            "type": "object",
            "additionalProperties": True,
            "propertyNames": {"pattern": "^[a-z]+$", "maxLength": 2},
        },
        [{"ab": 1}, {}],
        [{"A": 1}, {"abc": 1}],
    ),
    "key lengths": (
        {"type": "object", "additionalProperties": True, "propertyNames": {"minLength": 2}},
        [{"ab": 1}],
        [{"a": 1}],
    ),
    "key patterns": (
        {"type": "object", "patternProperties": {"^x": {"type": "integer"}}},
        [{"x1": 1}, {}],
        [{"x": "a"}],
    ),
    "declared key patterns": (
        {
            "type": "object",
            "properties": {"xa": {}},
            "patternProperties": {"^x": {"type": "integer"}},
        },
        [{"xa": 1}],
        [{"xa": "b"}],
    ),
    "counts": (
        {
            "type": "object",
            "properties": {"a": {}, "b": {}, "c": {}},
            "minProperties": 1,
            "maxProperties": 2,
        },
        [{"a": 1}, {"b": 1, "c": 1}],
        [{}, {"a": 1, "b": 1, "c": 1}],
    ),
    "names from a list": (
        {"type": "object", "minProperties": 1, "propertyNames": {"enum": ["zz"]}},
        [{"zz": 1}],
        [{}, {"a": 1}],
    ),
    "names from a pattern": (
        {
            "type": "object",
            "minProperties": 1,
            "patternProperties": {"^ab$": {"const": 1}},
            "additionalProperties": False,
        },
        [{"ab": 1}],
        [{}, {"ab": 2}],
    ),
    "keys of two patterns": (
        {
            "type": "object",
            "patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 5}},
            "required": ["ab"],
        },
        [{"ab": 5}, {"ab": 9, "a": 2, "xb": 5, "axb": 7}],
        [{}, {"ab": 4}, {"ab": 5, "a": "x"}, {"ab": 5, "xb": 4}, {"ab": 5, "x": 1}],
    ),
    "key names that are no texts": (
        {"type": "object", "additionalProperties": True, "propertyNames": {"type": "null"}},
        [{}],
        [{"a": 1}],
    ),
    "key names by choice": (
        {
            "additionalProperties": True,
            "propertyNames": {"anyOf": [{"const": "a"}]},
            "required": ["a"],
            "type": "object",
        },
        [{"a": 1}],
        [{"b": 1}],
    ),
    "required undeclared": (
        {"type": "object", "required": ["a"], "additionalProperties": {"type": "integer"}},
        [{"a": 1}],
        [{"a": "x"}],
    ),
    "all of": (
        {"allOf": [OBJECT, {"required": ["c"]}, {"properties": {"c": {"minLength": 2}}}]},
        [{"b": 1, "c": "xy"}],
        [{"b": 1}, {"b": 1, "c": "x"}],
    ),
    "closed by one": (
        {
            "allOf": [
                {"properties": {"a": {}}, "additionalProperties": False},
                {"properties": {"b": {}}},
            ],
            "type": "object",
        },
        [{"a": 1}],
        [{"b": 1}],
    ),
    "any of": (
        {"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "x"},
        [1, None],
        ["a"],
    ),
    "any of two": (
        {
            "allOf": [
                {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                {"anyOf": [{"type": "string"}, {"type": "null"}]},
            ]
        },
        ["a"],
        [1, None],
    ),
    "one of": (
        {
            "oneOf": [
                {"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]},
                {"type": "object", "properties": {"k": {"const": "b"}, "x": {}}, "required": ["k"]},
            ]
        },
        [{"k": "a"}, {"k": "b", "x": 1}],
        [{"k": "c"}, {"k": "a", "x": 1}],
    ),
    "one of by keys": (
        {
            "oneOf": [
                {"type": "object", "properties": {"a": {}}, "required": ["a"]},
                {"type": "object", "properties": {"b": {}}, "required": ["b"]},
            ]
        },
        [{"a": 1}, {"b": 1}],
        [{}],
    ),
    "one of values": ({"oneOf": [{"enum": [1, 2]}, {"type": "string"}]}, [1, "a"], [3]),
    "not a type": ({"not": {"type": ["string", "object"]}}, [1, None, []], ["a", {}]),
    "not texts": ({"type": "string", "not": {"enum": ["a", "ab"]}}, ["b", "abc", ""], ["a", "ab"]),
    "not texts of a length": (
        {"type": "string", "minLength": 1, "not": {"const": "x"}},
        ["y"],
        ["x", ""],
    ),
    "not texts of a pattern": (
        {"type": "string", "pattern": "^[ab]$", "not": {"const": "a"}},
        ["b"],
        ["a"],
    ),
    "not numbers": ({"type": "integer", "not": {"enum": [3, 5]}}, [2, 4, 6], [3, 5]),
    "not over": ({"type": "number", "not": {"minimum": 3}}, [2.5], [3, 4]),
    "not long": ({"type": "array", "not": {"maxItems": 1}}, [[1, 2]], [[], [1]]),
    "not with": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "not": {"required": ["a"]}},
        [{"b": 1}, {}],
        [{"a": 1}],
    ),
    "not either": ({"not": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, [1], ["a", None]),
    "not not": ({"not": {"not": {"type": "string"}}}, ["a"], [1]),
    "not true or false": ({"type": "boolean", "not": {"const": True}}, [False], [True]),
    "condition": (
        {
            "type": "object",
            "properties": {"c": {"type": "string"}, "zip": {"type": "string"}},
            "required": ["c", "zip"],
            "if": {"properties": {"c": {"const": "US"}}},
            "then": {"properties": {"zip": {"pattern": "^[0-9]{2}$"}}},
            "else": {"properties": {"zip": {"pattern": "^[A-Z]$"}}},
        },
        [{"c": "US", "zip": "12"}, {"c": "FR", "zip": "A"}],
        [{"c": "US", "zip": "A"}, {"c": "FR", "zip": "12"}],
    ),
    "needs": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
        [{}, {"b": 1}, {"a": 1, "b": 2}],
        [{"a": 1}],
    ),
    "old needs": (
        {
            "type": "object",
            "properties": {"a": {}, "b": {}},
            "dependencies": {"a": {"required": ["b"]}},
        },
        [{"a": 1, "b": 2}],
        [{"a": 1}],
    ),
    "old bounds": (
        {
            "type": "integer",
            "minimum": 3,
            "exclusiveMinimum": True,
            "maximum": 5,
            "exclusiveMaximum": False,
        },
        [4, 5],
        [3, 6],
    ),
    "reference": (
        {"$ref": "#/$defs/n", "$defs": {"n": NODE}},
        [{"v": 1}, {"v": 1, "next": {"v": 2}}],
        [{}, {"v": 1, "next": 2}],
    ),
    "reference and more": (
        {"$ref": "#/$defs/a~1b", "minimum": 3, "$defs": {"a/b": {"type": "integer"}}},
        [3],
        [2, "a"],
    ),
    "reference into a list": ({"$ref": "#/anyOf/1", "anyOf": [{}, {"type": "null"}]}, [None], [1]),
    "unevaluated": (
        {"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False},
        [{"a": 1}],
        [{"b": 1}],
    ),
    "a branch without end": (
        {
            "anyOf": [{"$ref": "#/$defs/e"}, {"type": "null"}],
            "$defs": {
                "e": {
                    "type": "object",
                    "properties": {"x": {"$ref": "#/$defs/e"}},
                    "required": ["x"],
                }
            },
        },
        [None],
        [{}],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_schema_accepts_what_satisfies_it(name: str) -> None:
    schema, good, bad = CASES[name]
    assert accepted(schema, *good) == [True] * len(good)
    assert accepted(schema, *bad) == [False] * len(bad)
    validator = jsonschema.Draft202012Validator(schema)
    if "old" not in name:
        assert [value for value in good if not validator.is_valid(value)] == []


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_satisfies_the_schema(name: str) -> None:
    schema = CASES[name][0]
    grammar, rng = Grammar.from_schema(schema), random.Random(name)
    draft = jsonschema.Draft4Validator if "old" in name else jsonschema.Draft202012Validator
    for _ in range(3):
        text = write(grammar, rng)
        assert text is None or not list(draft(schema).iter_errors(json.loads(text))), text


@pytest.mark.parametrize("name", ["object", "reference", "additional", "escaped", "numbers"])
def test_the_grammar_as_text_means_the_same(name: str) -> None:
    schema, good, bad = CASES[name]
    again = Grammar.from_gbnf(Grammar.from_schema(schema).to_gbnf())
    assert all(again.accepts(json.dumps(value)) for value in good)
    assert not any(again.accepts(json.dumps(value)) for value in bad)


def test_json_may_be_laid_out_in_lines() -> None:
    grammar = Grammar.from_schema(OBJECT)
    value = {"a": 1, "b": {"x": [1, 2]}, "c": "y"}
    assert grammar.accepts(json.dumps(value, indent=4)) and grammar.accepts(json.dumps(value))
    assert grammar.accepts(json.dumps(value, separators=(",", ":")))


def test_what_openapi_calls_nullable_may_be_null() -> None:
    assert accepted({"type": "string", "nullable": True}, "a", None, 1) == [True, True, False]


def test_multiples_of_decimals_are_held_by_their_digits_with_a_warning() -> None:
    schema = {"type": "number", "multipleOf": 0.01}
    good, bad = ["1.1", "0.29", "3", "0", "0.07"], ["0.001", "1.005", "1.123"]
    for bounds in ({}, {"minimum": 0}, {"minimum": 0, "exclusiveMaximum": 100}):
        grammar = Grammar.from_schema({**schema, **bounds}, strict=False)
        assert [text for text in [*good, *bad] if grammar.accepts(text)] == good
        assert grammar.accepts("-3") == (not bounds)
    assert not grammar.accepts("100") and grammar.accepts("99.99")
    assert "held by decimal digits" in grammar.left_out[0].reason
    with pytest.raises(GrammarError, match=r"at `/multipleOf`: `multipleOf` of 0\.01 is held"):
        Grammar.from_schema(schema)


def test_a_schema_may_be_text() -> None:
    assert Grammar.from_schema('{"type": "null"}').accepts("null")


REFUSED: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "expected JSON"),
    "no schema": (5, "expected a dict or true or false"),
    "no type": ({"type": "text"}, "no type `text`"),
    "malformed": ({"properties": 5}, "malformed"),
    "nothing": (False, "found no value"),
    "infinite": ({"type": "integer", "minimum": float("inf")}, "malformed"),
    "more than may be": (
        {"type": "object", "minProperties": 2, "maxProperties": 1, "properties": {"a": {}}},
        "found no value",
    ),
    "contradiction": ({"allOf": [{"type": "string"}, {"type": "null"}]}, "found no value"),
    "empty enum": ({"enum": [1], "type": "string"}, "found no value"),
    "bounds": ({"type": "integer", "minimum": 5, "maximum": 4}, "found no value"),
    "lengths": ({"type": "string", "minLength": 5, "maxLength": 4}, "found no value"),
    "items": ({"type": "array", "minItems": 5, "maxItems": 4}, "found no value"),
    "no end": (
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        "found no value",
    ),
    "itself": ({"$ref": "#"}, "refers to itself without end"),
    "outside": ({"$ref": "http://x/y"}, "leaves the document"),
    "nowhere": ({"$ref": "#/$defs/x"}, "points to nothing"),
    "dynamic": ({"$dynamicRef": "#x"}, "at `/\\$dynamicRef`: `#x` points to nothing"),
    "dynamic choice": (
        {
            "$defs": {f"{i}": {"$id": f"{i}", "$dynamicAnchor": "x"} for i in range(2)},
            "$ref": "1",
            "items": {"$id": "0", "$dynamicRef": "#x", "$dynamicAnchor": "x"},
        },
        "at `/items/\\$dynamicRef`: `\\$dynamicRef` has 3 anchors `x` to choose from",
    ),
    "unknown format": ({"type": "string", "format": "poem"}, "`format` `poem` is not known"),
    "names that may repeat": (
        {"type": "object", "minProperties": 2},
        "at `/minProperties`: `minProperties` counts a name again",
    ),
    "keys of a pattern that cannot be followed": (
        {"type": "object", "patternProperties": {"(?=a)": {"type": "null"}}, "required": ["a"]},
        "look ahead or behind",
    ),
    "half a pair": ({"enum": ["a", "\ud83d"]}, "at `/enum/1`: expected a text, found half of a"),
    "half a pair in a key": ({"properties": {"\ud83d": {}}}, r"at `/properties \(a key\)`"),
    "unknown": ({"type": "string", "maximumLength": 5}, "`maximumLength` is not known"),
    "different texts": (
        {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
        "`uniqueItems`",
    ),
    "many different": (
        {"type": "array", "uniqueItems": True, "items": {"enum": list(range(99))}},
        "over 60",
    ),
    "one of alike": (
        {"type": "object", "oneOf": [{"additionalProperties": {"type": "null"}}] * 2},
        "at `/oneOf`: `oneOf` has options 0 and 1, which may both match",
    ),
    "one of the same": ({"oneOf": [{"type": "integer"}] * 2}, "found no value"),
    "look-ahead": ({"type": "string", "pattern": "(?=a)b"}, "look ahead"),
    "word boundary": ({"type": "string", "pattern": "\\ba"}, "at `/pattern`: `pattern` `.ba`"),
    "back-reference": ({"type": "string", "pattern": "(a)\\1"}, "`\\\\1` is not supported"),
    "no pattern": ({"type": "string", "pattern": "("}, "no regular expression"),
    "long pattern": (
        {"type": "string", "pattern": "^[a-z]*[0-9]*$", "maxLength": 9000},
        "at `/maxLength`: `maxLength` together with its neighbours it takes over 3,000 states",
    ),
    "fractions": ({"type": "number", "multipleOf": 0.012345}, "`multipleOf` of 0.012345"),
    "no multiples": ({"type": "number", "multipleOf": 0}, "expected over 0"),
    "not a name": ({"type": "object", "not": {"propertyNames": {"maxLength": 3}}}, "`not`"),
    "no key pattern": (
        {"type": "object", "patternProperties": {"(": {}}, "required": ["a"]},
        "pattern",
    ),
    "too many counts": (
        {"type": "object", "properties": {f"p{i}": {} for i in range(90)}, "minProperties": 80},
        "too many rules",
    ),
    "many must match": (
        {"type": "array", "contains": {"type": "string"}, "minContains": 10**9},
        "at `/contains`: `contains` with such numbers of items",
    ),
    "large steps": (
        {"allOf": [{"type": "integer", "multipleOf": 10**17 + i} for i in (1, 3)]},
        "`multipleOf` of several steps",
    ),
    "many alike": (
        {"oneOf": [{"type": "string", "minLength": i} for i in range(301)]},
        "too many to tell",
    ),
}


@pytest.mark.parametrize(("schema", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_held_is_refused(schema: Any, problem: str) -> None:
    with pytest.raises(GrammarError, match=problem):
        Grammar.from_schema(schema)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "uniqueItems": True}, ["a", "a"]),
        ({"type": "string", "pattern": "(?=a)b"}, "b"),
        ({"type": "string", "maximumLength": 5}, "abcdefg"),
        ({"type": "string", "format": "poem"}, "x"),
        ({"type": "object", "minProperties": 2}, {"a": 1, "b": 2}),
        ({"type": "object", "not": {"propertyNames": {"maxLength": 3}}}, {"a": 1}),
        ({"type": "number", "multipleOf": 0.012345}, 3),
    ],
    ids=str,
)
def test_what_cannot_be_held_is_left_out_when_allowed(schema: Any, value: Any) -> None:
    keyword = list(schema)[-1]
    inner = {"type": "object", "properties": {"a/b": {"anyOf": [{"type": "null"}, schema]}}}
    grammar = Grammar.from_schema(inner, strict=False)
    assert grammar.accepts(json.dumps({"a/b": value}))
    (left_out,) = grammar.left_out
    assert left_out.pointer == f"/properties/a~1b/anyOf/1/{keyword}"
    assert f"`{keyword}`" in left_out.reason
    with pytest.raises(GrammarError, match=f"at `/properties/a~1b/anyOf/1/{keyword}`"):
        Grammar.from_schema(inner)


def test_large_schemas_are_fine_and_endless_ones_refused() -> None:
    names = [f"property {i}" for i in range(80)]
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in names}}
    assert accepted(schema, dict.fromkeys(names, 1), {names[50]: 2}) == [True, True]
    deep: Any = {}
    for _ in range(2000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(GrammarError, match=r"too deeply|too large"):
        Grammar.from_schema(deep)


# Schemas at random


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture,
                           HealthCheck.data_too_large],
)  # fmt: skip
@given(schema=SCHEMAS, seed=st.integers(0, 9999))
def test_all_output_of_any_schema_is_valid(schema: Any, seed: int) -> None:
    try:
        grammar = Grammar.from_schema(schema)
    except GrammarError as exc:
        assert "malformed" not in str(exc)
        return
    rng = random.Random(seed)
    for _ in range(2):
        text = write(grammar, rng)
        if text is not None:
            errors = list(jsonschema.Draft202012Validator(schema).iter_errors(json.loads(text)))
            assert errors == [], text


def test_a_reference_may_be_met_on_many_ways() -> None:
    levels: dict[str, Any] = {
        f"L{i}": {"allOf": [{"$ref": f"#/$defs/L{i + 1}"}] * 2} for i in range(60)
    }
    schema = {"$defs": {**levels, "L60": {"type": "string"}}, "$ref": "#/$defs/L0"}
    assert accepted(schema, "a", 1) == [True, False]
    checked = {"$defs": schema["$defs"], "enum": ["a", 1], "not": {"$ref": "#/$defs/L21"}}
    assert accepted(checked, "a", 1) == [False, True]


def test_options_with_a_tag_are_told_apart_however_many() -> None:
    schema = {
        "oneOf": [
            {"type": "object", "required": ["k"], "properties": {"k": {"const": i}}}
            for i in range(200)
        ]
    }
    assert accepted(schema, {"k": 199}, {"k": 200}) == [True, False]


def test_the_first_character_of_a_free_object_may_begin_a_key() -> None:
    matcher = TokenGrammar(Grammar.from_schema({"type": "object"}), TRIE).matcher()
    matcher.accept(VOCAB.words.index(b"{"))
    assert matcher.mask()[[VOCAB.words.index(b'"'), VOCAB.words.index(b"}")]].all()
