"""Objects of a schema.

Declared properties come in their order; then others, where none is declared or
``additionalProperties``, ``patternProperties`` or ``propertyNames`` speak of them. Their names are
any that these allow, and none of the declared.
"""

from __future__ import annotations

import json

from gguf_hub.run.grammar.gbnf import Literal, Node, Ref
from gguf_hub.run.grammar.language import Language
from gguf_hub.run.grammar.pattern import PatternError
from gguf_hub.run.grammar.schema.check import CannotCheck, has_match
from gguf_hub.run.grammar.schema.conversion import MAX_RULES, SPACE, Conversion, braces, some_of
from gguf_hub.run.grammar.schema.merge import (
    NotSupported,
    Plain,
    all_of,
    extra_schema,
    is_false,
)
from gguf_hub.run.grammar.schema.references import Schema
from gguf_hub.run.grammar.schema.strings import in_json, unlike
from gguf_hub.run.grammar.schema.texts import language_of, rules_of
from gguf_hub.run.grammar.trees import NOTHING, alt, seq

_MAX_PATTERNS = 6


def object_(conversion: Conversion, s: Plain, name: str) -> Node:
    """Return the objects of a schema."""
    if not s.keys() - {"type", "additionalProperties"} and extra_schema(s) in (True, {}):
        return Ref("object")
    low, high = int(s.get("minProperties", 0)), s.get("maxProperties")
    high = None if high is None else int(high)
    # 1) which properties there are, and which are required
    listed = _listed_names(conversion, s)
    properties = _properties(conversion, s, listed)
    n_known = sum(not is_false(value) for value in properties.values())
    if n_known * min(n_known, max(low, high or 1)) > MAX_RULES:
        keyword = "minProperties" if high is None else "maxProperties"
        raise NotSupported(keyword, "with so many properties makes too many rules")
    # 2) each as `"key": value`
    parts: list[tuple[Node, bool]] = []
    for key, value in properties.items():
        start = Literal(json.dumps(key, ensure_ascii=False) + ":")
        node = seq(start, SPACE, conversion.visit(value, f"{name}-{key}"))
        parts.append((node, key in s.get("required", ())))
    # 3) and what may follow
    extra = NOTHING if listed is not None else _extra(conversion, s, properties, name)
    may_repeat = low > n_known + 1 and extra != NOTHING
    if may_repeat:
        conversion.leave_out("minProperties", "counts a name again that is written again")
    some = some_of(conversion, parts, extra, (low, high), name, may_repeat=may_repeat)
    return braces("{", some, "}")


def _listed_names(conversion: Conversion, s: Plain) -> list[str] | None:
    """Return the names of properties where ``propertyNames`` lists them, None where it does not."""
    names = conversion.document.plain(s.get("propertyNames", True))
    if not isinstance(names, dict) or "enum" not in names:
        return None
    return [name for name in names["enum"] if isinstance(name, str)]


def _properties(conversion: Conversion, s: Plain, listed: list[str] | None) -> dict[str, Schema]:
    """Return the properties that are known by name, each with all schemas for it."""
    declared, names = s.get("properties", {}), s.get("propertyNames", True)
    others = [key for key in listed or () if extra_schema(s) is not False or key in declared]
    out: dict[str, Schema] = {}
    for key in dict.fromkeys([*declared, *s.get("required", ()), *others]):
        if key in declared:
            schema = declared[key]
            for pattern, also in s.get("patternProperties", {}).items():
                schema = all_of(schema, also) if _has_match(pattern, key) else schema
        else:
            schema = _undeclared(key, s)
        out[key] = schema if names is True or _is_name(conversion, key, names) else False
    return out


def _is_name(conversion: Conversion, key: str, names: Schema) -> bool:
    try:
        return conversion.conforms(key, names)
    except NotSupported as exc:
        raise NotSupported("propertyNames", exc.reason) from exc


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


def _extra(conversion: Conversion, s: Plain, known: dict[str, Schema], name: str) -> Node:
    """Return one property beyond the known ones."""
    patterns, names = s.get("patternProperties", {}), s.get("propertyNames", True)
    if not patterns and names is True:
        return _property(conversion, in_json(unlike(known)), extra_schema(s), name)
    try:
        kinds = _kinds(conversion, s, known)
    except PatternError as exc:
        conversion.leave_out("patternProperties" if patterns else "propertyNames", str(exc))
        return NOTHING
    return alt(
        *(
            _property(conversion, rules_of(conversion, keys, name), schema, f"{name}-{i}")
            for i, (keys, schema) in enumerate(kinds)
            if not is_false(schema)
        )
    )


def _property(conversion: Conversion, key: Node, schema: Schema, name: str) -> Node:
    if schema is False:
        return NOTHING
    return seq(Literal('"'), key, Literal('":'), SPACE, conversion.visit(schema, f"{name}-value"))


def _kinds(
    conversion: Conversion, s: Plain, known: dict[str, Schema]
) -> list[tuple[Language, Schema]]:
    """Return the names beyond the known ones by the patterns that they match, with their schema."""
    patterns = s.get("patternProperties", {})
    if len(patterns) > _MAX_PATTERNS:
        raise PatternError(f"has {len(patterns)} patterns, over {_MAX_PATTERNS}")
    names = conversion.document.plain(s.get("propertyNames", True))
    if names is False:
        return []
    assert isinstance(names, dict)
    whole = language_of(conversion, names) - Language.of_texts(known)
    kinds: list[tuple[Language, list[Schema]]] = [(whole, [])]
    for pattern, schema in patterns.items():
        matching = Language.of_pattern(pattern)
        kinds = [
            kind
            for keys, schemas in kinds
            for kind in ((keys & matching, [*schemas, schema]), (keys - matching, schemas))
            if not kind[0].is_empty
        ]
    out: list[tuple[Language, Schema]] = []
    for keys, schemas in kinds:
        schema = True if schemas else extra_schema(s)
        for also in schemas:
            schema = all_of(schema, also)
        out.append((keys, schema))
    return out
