"""Numbers between two bounds, as digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from gguf_hub.run.grammar.gbnf import Chars, Literal, Node, Ref
from gguf_hub.run.grammar.trees import NOTHING, alt, optional, repeat, seq

DIGIT = Chars(((0x30, 0x39),))
_FAR = 10**15 - 1  # doubles hold all whole numbers up to here
_FRACTION_DIGITS = 6
_MAX_FRACTION_DIGITS = 15


def plain_integer() -> Node:
    """Return any whole number of up to 15 digits."""
    natural = alt(Literal("0"), seq(Chars(((0x31, 0x39),)), repeat(DIGIT, 0, 14)))
    return seq(optional(Literal("-")), natural)


def plain_number() -> Node:
    """Return any number whose value is finite."""
    fraction = seq(Literal("."), repeat(DIGIT, 1, 15))
    sign = Chars(((0x2B, 0x2B), (0x2D, 0x2D)))
    exponent = seq(Chars(((0x45, 0x45), (0x65, 0x65))), optional(sign), repeat(DIGIT, 1, 2))
    return seq(plain_integer(), optional(fraction), optional(exponent))


def integer_range(low: int | None, high: int | None) -> Node:
    """Return the whole numbers from ``low`` to ``high``, both included; None: far away."""
    low = min(-_FAR, high if high is not None else 0) if low is None else low
    high = max(_FAR, low) if high is None else high
    if high < low:
        return NOTHING
    negative = natural_range(max(1, -high), -low) if low < 0 else NOTHING
    positive = natural_range(max(0, low), high) if high >= 0 else NOTHING
    return alt(seq(Literal("-"), negative), positive)


def natural_range(low: int, high: int) -> Node:
    """Return the digits of the numbers from ``low`` >= 0 to ``high``, without leading zeros."""
    options = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        last = min(high, 10**length - 1)
        if first <= last:
            options.append(_same_length(str(first), str(last)))
    return alt(*options)


def _same_length(low: str, high: str) -> Node:
    """Return the texts of digits from ``low`` to ``high``, which have the same length."""
    n_rest = len(low) - 1
    if n_rest < 0:
        return seq()
    if low[0] == high[0]:
        return seq(Literal(low[0]), _same_length(low[1:], high[1:]))
    first, last = int(low[0]), int(high[0])
    options: list[Node] = []
    if low[1:] != "0" * n_rest:
        options.append(seq(Literal(low[0]), _same_length(low[1:], "9" * n_rest)))
        first += 1
    if high[1:] != "9" * n_rest:
        options.append(seq(Literal(high[0]), _same_length("0" * n_rest, high[1:])))
        last -= 1
    if first <= last:
        options.append(seq(Chars(((0x30 + first, 0x30 + last),)), repeat(DIGIT, n_rest, n_rest)))
    return alt(*options)


def number_range(low: float | None, high: float | None, inside: Callable[[float], bool]) -> Node:
    """Return decimal numbers between two bounds.

    Args:
        low: Lower bound, None for far away.
        high: Upper bound.
        inside: Whether a value is allowed, bounds that are excluded too; decides at the ends.
    """
    first = Fraction(low) if low is not None else -Fraction(max(_FAR, abs(high or 0) * 2))
    last = Fraction(high) if high is not None else Fraction(max(_FAR, abs(low or 0) * 2))
    options: list[Node] = []
    for digits in range(_MAX_FRACTION_DIGITS + 1):
        if digits > _FRACTION_DIGITS and options:
            break
        scale = 10**digits
        ends = _shrink(math.ceil(first * scale), math.floor(last * scale), scale, inside)
        if ends is not None:
            options.append(_decimals(*ends, digits))
    return alt(*options)


def _shrink(
    low: int, high: int, scale: int, inside: Callable[[float], bool]
) -> tuple[int, int] | None:
    """Return the ends moved inwards until both are allowed as doubles, None if nothing is left."""

    def value(n: int) -> float:  # as a reader of JSON gets it
        return n if scale == 1 else n / scale

    for _ in range(4):
        if low <= high and not inside(value(low)):
            low += 1
        if low <= high and not inside(value(high)):
            high -= 1
    is_valid = low <= high and inside(value(low)) and inside(value(high))
    return (low, high) if is_valid else None


def _decimals(low: int, high: int, digits: int) -> Node:
    """Return the numbers n / 10**digits with n from ``low`` to ``high``, all digits written."""
    if digits == 0:
        return integer_range(low, high)
    negative = _positive_decimals(max(1, -high), -low, digits) if low < 0 else NOTHING
    positive = _positive_decimals(max(0, low), high, digits) if high >= 0 else NOTHING
    return alt(seq(Literal("-"), negative), positive)


def _positive_decimals(low: int, high: int, digits: int) -> Node:
    scale = 10**digits
    (first, start), (last, end) = divmod(low, scale), divmod(high, scale)

    def fraction(a: int, b: int) -> Node:
        return seq(Literal("."), _same_length(f"{a:0{digits}d}", f"{b:0{digits}d}"))

    if first == last:
        return seq(Literal(str(first)), fraction(start, end))
    options = [seq(Literal(str(first)), fraction(start, scale - 1)),
               seq(Literal(str(last)), fraction(0, end))]  # fmt: skip
    if first + 1 < last:
        options.append(seq(natural_range(first + 1, last - 1), fraction(0, scale - 1)))
    return alt(*options)


def multiples(step: int, name: str) -> dict[str, Node]:
    """Return rules for the digits of all multiples of ``step``; ``name`` is the first.

    One rule for each remainder: reading digit d takes remainder r to (10 r + d) mod step.
    """
    rules: dict[str, Node] = {}
    for remainder in range(step):
        onwards = [
            seq(Literal(str(d)), Ref(f"{name}-{(10 * remainder + d) % step}")) for d in range(10)
        ]
        rules[f"{name}-{remainder}"] = alt(*onwards, *([seq()] if remainder == 0 else []))
    first = [seq(Literal(str(d)), Ref(f"{name}-{d % step}")) for d in range(1, 10)]
    return {name: alt(Literal("0"), seq(optional(Literal("-")), alt(*first))), **rules}
