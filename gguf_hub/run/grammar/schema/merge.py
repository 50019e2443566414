"""Schemas made plain: references followed, ``allOf`` and its kin merged into one dict.

A plain schema has none of ``$ref``, ``allOf``, ``if``, ``dependent...``, ``const``; what cannot be
merged at once stays in ``anyOf``, ``_oneOfs``, ``_nots``, ``_patterns`` and ``_formats`` (lists of
what ``oneOf``, ``not``, ``pattern`` and ``format`` held); ``_unlike`` lists texts that a string may
not be, ``_unmatched`` patterns that may not be found in it. ``unevaluated...`` becomes
``additionalProperties`` or ``items`` of its own schema when no choice is left there, and stays
until then. ``False`` stands for a schema that no value satisfies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from gguf_hub.budget import spend
from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar.schema.check import canonical
from gguf_hub.run.grammar.schema.references import References, Schema

Plain = dict[str, Any]

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_MAX_CHOICES = 64
_MAX_DEPTH = 200
_MAX_STEP = 10**18
_PLAIN_BYTES = 500

_IGNORED = frozenset({
    "$schema", "$id", "id", "$comment", "$defs", "definitions", "title", "description", "default",
    "examples", "example", "deprecated", "readOnly", "writeOnly", "contentEncoding",
    "contentMediaType", "contentSchema", "$anchor", "$dynamicAnchor", "$vocabulary", "nullable",
    "discriminator", "xml", "externalDocs", "_may", "_mixed",
})  # fmt: skip
"""Keywords that do not restrict values."""

_MERGED = frozenset({
    "$ref", "$dynamicRef", "allOf", "if", "then", "else", "const", "dependentRequired",
    "dependentSchemas", "dependencies", "additionalItems", "unevaluatedProperties",
    "unevaluatedItems",
})  # fmt: skip
"""Keywords that become others."""

_LISTED = (("oneOf", "_oneOfs"), ("not", "_nots"), ("pattern", "_patterns"), ("format", "_formats"))
"""Keyword that may stand in several parts -> the list of what it held there."""

_UNEVALUATED = (
    ("unevaluatedProperties", "additionalProperties", ("properties", "patternProperties")),
    ("unevaluatedItems", "items", ("prefixItems", "contains")),
)
"""Keyword -> what it becomes, and what else decides to which values it applies."""

_CHOICES = ("anyOf", "_oneOfs")
_MARKS = ("_may", "_mixed")

_HIGHEST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains")
_LOWEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains")


class NotSupported(Exception):
    """A keyword that a grammar cannot hold; ``keyword`` and ``reason`` say which and why."""

    def __init__(self, keyword: str, reason: str) -> None:
        super().__init__(f"`{keyword}` {reason}")
        self.keyword = keyword
        self.reason = reason


class Document:
    """A schema document, whose parts refer to each other.

    Args:
        root: The document.
        leave_out: Called with a part and why it cannot be held, and then it is not; None to raise.
    """

    def __init__(
        self, root: Schema, leave_out: Callable[[Schema, NotSupported], None] | None = None
    ) -> None:
        self.references = References(root)
        self._leave_out = leave_out
        self._plain: dict[int, tuple[Schema, Plain | bool]] = {}  # by id of the schema kept here
        self._open: set[int] = set()
        self.disjoint_pairs: dict[tuple[int, int], bool] = {}
        """Ids of two plain schemas -> whether they are surely disjoint."""

    def resolve(self, schema: Mapping[str, Any], keyword: str = "$ref") -> Schema:
        """Return what a reference in a schema points to (see ``References.resolve``)."""
        return self.references.resolve(schema, keyword)

    def plain(self, schema: Schema, depth: int = 0) -> Plain | bool:
        """Return a schema made plain; False where no value can satisfy it.

        Raises:
            GrammarError: It is no schema, or refers to itself without end.
            NotSupported: It cannot be merged into one.
        """
        if isinstance(schema, bool):
            return {} if schema else False
        if not isinstance(schema, dict):
            raise GrammarError(f"schema: expected a dict or true or false, found {schema!r:.60}")
        key = id(schema)
        if key not in self._plain:
            if key in self._open or depth > _MAX_DEPTH:
                raise GrammarError("schema: it refers to itself without end")
            self._open.add(key)
            try:
                self._plain[key] = schema, self._compute(schema, depth)
            finally:
                self._open.discard(key)
        return self._plain[key][1]

    def _compute(self, schema: Plain, depth: int) -> Plain | bool:
        spend(_PLAIN_BYTES)
        out: Plain | bool = _normalise(schema)
        for keyword, part in self._in_place(schema):
            if out is False:
                break
            try:
                target = self.resolve(schema, keyword) if keyword.startswith("$") else part
                out = merge(out, self.plain(target, depth + 1))
            except LookupError as exc:
                self._skip(schema, NotSupported(keyword, str(exc)))
            except NotSupported as problem:
                self._skip(part if isinstance(part, dict) else schema, problem)
        return _close(schema, out) if isinstance(out, dict) else out

    def _in_place(self, schema: Plain) -> list[tuple[str, Schema]]:
        """Return (keyword, schema) of what applies beside a schema; references come last."""
        parts = [("allOf", part) for part in _parts(schema)]
        return parts + [(key, None) for key in ("$ref", "$dynamicRef") if key in schema]

    def _skip(self, part: Schema, problem: NotSupported) -> None:
        if self._leave_out is None:
            raise problem
        self._leave_out(part, problem)


def _parts(schema: Plain) -> list[Schema]:
    """Return schemas that hold as well: of ``allOf``, conditions and dependencies."""
    parts = list(schema.get("allOf", ()))
    if "if" in schema and ("then" in schema or "else" in schema):
        parts.append({"anyOf": _condition(schema)})
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        for name, needed in schema.get(keyword, {}).items():
            also = {"required": [name, *needed]} if isinstance(needed, list) else {
                "allOf": [{"required": [name]}, needed]}  # fmt: skip
            parts.append({"anyOf": [{"properties": {name: False}}, also]})
    return parts


def _condition(schema: Plain) -> list[Schema]:
    """Return choices that each satisfy the condition whichever way it goes.

    Those marked ``_may`` can be left out where they cannot be held; those marked ``_mixed`` must be
    where it matters which properties and items are evaluated.
    """
    then, otherwise = schema.get("then", True), schema.get("else", True)
    return [
        {"allOf": [schema["if"], then]},
        {"allOf": [then, otherwise], "_may": True, "_mixed": True},
        {"allOf": [{"not": schema["if"]}, otherwise], "_may": True},
    ]


def _normalise(schema: Plain) -> Plain:
    """Return the keywords that stay, those of older drafts under today's names."""
    out: Plain = {}
    for key, value in schema.items():
        if key in _IGNORED or key in _MERGED or key.startswith("x-"):
            continue
        if key.startswith("$recursive"):
            raise NotSupported(key, "is not supported")
        out[key] = value
    if "const" in schema:
        out["enum"] = [v for v in [schema["const"]] if "enum" not in out or _is_in(v, out["enum"])]
    if isinstance(out.get("type"), str):
        out["type"] = [out["type"]]
    if schema.get("nullable") is True and "type" in out:  # OpenAPI 3.0
        out["type"] = [*out["type"], "null"]
    for name in out.get("type", ()):
        if name not in TYPES:
            raise GrammarError(f"schema: no type `{name}`", hint=f"types are {', '.join(TYPES)}")
    if isinstance(out.get("items"), list):
        out["prefixItems"], out["items"] = out["items"], schema.get("additionalItems", True)
    _rename_lists(out)
    _rename_bounds(out)
    if "contains" in out:
        out.setdefault("minContains", 1)
    else:  # alone, they say nothing
        out = {k: v for k, v in out.items() if k not in ("minContains", "maxContains")}
    return out


def _rename_lists(out: Plain) -> None:
    for keyword, listed in _LISTED:
        if keyword in out:
            out[listed] = [*out.get(listed, ()), out.pop(keyword)]


def _close(schema: Plain, plain: Plain) -> Plain:
    """Apply ``unevaluated...`` of a schema that is merged with all that stands beside it."""
    out = dict(plain)
    for keyword, becomes, _ in _UNEVALUATED:
        if keyword not in schema or becomes in plain:  # then all are evaluated
            continue
        value = schema[keyword]
        if not plain:
            out["type"] = list(TYPES)
        if value is not True and value != {} and any(key in plain for key in _CHOICES):
            out[keyword] = value
            continue
        if keyword == "unevaluatedItems" and "contains" in plain:
            value = {"anyOf": [value, plain["contains"]]}
        out[becomes] = value
    return out


def _rename_bounds(out: Plain) -> None:
    """Give draft 4's ``exclusiveMinimum: true`` today's form."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(out.get(exclusive), bool) and out.pop(exclusive) and bound in out:
            out[exclusive] = out.pop(bound)


def _is_in(value: Any, values: list[Any]) -> bool:
    return canonical(value) in map(canonical, values)


def extra_schema(s: Plain) -> Schema:
    """Return what properties that are not declared must satisfy; False where none is written.

    An object of which no properties are declared may have any, one of which some are declared has
    no others unless ``additionalProperties`` allows them. To forbid one declares none.

    Source: llama.cpp, common/json-schema-to-grammar.cpp, ``SchemaConverter::visit``.
    """
    is_declared = bool(s.get("patternProperties")) or any(
        not is_false(value) for value in s.get("properties", {}).values()
    )
    return s.get("additionalProperties", not is_declared)


def is_false(schema: Schema) -> bool:
    """Return whether a schema plainly allows nothing."""
    return schema is False or (isinstance(schema, dict) and schema.get("not") in ({}, True))


# Merging


def merge(a: Plain | bool, b: Plain | bool) -> Plain | bool:
    """Return a plain schema that holds what both hold.

    Raises:
        NotSupported: Two keywords cannot be held by one.
    """
    if a is False or b is False:
        return False
    x: Plain = a if isinstance(a, dict) else {}
    y: Plain = b if isinstance(b, dict) else {}
    _check_scopes(x, y)
    out = {**x, **y}
    for key in x.keys() & y.keys():
        out[key] = _MERGERS[key](x[key], y[key]) if key in _MERGERS else _require_equal(
            key, x[key], y[key])  # fmt: skip
    for key in ("type", "enum"):
        if key in out and not out[key]:
            return False
    _merge_properties(x, y, out)
    _merge_items(x, y, out)
    return out


def all_of(x: Schema, y: Schema) -> Schema:
    """Return a schema that both schemas hold for; they are merged when it is made plain."""
    spend(_PLAIN_BYTES)
    if x is True or x == {} or x == y:
        return y
    if y is True or y == {}:
        return x
    if x is False or y is False:
        return False
    marks = {m: True for m in _MARKS for part in (x, y) if isinstance(part, dict) and m in part}
    return {"allOf": [x, y], **marks}


def _check_scopes(x: Plain, y: Plain) -> None:
    """Refuse ``unevaluated...`` with choices beside what it must not see."""
    for keyword, becomes, others in _UNEVALUATED:
        for part, beside in ((x, y), (y, x)):
            if keyword in part and beside.keys() & {keyword, becomes, *others, *_CHOICES}:
                raise NotSupported(keyword, "with alternatives stands inside of another schema")


def _require_equal(key: str, x: Any, y: Any) -> Any:
    if canonical(x) != canonical(y):
        raise NotSupported(key, "stands twice with different values")
    return x


def _merge_types(x: list[str], y: list[str]) -> list[str]:
    def wide(names: list[str]) -> set[str]:
        return {*names, "integer"} if "number" in names else set(names)

    shared = wide(x) & wide(y)
    if "number" in shared:
        shared.discard("integer")
    return [name for name in TYPES if name in shared]


def _merge_values(x: list[Any], y: list[Any]) -> list[Any]:
    allowed = set(map(canonical, y))
    return [value for value in x if canonical(value) in allowed]


def _merge_multiples(x: float, y: float) -> float:
    if is_integer(x) and is_integer(y):
        step = math.lcm(int(x), int(y))
        if step > max(x, y, _MAX_STEP):
            raise NotSupported("multipleOf", f"of several steps is over {_MAX_STEP:,} in all")
        return step
    return float(_require_equal("multipleOf", x, y))


def is_integer(x: float) -> bool:
    """Return whether a number is an integer; doubles do not hold every one."""
    return isinstance(x, int) or x.is_integer()


def _merge_choices(x: list[Schema], y: list[Schema]) -> list[Schema]:
    if len(x) * len(y) > _MAX_CHOICES:
        raise NotSupported("anyOf", f"stands together with another one: over {_MAX_CHOICES} ways")
    return [all_of(p, q) for p in x for q in y]


def _merge_names(x: Mapping[str, Schema], y: Mapping[str, Schema]) -> dict[str, Schema]:
    return {name: all_of(x.get(name, True), y.get(name, True)) for name in {**x, **y}}


def _union(x: list[Any], y: list[Any]) -> list[Any]:
    return [*x, *(value for value in y if value not in x)]


_MERGERS: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(_HIGHEST, max),
    **dict.fromkeys(_LOWEST, min),
    "type": _merge_types,
    "enum": _merge_values,
    "required": lambda x, y: list(dict.fromkeys([*x, *y])),
    "uniqueItems": lambda x, y: x or y,
    "multipleOf": _merge_multiples,
    "anyOf": _merge_choices,
    "_oneOfs": _union,
    **dict.fromkeys(("_unlike", "_unmatched", "_nots", "_patterns", "_formats"), _union),
    "propertyNames": all_of,
    "patternProperties": _merge_names,
    "additionalProperties": all_of,
    "properties": _merge_names,  # and what _merge_properties does
    "prefixItems": lambda x, y: x,  # see _merge_items
    "items": all_of,
}


def _merge_properties(a: Plain, b: Plain, out: Plain) -> None:
    """Hold a property that one side does not declare to what it says of undeclared ones."""
    for one, other in ((a, b), (b, a)):
        undeclared = other.get("additionalProperties", True)
        if undeclared is True:
            continue
        for name in one.get("properties", {}):
            if name in other.get("properties", {}):
                continue
            if other.get("patternProperties"):
                raise NotSupported("additionalProperties", "stands with patternProperties in one "
                                   "part and properties in another")  # fmt: skip
            out["properties"] = {**out["properties"],
                                 name: all_of(out["properties"][name], undeclared)}  # fmt: skip
        if one.get("patternProperties") and one.get("patternProperties") != other.get(
            "patternProperties"
        ):
            raise NotSupported("patternProperties", "stands with additionalProperties of another")


def _merge_items(a: Plain, b: Plain, out: Plain) -> None:
    """Merge the first items one by one, where the lists differ in length with the other's rest."""
    if "prefixItems" not in a and "prefixItems" not in b:
        return
    first = [p.get("prefixItems", []) for p in (a, b)]
    rest = [p.get("items", True) for p in (a, b)]
    out["prefixItems"] = [
        all_of(*(f[i] if i < len(f) else r for f, r in zip(first, rest, strict=True)))
        for i in range(max(map(len, first)))
    ]
