"""Numbers between two bounds, as digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from gguf_hub.run.grammar.gbnf import Chars, Literal, Node, Ref
from gguf_hub.run.grammar.trees import NOTHING, alt, optional, repeat, seq

DIGIT = Chars(((0x30, 0x39),))
_FAR = 10**15 - 1  # doubles hold all whole numbers up to here
_FAR_INTEGER = 10**19 - 1  # ids of 64 bits lie below
_FRACTION_DIGITS = 6
_MAX_FRACTION_DIGITS = 15


def plain_integer() -> Node:
    """Return any whole number of up to 19 digits, which 64 bits hold."""
    natural = alt(Literal("0"), seq(Chars(((0x31, 0x39),)), repeat(DIGIT, 0, 18)))
    return seq(optional(Literal("-")), natural)


def plain_number() -> Node:
    """Return any number whose value is finite."""
    fraction = seq(Literal("."), repeat(DIGIT, 1, 15))
    sign = Chars(((0x2B, 0x2B), (0x2D, 0x2D)))
    exponent = seq(Chars(((0x45, 0x45), (0x65, 0x65))), optional(sign), repeat(DIGIT, 1, 2))
    return seq(plain_integer(), optional(fraction), optional(exponent))


def integer_range(low: int | None, high: int | None) -> Node:
    """Return the whole numbers from ``low`` to ``high``, both included; None: far away."""
    low = min(-_FAR_INTEGER, high if high is not None else 0) if low is None else low
    high = max(_FAR_INTEGER, low) if high is None else high
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


def number_range(
    low: float | None,
    high: float | None,
    inside: Callable[[float], bool],
    max_digits: int = _MAX_FRACTION_DIGITS,
) -> Node:
    """Return decimal numbers between two bounds.

    Args:
        low: Lower bound, None for far away.
        high: Upper bound.
        inside: Whether a value is allowed, bounds that are excluded too; decides at the ends.
        max_digits: Most digits after the point.
    """
    first = decimal(low) if low is not None else -decimal(max(_FAR, abs(high or 0) * 2))
    last = decimal(high) if high is not None else decimal(max(_FAR, abs(low or 0) * 2))
    options: list[Node] = []
    for digits in range(max_digits + 1):
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


def multiples(step: Fraction, name: str) -> dict[str, Node]:
    """Return rules for the digits of all multiples of a decimal number; ``name`` is the first.

    In units of the last digit, the step is whole. One rule for each remainder and number of digits
    after the point: reading digit d takes remainder r to (10 r + d) mod step.
    """
    n_digits = fraction_digits(step)
    unit = int(step * 10**n_digits)

    def after(remainder: int, n_read: int) -> list[Node]:
        is_multiple = remainder * 10 ** (n_digits - n_read) % unit == 0
        return [seq()] if is_multiple else []

    rules: dict[str, Node] = {}
    for remainder in range(unit):
        for n_read in range(n_digits + 1):
            onwards = [] if n_read == n_digits and n_read else [
                seq(Literal(str(d)),
                    Ref(f"{name}--{(10 * remainder + d) % unit}-{n_read + (n_read > 0)}"))
                for d in range(10)
            ]  # fmt: skip
            if n_read == 0 and n_digits:
                onwards.append(seq(Literal("."), Ref(f"{name}--{remainder}-point")))
            rules[f"{name}--{remainder}-{n_read}"] = alt(*onwards, *after(remainder, n_read))
        if n_digits:
            rules[f"{name}--{remainder}-point"] = alt(
                *(seq(Literal(str(d)), Ref(f"{name}--{(10 * remainder + d) % unit}-1"))
                  for d in range(10))
            )  # fmt: skip
    first = [seq(Literal(str(d)), Ref(f"{name}--{d % unit}-0")) for d in range(1, 10)]
    fraction = optional(seq(Literal("."), Ref(f"{name}--0-point"))) if n_digits else seq()
    zero = seq(Literal("0"), fraction)
    return {name: seq(optional(Literal("-")), alt(zero, *first)), **rules}


def decimal(value: float) -> Fraction:
    """Return a number as its shortest decimal digits say it: 0.1 is one tenth."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def fraction_digits(value: Fraction) -> int:
    """Return how many digits a decimal number has after its point."""
    n_digits = 0
    while value.denominator > 1:
        value *= 10
        n_digits += 1
    return n_digits


def decimal_text(value: Fraction) -> str:
    """Return a decimal number without an exponent."""
    n_digits = fraction_digits(value)
    digits = f"{abs(int(value * 10**n_digits)):0{n_digits + 1}d}"
    whole, fraction = digits[: len(digits) - n_digits], digits[len(digits) - n_digits :]
    return ("-" if value < 0 else "") + whole + (f".{fraction}" if fraction else "")
