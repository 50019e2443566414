"""The small validator against the one that everybody uses."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from gguf_hub.run.grammar.schema.check import CannotCheck, canonical, conforms, json_type
from gguf_hub.run.grammar.schema.disjoint import are_disjoint
from gguf_hub.run.grammar.schema.merge import Document, NotSupported
from gguf_hub.run.grammar.schema.negate import negate
from tests.run.grammar.schema.random_schemas import DOCUMENTS, SCHEMAS

MANY = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def holds(value: Any, schema: Any) -> bool:
    return conforms(value, schema, Document(schema).resolve)


def is_valid(value: Any, schema: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


@MANY
@given(schema=SCHEMAS, value=DOCUMENTS)
def test_values_conform_as_jsonschema_says(schema: Any, value: Any) -> None:
    try:
        found = holds(value, schema)
    except CannotCheck as exc:
        assert "`unevaluated" in str(exc)
        return
    assert found == is_valid(value, schema)


@MANY
@given(schema=SCHEMAS, value=DOCUMENTS)
def test_what_a_negation_allows_fails_the_schema(schema: Any, value: Any) -> None:
    try:
        choices = negate(schema, Document(schema))
        allowed = any(_unlike_holds(value, choice) for choice in choices)
    except (NotSupported, CannotCheck):
        return
    assert not (allowed and is_valid(value, schema))


def _unlike_holds(value: Any, choice: Any) -> bool:
    """Check a choice; ``_unlike`` is not JSON Schema's and only used beside a type."""
    if isinstance(choice, dict) and "_unlike" in choice:
        return isinstance(value, str) and value not in choice["_unlike"]
    return holds(value, choice)


@MANY
@given(a=SCHEMAS, b=SCHEMAS, value=DOCUMENTS)
def test_no_written_value_satisfies_two_schemas_that_are_apart(a: Any, b: Any, value: Any) -> None:
    if are_disjoint(a, b, Document({})) and is_valid(value, a) and is_valid(value, b):
        # Only values with properties that a grammar would not write may do both.
        assert isinstance(value, dict)


@MANY
@given(schema=SCHEMAS, value=DOCUMENTS)
def test_a_plain_schema_says_the_same(schema: Any, value: Any) -> None:
    document = Document(schema)
    try:
        plain = document.plain(schema)
    except NotSupported:
        return
    # Dependencies and conditions become choices, each of which is enough.
    try:
        if plain is not False and holds(value, plain):
            assert is_valid(value, schema)
    except CannotCheck as exc:  # what is evaluated depends on a choice that is left
        assert "`unevaluated" in str(exc)


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        (4, {"minimum": 4, "exclusiveMinimum": True}, False),
        (5, {"minimum": 4, "exclusiveMinimum": True}, True),
        (4, {"minimum": 4, "exclusiveMinimum": False}, True),
        (4, {"maximum": 4, "exclusiveMaximum": True}, False),
        ([1, "a"], {"items": [{}, {"type": "string"}], "additionalItems": False}, True),
        ([1, 2], {"items": [{}, {"type": "string"}]}, False),
        ([1, "a", 2], {"items": [{}, {}], "additionalItems": False}, False),
        ({"a": 1}, {"dependencies": {"a": ["b"]}}, False),
        ({"a": 1}, {"dependencies": {"a": {"required": ["a"]}}}, True),
        ({"a": {"a": 1}}, {"properties": {"a": {"$ref": "#"}}, "type": "object"}, False),
        ({"a": {"a": {}}}, {"properties": {"a": {"$ref": "#"}}, "type": "object"}, True),
        (1e300, {"multipleOf": 1e-300}, False),
        (1.0, {"type": "integer"}, True),
        (True, {"type": "integer"}, False),
        (True, {"enum": [1]}, False),
        (1.0, {"const": 1}, True),
    ],
)
def test_older_drafts_and_corners(value: Any, schema: Any, expected: bool) -> None:
    assert holds(value, schema) == expected


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"unevaluatedItems": False}, "`unevaluatedItems` is not supported"),
        ({"pattern": "(a)\\1"}, "pattern `.a..1`"),
        (
            {
                "$dynamicRef": "#a",
                "$dynamicAnchor": "a",
                "$defs": {"b": {"$id": "b", "$dynamicAnchor": "a"}},
            },
            "2 anchors `a`",
        ),
        ({"allOf": [{"$ref": "#"}]}, "without end"),
    ],
)
def test_what_cannot_be_checked_says_so(schema: Any, problem: str) -> None:
    with pytest.raises(CannotCheck, match=problem):
        holds("a", schema)


def test_equal_values_have_one_canonical_text() -> None:
    assert canonical({"a": 1.0, "b": [2]}) == canonical({"b": [2.0], "a": 1})
    assert canonical([True]) != canonical([1]) and canonical("1") != canonical(1)
    kinds = [json_type(v) for v in (None, True, 1, 1.5, "a", [], {})]
    assert kinds == ["null", "boolean", "number", "number", "string", "array", "object"]


APART = [
    ({"type": "integer"}, {"type": "string"}, True),
    ({"type": "integer"}, {"type": "number"}, False),
    (False, {}, True),
    ({}, {}, False),
    ({"enum": [1, "a"]}, {"type": "null"}, True),
    ({"enum": [1, "a"]}, {"type": "string"}, False),
    ({"enum": [1]}, {"unevaluatedItems": False}, False),
    ({"type": "object", "required": ["a"]},
     {"type": "object", "additionalProperties": False}, True),
    ({"type": "object", "required": ["a"], "properties": {"a": {"const": 1}}},
     {"type": "object", "properties": {"a": {"const": 2}}}, True),
    ({"type": "object", "properties": {"a": {"const": 1}}},
     {"type": "object", "properties": {"a": {"const": 2}}}, False),
    ({"type": "object", "additionalProperties": True},
     {"type": "object", "required": ["a"]}, False),
    ({"allOf": [{"type": "string", "contains": {}}, {"contains": False}]}, {"type": "null"}, False),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "expected"), APART, ids=str)
def test_schemas_that_are_surely_apart(a: Any, b: Any, expected: bool) -> None:
    assert are_disjoint(a, b, Document({})) == expected
