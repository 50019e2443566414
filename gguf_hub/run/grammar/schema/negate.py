"""``not`` as schemas without it.

A value fails a schema as soon as it fails one keyword, so each keyword that can be negated
gives one choice; those that cannot give none, which loses values but lets no wrong one in.
"""

from __future__ import annotations

import itertools
from typing import Any

from gguf_hub.run.grammar.schema.check import json_type
from gguf_hub.run.grammar.schema.merge import TYPES, Document, NotSupported, Plain
from gguf_hub.run.grammar.schema.references import Schema

_OPPOSITES = {
    "minimum": ("number", "exclusiveMaximum", 0), "exclusiveMinimum": ("number", "maximum", 0),
    "maximum": ("number", "exclusiveMinimum", 0), "exclusiveMaximum": ("number", "minimum", 0),
    "minLength": ("string", "maxLength", -1), "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1), "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
}  # fmt: skip
"""Keyword -> (its type, its opposite, what is added to its value)."""


def negate(schema: Schema, document: Document) -> list[Schema]:
    """Return schemas whose values all fail ``schema``; none where nothing can fail it.

    Raises:
        NotSupported: None of its keywords can be negated.
    """
    plain = document.plain(schema)
    if isinstance(plain, bool):
        return [] if plain else [True]
    if not plain:
        return []
    for keyword in ("unevaluatedProperties", "unevaluatedItems"):
        if keyword in plain:
            raise NotSupported("not", f"refuses a schema with `{keyword}` and alternatives")
    choices = _by_type(plain) + _by_value(plain) + _by_bound(plain) + _by_text(plain)
    choices += _by_property(plain) + _by_item(plain)
    for options in [*([plain["anyOf"]] if "anyOf" in plain else []), *plain.get("_oneOfs", ())]:
        choices.append({"allOf": [{"not": option} for option in options]})
    choices += plain.get("_nots", ())
    if not choices:
        raise NotSupported("not", "refuses what cannot be told from the rest")
    return choices


def _by_type(plain: Plain) -> list[Schema]:
    if "type" not in plain:
        return []
    types = set(plain["type"])
    others = [t for t in TYPES if t not in types and t != "integer"]
    if "integer" in types:
        others = [t for t in others if t != "number"]  # 1.5 would do, but 1.0 is a whole number
    return [{"type": others}] if others else []


def _by_value(plain: Plain) -> list[Schema]:
    """Return what differs from each value of an ``enum``: by type, as a text, as a number."""
    if "enum" not in plain:
        return []
    values: list[Any] = plain["enum"]
    kinds = {json_type(value) for value in values}
    choices: list[Schema] = [{"type": [t for t in TYPES if t not in kinds and t != "integer"]}]
    if "boolean" in kinds:
        choices.append({"enum": [b for b in (True, False) if not any(v is b for v in values)]})
    if "string" in kinds:
        choices.append({"type": "string", "_unlike": [v for v in values if isinstance(v, str)]})
    numbers = sorted(v for v in values if json_type(v) == "number")
    if numbers:
        around = [None, *numbers, None]
        for low, high in itertools.pairwise(around):
            bounds = {"exclusiveMinimum": low, "exclusiveMaximum": high}
            limits = {k: v for k, v in bounds.items() if v is not None}
            choices.append({"type": "number", **limits})
    return choices


def _by_bound(plain: Plain) -> list[Schema]:
    choices: list[Schema] = []
    for keyword, (kind, opposite, offset) in _OPPOSITES.items():
        if keyword in plain and plain[keyword] + offset >= (0 if offset else plain[keyword]):
            choices.append({"type": kind, opposite: plain[keyword] + offset})
    return choices


def _by_text(plain: Plain) -> list[Schema]:
    """Return texts without a pattern, with one that they may not have, or those that are left."""
    choices: list[Schema] = [
        {"type": "string", "_unmatched": [pattern]} for pattern in plain.get("_patterns", ())
    ]
    choices += [{"type": "string", "pattern": pattern} for pattern in plain.get("_unmatched", ())]
    if "_unlike" in plain:
        choices.append({"enum": plain["_unlike"]})
    return choices


def _by_item(plain: Plain) -> list[Schema]:
    choices: list[Schema] = []
    items = plain.get("items", True)
    if items is not True and items != {} and not plain.get("prefixItems"):
        choices.append({"type": "array", "contains": {"not": items}})
    if "contains" in plain and plain.get("minContains", 1) == 1:
        choices.append({"type": "array", "items": {"not": plain["contains"]}})
    return choices


def _by_property(plain: Plain) -> list[Schema]:
    choices: list[Schema] = [
        {"type": "object", "properties": {name: False}} for name in plain.get("required", ())
    ]
    for name, schema in plain.get("properties", {}).items():
        if schema is not True and schema != {}:
            wrong = {name: True if schema is False else {"not": schema}}
            choices.append({"type": "object", "required": [name], "properties": wrong})
    return choices
