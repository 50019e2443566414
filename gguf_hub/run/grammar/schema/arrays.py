"""Arrays of a schema."""

from __future__ import annotations

import json
from typing import Any

from gguf_hub.run.grammar.gbnf import MAX_REPEAT, Literal, Node
from gguf_hub.run.grammar.schema.check import canonical
from gguf_hub.run.grammar.schema.conversion import Conversion, braces, separated, some_of, then
from gguf_hub.run.grammar.schema.merge import NotSupported, Plain, Schema, all_of
from gguf_hub.run.grammar.trees import NOTHING, optional, repeat, seq

_MAX_DIFFERENT = 60


def array(conversion: Conversion, s: Plain, name: str) -> Node:
    """Return the arrays of a schema."""
    low, high = int(s.get("minItems", 0)), s.get("maxItems")
    high = None if high is None else int(high)
    first, rest = list(s.get("prefixItems", ())), s.get("items", True)
    if "contains" in s:
        min_contains = int(s.get("minContains", 1))
        if min_contains > MAX_REPEAT:
            raise NotSupported("minContains", f"is over {MAX_REPEAT:,}")
        # The first items are those that must match; with no more items than may match, the
        # others cannot be too many.
        first += [rest] * (min_contains - len(first))
        first[:min_contains] = [all_of(item, s["contains"]) for item in first[:min_contains]]
        low = max(low, min_contains)
        if "maxContains" in s:
            max_contains = int(s["maxContains"])
            high = max_contains if high is None else min(high, max_contains)
    if high is not None and high < low:
        return NOTHING
    if s.get("uniqueItems") and (high is None or high > 1):
        return _different(conversion, s, name, (low, high))
    parts = [conversion.visit(item, f"{name}-{i}") for i, item in enumerate(first)]
    others = conversion.visit(rest, f"{name}-item")
    return braces("[", _listed(parts, others, low, high), "]")


def _listed(first: list[Node], rest: Node, low: int, high: int | None) -> Node:
    """Return items with commas between them: the first ones one by one, then the rest."""
    if high is not None and high < len(first):
        first, rest = first[:high], NOTHING
    n = len(first)
    if not first:
        return separated(rest, low, high)
    tail = repeat(then(rest), max(low - n, 0), None if high is None else high - n)
    for i in reversed(range(n)):
        item = seq(first[i] if i == 0 else then(first[i]), tail)
        tail = item if i < low else optional(item)
    return tail


def _different(conversion: Conversion, s: Plain, name: str, bounds: tuple[int, int | None]) -> Node:
    """Return different items: some of a known set of values, in its order."""
    values = _list_values(conversion, s.get("items", True))
    if values is None or "prefixItems" in s or "contains" in s:
        raise NotSupported("uniqueItems", "can be held for items with an `enum` only")
    if len(values) > _MAX_DIFFERENT:
        raise NotSupported("uniqueItems", f"has {len(values)} different items, over 60")
    parts: list[tuple[Node, bool]] = [
        (Literal(json.dumps(value, ensure_ascii=False)), False) for value in values
    ]
    return braces("[", some_of(conversion, parts, NOTHING, bounds, name), "]")


def _list_values(conversion: Conversion, schema: Schema) -> list[Any] | None:
    """Return all values of a schema that has few, None for others."""
    plain = conversion.document.plain(schema)
    if isinstance(plain, bool):
        return None if plain else []
    if "enum" not in plain:
        values_of: dict[str, list[Any]] = {"boolean": [True, False], "null": [None]}
        types = plain.get("type", ["string"])
        if not all(t in values_of for t in types) or plain.keys() - {"type"}:
            return None
        return [value for t in types for value in values_of[t]]
    rest = {k: v for k, v in plain.items() if k != "enum"}
    different = {canonical(v): v for v in plain["enum"] if conversion.conforms(v, rest)}
    return list(different.values())
