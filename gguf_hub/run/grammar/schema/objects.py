"""Objects of a schema.

Declared properties come in their order; undeclared ones where none is declared,
``additionalProperties`` allows them, or one ``patternProperties`` gives them names, or
``minProperties`` needs more than there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from gguf_hub.run.grammar.gbnf import Literal, Node, Ref
from gguf_hub.run.grammar.pattern import PatternError
from gguf_hub.run.grammar.regex import parse_pattern
from gguf_hub.run.grammar.schema.check import CannotCheck, has_match
from gguf_hub.run.grammar.schema.conversion import MAX_RULES, SPACE, Conversion, braces, some_of
from gguf_hub.run.grammar.schema.lengths import json_of_length
from gguf_hub.run.grammar.schema.merge import NotSupported, Plain, Schema, all_of, extra_schema
from gguf_hub.run.grammar.schema.strings import in_json, samples, unlike
from gguf_hub.run.grammar.trees import NOTHING, seq


def object_(conversion: Conversion, s: Plain, name: str) -> Node:
    """Return the objects of a schema."""
    if not s.keys() - {"type", "additionalProperties"} and extra_schema(s) in (True, {}):
        return Ref("object")
    # 1) which properties there are, and which are required
    properties = _properties(conversion, s)
    required = set(s.get("required", ()))
    low, high = int(s.get("minProperties", 0)), s.get("maxProperties")
    high = None if high is None else int(high)
    missing = low - sum(value is not False for value in properties.values())
    _check_counts(len(properties) + max(missing, 0), low, high)
    if missing > 1 or (missing == 1 and _extra(conversion, s, properties)[0] == NOTHING):
        new_names = _invent_names(conversion, s, properties, missing)
        properties |= {key: _undeclared(key, s) for key in new_names}
        required |= set(new_names)
    # 2) each as `"key": value`
    parts: list[tuple[Node, bool]] = []
    for key, value in properties.items():
        start = Literal(json.dumps(key, ensure_ascii=False) + ":")
        parts.append((seq(start, SPACE, conversion.visit(value, f"{name}-{key}")), key in required))
    # 3) and what may follow
    extra_key, extra_value = _extra(conversion, s, properties)
    extra: Node = NOTHING
    if extra_key != NOTHING:
        value_node = conversion.visit(extra_value, f"{name}-value")
        extra = seq(Literal('"'), extra_key, Literal('":'), SPACE, value_node)
    return braces("{", some_of(conversion, parts, extra, (low, high), name), "}")


def _check_counts(n: int, low: int, high: int | None) -> None:
    """Refuse to count more properties than there can be rules."""
    if n * min(n, max(low, high or 1)) > MAX_RULES:
        keyword = "minProperties" if high is None else "maxProperties"
        raise NotSupported(keyword, "with so many properties makes too many rules")


def _properties(conversion: Conversion, s: Plain) -> dict[str, Schema]:
    """Return the declared and the required properties, each with all schemas for it."""
    declared, names = s.get("properties", {}), s.get("propertyNames", True)
    out: dict[str, Schema] = {}
    for key in dict.fromkeys([*declared, *s.get("required", ())]):
        if key in declared:
            schema = declared[key]
            for pattern, also in s.get("patternProperties", {}).items():
                schema = all_of(schema, also) if _has_match(pattern, key) else schema
        else:
            schema = _undeclared(key, s)
        out[key] = schema if names is True or conversion.conforms(key, names) else False
    return out


def _undeclared(key: str, s: Plain) -> Schema:
    patterns = s.get("patternProperties", {})
    schemas = [also for pattern, also in patterns.items() if _has_match(pattern, key)]
    schema: Schema = True
    for also in schemas or [s.get("additionalProperties", True)]:
        schema = all_of(schema, also)
    return schema


def _has_match(pattern: str, key: str) -> bool:
    try:
        return has_match(pattern, key)
    except CannotCheck as exc:
        raise NotSupported("patternProperties", str(exc)) from exc


def _extra(conversion: Conversion, s: Plain, declared: dict[str, Schema]) -> tuple[Node, Schema]:
    """Return (the key of properties beyond the declared ones as in JSON, their schema)."""
    extra, patterns = extra_schema(s), s.get("patternProperties", {})
    names = s.get("propertyNames", True)
    if patterns:
        only = next(iter(patterns))
        is_clear = len(patterns) == 1 and names is True
        if not is_clear or any(_has_match(only, key) for key in declared):
            return NOTHING, False
        return in_json(_pattern_key(only)), patterns[only]
    if extra is False:
        return NOTHING, False
    if names is True:
        return in_json(unlike(declared)), extra
    return (NOTHING if declared else _name_text(conversion, names)), extra


def _pattern_key(pattern: str) -> Node:
    """Return the keys that a pattern describes, none where it cannot be followed."""
    try:
        return parse_pattern(pattern)
    except PatternError:
        return NOTHING


def _name_text(conversion: Conversion, names: Schema) -> Node:
    """Return the keys that ``propertyNames`` allows, where it only speaks of texts."""
    plain = conversion.document.plain(names)
    if not isinstance(plain, dict) or plain.keys() - {"type", "minLength", "maxLength", "pattern",
                                                      "format"}:  # fmt: skip
        return NOTHING
    if "string" not in plain.get("type", ["string"]):
        return NOTHING
    low, high = int(plain.get("minLength", 0)), plain.get("maxLength")
    tree = _pattern_key(plain["pattern"]) if "pattern" in plain else unlike(())
    try:
        return json_of_length(conversion, tree, low, high, "key")
    except PatternError:
        return NOTHING


def _invent_names(
    conversion: Conversion, s: Plain, declared: dict[str, Schema], count: int
) -> list[str]:
    """Return ``count`` names for required properties that are not declared."""
    names = s.get("propertyNames", True)
    new_names: dict[str, None] = {}
    for name in _candidates(conversion, s, count + 20):
        if len(new_names) == count:
            break
        is_new = name not in declared and name not in new_names
        if is_new and conversion.conforms(name, names) and _undeclared(name, s) is not False:
            new_names[name] = None
    return list(new_names)


def _candidates(conversion: Conversion, s: Plain, count: int) -> Iterator[str]:
    """Return names to try: plain ones, those listed, and examples of patterns."""
    yield from (f"key{i}" for i in range(1, count))
    names = conversion.document.plain(s.get("propertyNames", True))
    if isinstance(names, dict):
        yield from (value for value in names.get("enum", ()) if isinstance(value, str))
        digits = max(int(names.get("minLength", 0)) - 3, 1)
        yield from (f"key{i:0{digits}d}" for i in range(1, count))
        yield from samples(_pattern_key(names.get("pattern", "^[a-z]+$")), 20 * count)
    for pattern in s.get("patternProperties", {}):
        yield from samples(_pattern_key(pattern), count)
