"""Numbers of a schema."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain, count, islice

from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar.gbnf import Literal, Node, Ref
from gguf_hub.run.grammar.schema import numbers
from gguf_hub.run.grammar.schema.check import is_multiple
from gguf_hub.run.grammar.schema.conversion import FAMILIES, Conversion
from gguf_hub.run.grammar.schema.merge import NotSupported, Plain
from gguf_hub.run.grammar.trees import alt

_MAX_VALUES = 1_000
_MAX_COUNTED_STEP = 50
_MAX_DIGITS = 15
_MAX_CHARACTERS = 50_000


def number(conversion: Conversion, s: Plain, name: str) -> Node:
    """Return the numbers of a schema whose type is ``number`` or ``integer``."""
    if "multipleOf" in s:
        return _multiples(conversion, s, name)
    if not any(keyword in s for keyword in FAMILIES["number"]):
        return Ref(s["type"])
    if s["type"] == "integer":
        return numbers.integer_range(*_scaled_bounds(s, Fraction(1)))
    return _decimals(conversion, s)


def _decimals(conversion: Conversion, s: Plain, **digits: int) -> Node:
    """Return the decimal numbers between the bounds of a schema."""
    low = max((s[k] for k in ("minimum", "exclusiveMinimum") if k in s), default=None)
    high = min((s[k] for k in ("maximum", "exclusiveMaximum") if k in s), default=None)
    inside = {k: v for k, v in s.items() if k != "multipleOf"}
    return numbers.number_range(low, high, lambda v: conversion.conforms(v, inside), **digits)


def _multiples(conversion: Conversion, s: Plain, name: str) -> Node:
    """Return the multiples of a step, which is read as the decimal number that is written."""
    written = s["multipleOf"]
    if isinstance(written, bool) or not isinstance(written, (int, float)) or written <= 0:
        raise GrammarError(f"schema, at `{name}`: multipleOf: expected over 0, found {written}")
    step = numbers.decimal(written)
    if s["type"] == "integer":
        step = Fraction(step.numerator)  # in lowest terms, its whole multiples
    low, high = _scaled_bounds(s, step)  # in steps
    is_bounded = low is not None or high is not None
    has_few = low is not None and high is not None and high - low < _MAX_VALUES
    n_digits = numbers.fraction_digits(step)
    is_counted = not is_bounded and step * 10**n_digits <= _MAX_COUNTED_STEP
    is_power = step * 10**n_digits == 1  # such as 0.01
    if n_digits > (_MAX_DIGITS if is_counted or is_power else 0) and not has_few:
        raise NotSupported("multipleOf", f"of {written} is not supported with so many values")
    if not has_few and numbers.decimal(written) != Fraction(written):
        conversion.leave_out("multipleOf", f"of {written} is held by decimal digits: validators "
                             "that divide doubles refuse some multiples")  # fmt: skip
    if step == 1 and not has_few:
        return numbers.integer_range(low, high) if is_bounded else Ref("integer")
    if is_power and not is_counted and not has_few:
        return _decimals(conversion, s, max_digits=n_digits)
    if is_counted:
        rule = conversion.fresh(f"multiple-of-{written}")
        conversion.rules.update(numbers.multiples(step, rule))
        return Ref(rule)
    values = (n * step for n in islice(_near(low, high), _MAX_VALUES))
    texts = [numbers.decimal_text(v) for v in values if _is_multiple(v, written)]
    n_fitting = max(1, _MAX_CHARACTERS // max(map(len, texts), default=1))
    return alt(*map(Literal, texts[:n_fitting]))


def _is_multiple(value: Fraction, step: float) -> bool:
    return is_multiple(int(value) if value.denominator == 1 else float(value), step)


def _scaled_bounds(s: Plain, step: Fraction) -> tuple[int | None, int | None]:
    """Return the smallest and the largest multiple of ``step`` that a schema allows, in steps."""
    lows = [math.ceil(numbers.decimal(s["minimum"]) / step)] if "minimum" in s else []
    highs = [math.floor(numbers.decimal(s["maximum"]) / step)] if "maximum" in s else []
    if "exclusiveMinimum" in s:
        lows.append(math.floor(numbers.decimal(s["exclusiveMinimum"]) / step) + 1)
    if "exclusiveMaximum" in s:
        highs.append(math.ceil(numbers.decimal(s["exclusiveMaximum"]) / step) - 1)
    return max(lows, default=None), min(highs, default=None)


def _near(low: int | None, high: int | None) -> Iterable[int]:
    """Return whole numbers between two bounds, from one of them on, or from 0 on."""
    if low is not None:
        return range(low, high + 1) if high is not None else count(low)
    if high is not None:
        return count(high, -1)
    return chain([0], (n * sign for n in count(1) for sign in (1, -1)))
