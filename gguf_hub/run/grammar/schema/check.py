"""Whether a value satisfies a JSON schema: for values that are known while a grammar is built.

Source: JSON Schema 2020-12 and the drafts before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from gguf_hub.budget import spend
from gguf_hub.run.grammar import search
from gguf_hub.run.grammar.pattern import PatternError

Resolve = Callable[[Mapping[str, Any], str], Any]

_MAX_DEPTH = 100

_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda v: v is None,
    "boolean": lambda v: isinstance(v, bool),
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "integer": lambda v: (
        (isinstance(v, int) and not isinstance(v, bool))
        or (isinstance(v, float) and v.is_integer())
    ),
}


class CannotCheck(Exception):
    """The schema uses a keyword that is not understood here."""


def canonical(value: Any) -> str:
    """Return a text that is equal for equal JSON values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, str):
        return f'"{value}'

    def plain(v: Any) -> Any:
        spend()
        if isinstance(v, float) and v.is_integer():
            return int(v)
        if isinstance(v, dict):
            return {k: plain(x) for k, x in v.items()}
        return [plain(x) for x in v] if isinstance(v, list) else v

    return json.dumps(plain(value), sort_keys=True)


def json_type(value: Any) -> str:
    """Return the type of a value; whole numbers are numbers."""
    return next(name for name in _TYPES if name != "integer" and _TYPES[name](value))


def conforms(value: Any, schema: Any, resolve: Resolve) -> bool:
    """Return whether ``value`` satisfies ``schema``.

    Args:
        value: A JSON value.
        schema: A schema of any draft.
        resolve: Returns what a reference points to, given its schema and keyword.

    Raises:
        CannotCheck: The schema uses a keyword that is not understood.
    """
    return _Check(resolve).holds(value, schema, 0)


class _Check:
    """One check; parts of a schema may be referred to many times, and are checked once."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._results: dict[tuple[int, int], bool] = {}

    def holds(self, value: Any, schema: Any, depth: int) -> bool:
        if isinstance(schema, bool):
            return schema
        if depth > _MAX_DEPTH:
            raise CannotCheck("it refers to itself without end")
        key = (id(value), id(schema))  # both live as long as the check
        if key not in self._results:
            spend()
            self._results[key] = self._compute(value, schema, depth)
        return self._results[key]

    def _compute(self, value: Any, schema: Any, depth: int) -> bool:
        def holds(v: Any, s: Any) -> bool:
            return self.holds(v, s, depth + 1)

        for keyword, rule in schema.items():
            if keyword.startswith(("$recursive", "unevaluated")) and rule is not True:
                raise CannotCheck(f"`{keyword}` is not supported")
        return (
            _has_type(value, schema)
            and _holds_combined(value, schema, holds, self._resolve)
            and (not _TYPES["number"](value) or _holds_number(value, schema))
            and (not isinstance(value, str) or _holds_string(value, schema))
            and (not isinstance(value, list) or _holds_array(value, schema, holds))
            and (not isinstance(value, dict) or _holds_object(value, schema, holds))
        )


Holds = Callable[[Any, Any], bool]


def _has_type(value: Any, schema: Mapping[str, Any]) -> bool:
    types = schema.get("type", [])
    names = [types] if isinstance(types, str) else types
    if names and not any(_TYPES.get(name, lambda _: False)(value) for name in names):
        return False
    if "const" in schema and canonical(schema["const"]) != canonical(value):
        return False
    return "enum" not in schema or canonical(value) in map(canonical, schema["enum"])


def _holds_combined(value: Any, s: Mapping[str, Any], holds: Holds, resolve: Resolve) -> bool:
    for keyword in ("$ref", "$dynamicRef"):
        if keyword in s and not holds(value, _target(s, keyword, resolve)):
            return False
    if not all(holds(value, part) for part in s.get("allOf", ())):
        return False
    if "anyOf" in s and not any(holds(value, part) for part in s["anyOf"]):
        return False
    lists = [*([s["oneOf"]] if "oneOf" in s else []), *s.get("_oneOfs", ())]
    if any(sum(holds(value, part) for part in options) != 1 for options in lists):
        return False
    if any(
        holds(value, part) for part in [*([s["not"]] if "not" in s else []), *s.get("_nots", ())]
    ):
        return False
    if "if" in s:
        branch = "then" if holds(value, s["if"]) else "else"
        return holds(value, s.get(branch, True))
    return True


def _target(s: Mapping[str, Any], keyword: str, resolve: Resolve) -> Any:
    try:
        return resolve(s, keyword)
    except LookupError as exc:
        raise CannotCheck(f"`{keyword}` {exc}") from exc


def _holds_number(value: float, s: Mapping[str, Any]) -> bool:
    for exclusive, bound, sign in (("exclusiveMinimum", "minimum", 1),
                                   ("exclusiveMaximum", "maximum", -1)):  # fmt: skip
        limit = s.get(exclusive)
        if limit is True:  # draft 4: the bound itself is excluded
            limit = s.get(bound)
        if limit is not None and limit is not False and sign * value <= sign * limit:
            return False
        if bound in s and sign * value < sign * s[bound]:
            return False
    return "multipleOf" not in s or is_multiple(value, s["multipleOf"])


def is_multiple(value: float, step: float) -> bool:
    """Return whether ``value`` is a multiple, as the common validators compute it."""
    if isinstance(step, int) and isinstance(value, int):
        return value % step == 0
    try:
        return (value / step).is_integer()
    except OverflowError:
        return False


def _holds_string(value: str, s: Mapping[str, Any]) -> bool:
    if not s.get("minLength", 0) <= len(value) <= s.get("maxLength", len(value)):
        return False
    if value in s.get("_unlike", ()) or any(has_match(p, value) for p in s.get("_unmatched", ())):
        return False
    patterns = [*([s["pattern"]] if "pattern" in s else []), *s.get("_patterns", ())]
    return all(has_match(pattern, value) for pattern in patterns)


def has_match(pattern: str, text: str) -> bool:
    """Return whether a pattern matches somewhere in a text.

    Raises:
        CannotCheck: The pattern is wrong, or uses what an automaton cannot follow.
    """
    try:
        return search.has_match(pattern, text)
    except PatternError as exc:
        raise CannotCheck(f"pattern `{pattern}`: {exc}") from exc


def _holds_array(value: list[Any], s: Mapping[str, Any], holds: Holds) -> bool:
    if not s.get("minItems", 0) <= len(value) <= s.get("maxItems", len(value)):
        return False
    is_list = isinstance(s.get("items"), list)
    first = s["items"] if is_list else s.get("prefixItems", [])
    rest = s.get("additionalItems", True) if is_list else s.get("items", True)
    parts = [*first[: len(value)], *[rest] * (len(value) - len(first))]
    if not all(holds(v, part) for v, part in zip(value, parts, strict=True)):
        return False
    if s.get("uniqueItems") and len(set(map(canonical, value))) < len(value):
        return False
    if "contains" not in s:
        return True
    count = sum(holds(v, s["contains"]) for v in value)
    return bool(s.get("minContains", 1) <= count <= s.get("maxContains", count))


def _holds_object(value: dict[str, Any], s: Mapping[str, Any], holds: Holds) -> bool:
    if not s.get("minProperties", 0) <= len(value) <= s.get("maxProperties", len(value)):
        return False
    if any(name not in value for name in s.get("required", ())):
        return False
    if "propertyNames" in s and not all(holds(name, s["propertyNames"]) for name in value):
        return False
    if not all(_holds_property(n, v, s, holds) for n, v in value.items()):
        return False
    return all(
        all(name in value for name in needed) if isinstance(needed, list) else holds(value, needed)
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies")
        for name, needed in s.get(keyword, {}).items()
        if name in value
    )


def _holds_property(name: str, value: Any, s: Mapping[str, Any], holds: Holds) -> bool:
    parts = [part for p, part in s.get("patternProperties", {}).items() if has_match(p, name)]
    if name in s.get("properties", {}):
        parts.append(s["properties"][name])
    if not parts:
        parts = [s.get("additionalProperties", True)]
    return all(holds(value, part) for part in parts)
