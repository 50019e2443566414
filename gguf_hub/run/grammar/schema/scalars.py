"""Numbers and strings of a schema."""

from __future__ import annotations

import math

from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar.gbnf import Literal, Node, Ref
from gguf_hub.run.grammar.pattern import PatternError
from gguf_hub.run.grammar.regex import parse_pattern
from gguf_hub.run.grammar.schema import numbers
from gguf_hub.run.grammar.schema.check import is_multiple
from gguf_hub.run.grammar.schema.conversion import FAMILIES, Conversion
from gguf_hub.run.grammar.schema.lengths import json_of_length, length_range
from gguf_hub.run.grammar.schema.merge import NotSupported, Plain, is_integer
from gguf_hub.run.grammar.schema.strings import FORMATS, in_json, samples, unlike
from gguf_hub.run.grammar.trees import NOTHING, alt, repeat, seq

_MAX_VALUES = 1_000
_LARGEST_COUNTED_STEP = 50


def number(conversion: Conversion, s: Plain, name: str) -> Node:
    """Return the numbers of a schema whose type is ``number`` or ``integer``."""
    if "multipleOf" in s:
        return _multiples(conversion, s, name)
    if not any(keyword in s for keyword in FAMILIES["number"]):
        return Ref(s["type"])
    if s["type"] == "integer":
        return numbers.integer_range(*_integer_bounds(s))
    low = max((s[k] for k in ("minimum", "exclusiveMinimum") if k in s), default=None)
    high = min((s[k] for k in ("maximum", "exclusiveMaximum") if k in s), default=None)
    return numbers.number_range(low, high, lambda value: conversion.conforms(value, s))


def _multiples(conversion: Conversion, s: Plain, name: str) -> Node:
    step = s["multipleOf"]
    if isinstance(step, bool) or not isinstance(step, (int, float)) or step <= 0:
        raise GrammarError(f"schema, at `{name}`: multipleOf: expected over 0, found {step}")
    low, high = _integer_bounds(s)
    if not is_integer(step):
        if s["type"] == "number" or low is None or high is None:
            raise NotSupported("multipleOf", f"of {step} is not supported: expected a whole number")
    elif step == 1:
        unbounded = low is None and high is None
        return Ref("integer") if unbounded else numbers.integer_range(low, high)
    elif low is None and high is None and step <= _LARGEST_COUNTED_STEP:
        rule = conversion.fresh(f"multiple-of-{int(step)}")
        conversion.rules.update(numbers.multiples(int(step), rule))
        return Ref(rule)
    multiples = [
        v for v in _near(low, high, step) if is_multiple(v, step) and conversion.conforms(v, s)
    ]
    return alt(*(Literal(str(v)) for v in multiples[:_MAX_VALUES]))


def _integer_bounds(s: Plain) -> tuple[int | None, int | None]:
    """Return the smallest and the largest integer that a schema allows, None for no bound."""
    lows = [math.ceil(s["minimum"])] if "minimum" in s else []
    highs = [math.floor(s["maximum"])] if "maximum" in s else []
    if "exclusiveMinimum" in s:
        lows.append(math.floor(s["exclusiveMinimum"]) + 1)
    if "exclusiveMaximum" in s:
        highs.append(math.ceil(s["exclusiveMaximum"]) - 1)
    return max(lows, default=None), min(highs, default=None)


def _near(low: int | None, high: int | None, step: float) -> range | list[int]:
    """Return whole numbers, multiples of ``step`` if it is whole, next to a bound or to 0."""
    jump = int(step) if is_integer(step) else 1
    far = _MAX_VALUES * jump
    if low is not None:
        start = -(-low // jump) * jump
        return range(start, (start + far if high is None else min(high, start + far)) + 1, jump)
    if high is not None:
        return range(high // jump * jump, high - far, -jump)
    return [0, *(n * sign for n in range(jump, far // 2, jump) for sign in (1, -1))]


def string(conversion: Conversion, s: Plain, name: str) -> Node:
    """Return the strings of a schema."""
    return seq(Literal('"'), _text(conversion, s), Literal('"'))


def _text(conversion: Conversion, s: Plain) -> Node:
    low, high = int(s.get("minLength", 0)), s.get("maxLength")
    high = None if high is None else int(high)
    if high is not None and high < low:
        return NOTHING
    if "_unlike" in s:
        return _text_except(conversion, s, low, high)
    if "pattern" in s:
        return pattern_text(conversion, s["pattern"], low, high)
    if s.get("format") in FORMATS:
        tree = parse_pattern(FORMATS[s["format"]])
        shortest, longest = length_range(tree)
        if low <= shortest and (high is None or (longest is not None and longest <= high)):
            return in_json(tree)
    return repeat(Ref("char"), low, high)


def pattern_text(conversion: Conversion, pattern: str, low: int, high: int | None) -> Node:
    """Return what stands in JSON for the texts of a pattern with ``low`` to ``high`` characters.

    Raises:
        NotSupported: The pattern or its length cannot be held.
    """
    try:
        return json_of_length(conversion, parse_pattern(pattern), low, high, "text")
    except PatternError as exc:
        raise NotSupported("pattern", f"`{pattern}`: {exc}") from exc


def _text_except(conversion: Conversion, s: Plain, low: int, high: int | None) -> Node:
    """Return the texts other than those of ``_unlike``."""
    near = [n for n in s["_unlike"] if low <= len(n) and (high is None or len(n) <= high)]
    rest = {k: v for k, v in s.items() if k != "_unlike"}
    if not near:
        return _text(conversion, rest)
    if "pattern" in s:
        return in_json(alt(*(Literal(t) for t in _examples(s) if t not in near)))
    if low > 1 or high is not None:
        raise NotSupported("_unlike", "texts (of `not`) stand with a length")
    return in_json(unlike([*near, *([""] if low else [])]))


def _examples(s: Plain) -> list[str]:
    try:
        some = samples(parse_pattern(s["pattern"]), 200)
    except PatternError as exc:
        raise NotSupported("pattern", f"`{s['pattern']}`: {exc}") from exc
    low, high = s.get("minLength", 0), s.get("maxLength")
    return [t for t in some if low <= len(t) and (high is None or len(t) <= high)]
