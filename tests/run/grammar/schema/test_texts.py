"""Strings of schemas: formats beside lengths, patterns beside patterns, long counts."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar import Grammar
from gguf_hub.run.grammar.schema.formats import FORMATS
from tests.run.grammar.schema.test_schema import write

CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER

GOOD = {
    "date": ["2024-02-29", "2000-02-29", "1999-12-31"],
    "time": ["23:59:59Z", "00:00:00.123456+01:00"],
    "date-time": ["2024-02-29T12:00:00Z"],
    "duration": ["P1Y2M3DT4H5M6S", "PT36H", "P2W", "P1Y2M"],
    "uuid": ["123e4567-E89B-12d3-a456-426614174000"],
    "ipv4": ["255.0.10.1"],
    "ipv6": ["::", "::1", "fe80::1:2", "1:2:3:4:5:6:7:8", "1::", "1::8", "2001:DB8::a"],
    "email": ["Joe.Bloggs+x@mail.Example.com"],
    "hostname": ["localhost", "www.a-b.example"],
    "uri": ["https://a.b:8080/c/d%20e?f=g#h", "mailto:a@b.cd", "urn:isbn:1"],
    "uri-reference": ["", "/a/b", "a?b#c", "../x"],
    "json-pointer": ["", "/a~1b/0", "/é"],
    "relative-json-pointer": ["0", "1/a", "2#"],
}
BAD = {
    "date": ["2023-02-29", "1900-02-29", "2024-13-01", "2024-04-31"],
    "time": ["24:00:00Z", "12:00:00"],
    "date-time": ["2024-01-01", "2024-01-01T12:00Z"],
    "duration": ["P", "PT", "P1D1Y", "P1Y3D"],
    "uuid": ["123e4567e89b12d3a456426614174000"],
    "ipv4": ["256.0.0.1", "1.2.3"],
    "ipv6": ["1:2", ":::", "1::2::3", "1:2:3:4:5:6:7:8:9", "12345::"],
    "email": ["a", "a@b", "@b.cd"],
    "hostname": ["-a", "a..b", ""],
    "uri": ["/a", "a b", "https://"],
    "json-pointer": ["a", "/~2"],
    "relative-json-pointer": ["01", "/a"],
}


def of(**keywords: Any) -> Grammar:
    return Grammar.from_schema({"type": "string", **keywords})


def holds(grammar: Grammar, text: str) -> bool:
    return grammar.accepts(json.dumps(text, ensure_ascii=False))


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_held_and_what_is_written_satisfies_it(name: str) -> None:
    grammar, rng = of(format=name), random.Random(name)
    assert [t for t in GOOD.get(name, ()) if not holds(grammar, t)] == []
    assert [t for t in BAD.get(name, ()) if holds(grammar, t)] == []
    text = write(grammar, rng)
    assert text is None or CHECKER.conforms(json.loads(text), name), text


@pytest.mark.parametrize(
    ("name", "low", "high", "good", "bad"),
    [
        ("email", 8, 50, ["ab@cd.ef", "joe.bloggs@example.com"], ["a@cd.ef", "a" * 44 + "@cd.efg"]),
        ("email", 0, 320, ["joe.bloggs@example.com"], ["joe"]),
        ("uri", 0, 60, ["https://example.com/a"], ["https://example.com/" + "a" * 41]),
        ("uri", 0, 2048, ["https://example.com/a"], ["example"]),
        ("hostname", 3, 63, ["a.b", "localhost"], ["a", "a" * 64]),
        ("date-time", 25, 25, ["2024-01-01T00:00:00+01:00"], ["2024-01-01T00:00:00Z"]),
        ("ipv4", 0, 9, ["1.2.3.4", "10.0.0.10"], ["100.0.0.10", "1.2.3"]),
        ("uuid", 0, 35, None, []),
    ],
)
def test_a_format_beside_a_length_holds_both(
    name: str, low: int, high: int, good: list[str] | None, bad: list[str]
) -> None:
    if good is None:
        with pytest.raises(GrammarError, match="found no value"):
            of(format=name, minLength=low, maxLength=high)
        return
    grammar = of(format=name, minLength=low, maxLength=high)
    assert [t for t in good if not holds(grammar, t)] == [t for t in bad if holds(grammar, t)] == []
    text = write(grammar, random.Random(1))
    assert text is None or (
        CHECKER.conforms(json.loads(text), name) and low <= len(json.loads(text)) <= high
    )


def test_a_format_and_patterns_hold_together() -> None:
    grammar = Grammar.from_schema(
        {
            "allOf": [
                {"type": "string", "format": "uuid", "pattern": "^[0-9a-f-]*$"},
                {"pattern": "^a"},
                {"not": {"pattern": "0$"}},
            ]
        }
    )
    tail = "23e4567-e89b-12d3-a456-42661417400"
    assert holds(grammar, f"a{tail}1")
    assert not any(holds(grammar, t) for t in (f"a{tail}0", f"1{tail}1", f"A{tail}1", "a1"))


@pytest.mark.parametrize("n", [20_000, 10**9])
def test_a_far_count_is_exact_and_takes_no_more_nodes_than_a_near_one(n: int) -> None:
    near = of(maxLength=50).network
    assert len(of(maxLength=n).network.is_end) == len(near.is_end)
    few = Grammar.from_schema(
        {"type": "array", "items": {"enum": [1]}, "minItems": 3, "maxItems": n}
    )
    assert few.accepts("[1,1,1]") and not few.accepts("[1,1]")


def test_counts_end_where_they_should() -> None:
    grammar = of(minLength=10, maxLength=300)
    assert [n for n in (9, 10, 11, 299, 300, 301) if holds(grammar, "a" * n)] == [10, 11, 299, 300]
    items = Grammar.from_schema({"type": "array", "items": {"const": 1}, "maxItems": 300})
    assert items.accepts(json.dumps([1] * 300)) and not items.accepts(json.dumps([1] * 301))


PATTERNS = st.sampled_from(
    [
        "^[ab]+$",
        "b",
        "^a",
        "c$",
        "^(ab|c)*$",
        "^.{2,3}$",
        "(^b|a$)",
        "^(?!ab)",
        "^[^b]*$",
        "[ac]{2}",
    ]
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    some=st.lists(PATTERNS, min_size=1, max_size=3), nots=st.lists(PATTERNS, max_size=2),
    low=st.integers(0, 3), more=st.integers(0, 3) | st.none(), text=st.text("abc", max_size=6),
)  # fmt: skip
def test_patterns_and_lengths_hold_together(
    some: list[str], nots: list[str], low: int, more: int | None, text: str
) -> None:
    bounds = {"minLength": low, **({} if more is None else {"maxLength": low + more})}
    parts = [{"pattern": p} for p in some] + [{"not": {"pattern": p}} for p in nots]
    schema = {"type": "string", **bounds, "allOf": parts}
    try:
        grammar = Grammar.from_schema(schema)
    except GrammarError as exc:
        assert "found no value" in str(exc)
        assert not jsonschema.Draft202012Validator(schema).is_valid(text)
        return
    assert holds(grammar, text) == jsonschema.Draft202012Validator(schema).is_valid(text)
    assert all(re.search(p, text) for p in some) or not holds(grammar, text)
