"""Arrays of a schema."""

from __future__ import annotations

import json
from typing import Any

from gguf_hub.run.grammar.gbnf import Literal, Node, Ref
from gguf_hub.run.grammar.schema.check import canonical
from gguf_hub.run.grammar.schema.conversion import Conversion, braces, separated, some_of, then
from gguf_hub.run.grammar.schema.merge import NotSupported, Plain, all_of
from gguf_hub.run.grammar.schema.references import Schema
from gguf_hub.run.grammar.trees import EMPTY, NOTHING, alt, optional, repeat, seq

_MAX_DIFFERENT = 60
_MAX_ORDERS = 6  # values whose orders are all written: 2**6 rules
_MAX_COUNTS = 2_000


def array(conversion: Conversion, s: Plain, name: str) -> Node:
    """Return the arrays of a schema."""
    low, high = int(s.get("minItems", 0)), s.get("maxItems")
    high = None if high is None else int(high)
    if s.get("uniqueItems") and (high is None or high > 1):
        return _different(conversion, s, name, (low, high))
    if "contains" in s:
        return _containing(conversion, s, name, (low, high))
    if high is not None and high < low:
        return NOTHING
    first = [conversion.visit(v, f"{name}-{i}") for i, v in enumerate(s.get("prefixItems", ()))]
    rest = conversion.visit(s.get("items", True), f"{name}-item")
    return braces("[", _listed(first, rest, low, high), "]")


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


def _containing(
    conversion: Conversion, s: Plain, name: str, bounds: tuple[int, int | None]
) -> Node:
    """Return arrays of which some items match ``contains``: a rule for each two counts.

    What follows depends on how many items there are, and how many of them match; counts beyond
    the largest bound do not differ.
    """
    low, high = bounds
    least, most = int(s.get("minContains", 1)), s.get("maxContains")
    most = None if most is None else int(most)
    if least > 0 and conversion.document.plain(s["contains"]) is False:
        return NOTHING
    first, rest = list(s.get("prefixItems", ())), s.get("items", True)
    n_last = max(len(first), low, 1 if high is None else high, 1)
    n_matches = max(least, 0 if most is None else most)
    if (n_last + 1) * (n_matches + 1) > _MAX_COUNTS:
        raise NotSupported("contains", "with such numbers of items makes too many rules")
    prefix = conversion.fresh(f"{name}-containing")
    other: Schema = True if most is None else {"not": s["contains"]}  # all others may match, too

    def visit(i: int, also: Schema) -> Node:
        item = first[i] if i < len(first) else rest
        kind = "match" if also is s["contains"] else "other"
        return conversion.visit(all_of(item, also), f"{name}-{min(i, len(first))}-{kind}")

    for n in range(n_last + 1):
        for k in range(n_matches + 1):
            is_over = (high is not None and n > high) or (most is not None and k > most)
            ends = [EMPTY] if not is_over and n >= low and k >= least else []
            onwards: list[Node] = []
            if not is_over and (high is None or n < high):
                after = min(n + 1, n_last)
                separator = then if n else _as_it_is
                if k < n_matches:
                    matched = Ref(f"{prefix}--{after}-{min(k + 1, n_matches)}")
                    onwards.append(seq(separator(visit(n, s["contains"])), matched))
                onwards.append(seq(separator(visit(n, other)), Ref(f"{prefix}--{after}-{k}")))
            conversion.rules[f"{prefix}--{n}-{k}"] = alt(*onwards, *ends)
    return braces("[", Ref(f"{prefix}--0-0"), "]")


def _as_it_is(item: Node) -> Node:
    return item


def _different(conversion: Conversion, s: Plain, name: str, bounds: tuple[int, int | None]) -> Node:
    """Return different items of a known set of values; many come in its order."""
    try:
        values = _list_values(conversion, s.get("items", True))
    except NotSupported as exc:
        raise NotSupported("uniqueItems", exc.reason) from exc
    if values is None or "prefixItems" in s or "contains" in s:
        raise NotSupported("uniqueItems", "can be held for items with an `enum` only")
    if len(values) > _MAX_DIFFERENT:
        raise NotSupported("uniqueItems", f"has {len(values)} different items, over 60")
    nodes = [Literal(json.dumps(value, ensure_ascii=False)) for value in values]
    if len(nodes) <= _MAX_ORDERS:
        return braces("[", _in_any_order(conversion, nodes, bounds, name), "]")
    parts: list[tuple[Node, bool]] = [(node, False) for node in nodes]
    return braces("[", some_of(conversion, parts, NOTHING, bounds, name), "]")


def _in_any_order(
    conversion: Conversion, nodes: list[Literal], bounds: tuple[int, int | None], name: str
) -> Node:
    """Return some of the nodes, none twice: one rule for each set of those that were written."""
    low, high = bounds
    prefix = conversion.fresh(f"{name}-after")
    for written in range(1 << len(nodes)):
        n = written.bit_count()
        onwards = [
            seq(then(node) if n else node, Ref(f"{prefix}--{written | 1 << i}"))
            for i, node in enumerate(nodes)
            if not written >> i & 1 and (high is None or n < high)
        ]
        conversion.rules[f"{prefix}--{written}"] = alt(*onwards, *([EMPTY] if n >= low else []))
    return Ref(f"{prefix}--0")


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
