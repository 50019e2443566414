"""JSON-Schema-Test-Suite: how much of it compiles, and that no invalid instance is accepted."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar import Grammar


@cache
def groups(data: Path) -> list[dict[str, Any]]:
    text = (data / "schemas" / "draft2020-12.json").read_text(encoding="utf-8")
    return [
        {**group, "name": f"{keyword}: {group['description']}"}
        for keyword, of_keyword in json.loads(text).items()
        for group in of_keyword
    ]


def is_accepted(grammar: Grammar, value: Any) -> bool:
    texts = {json.dumps(value, ensure_ascii=False), json.dumps(value, separators=(",", ":"))}
    return any(grammar.accepts(text) for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
def test_nothing_is_accepted_or_dropped_silently(data: Path, strict: bool) -> None:
    counts: Counter[str] = Counter()
    wrong: list[Any] = []
    for group in groups(data):
        try:
            grammar = Grammar.from_schema(group["schema"], strict=strict)
        except GrammarError as exc:
            if "found no value" in str(exc):
                wrong += [group["name"]] * any(test["valid"] for test in group["tests"])
            else:  # it leaves the document, or (strict) cannot be held
                assert str(exc).startswith("schema, at `/"), group["name"]
            continue
        counts["schemas"] += 1
        for test in group["tests"]:
            accepted = is_accepted(grammar, test["data"])
            counts[f"valid {test['valid']}, accepted {accepted}"] += 1
            if accepted and not test["valid"] and (strict or not grammar.left_out):
                wrong.append((group["name"], test["data"]))
    assert wrong == []
    # it may become better, not worse
    assert counts["schemas"] >= (313 if strict else 334)
    assert counts["valid True, accepted False"] <= (98 if strict else 104)
