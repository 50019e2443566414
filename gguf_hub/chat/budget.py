"""Time and space that rendering a template may take.

Every value that a template builds is weighed: its characters, and its entries, nested ones counted
each time that they appear. A value over ``PIECE_LIMIT`` ends the rendering, and so do all of them
together over ``TOTAL_LIMIT``; each time something is charged, the clock is looked at too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError, TemplateError

TIME_LIMIT_S = 0.5
PIECE_LIMIT = 4_000_000
TOTAL_LIMIT = 64_000_000

ENTRY_WEIGHT = 16  # bytes that an entry of a list takes at least
_INT_LIMIT = 2**64
_PLAIN = (str, int, float, type(None), Undefined, range)  # bool is an int


class BudgetError(TemplateError):
    """A template wanted more time or space than any real one needs."""


class _Budget:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self.deadline_s = time.perf_counter() + TIME_LIMIT_S
        self.left = TOTAL_LIMIT


_BUDGET: ContextVar[_Budget] = ContextVar("template budget")


@contextmanager
def rendering() -> Iterator[None]:
    """Give what runs inside one budget."""
    token = _BUDGET.set(_Budget())
    try:
        yield
    finally:
        _BUDGET.reset(token)


def look() -> None:
    """Look at the clock; raise when time is up."""
    if time.perf_counter() > _BUDGET.get().deadline_s:
        raise BudgetError(f"it runs for more than {TIME_LIMIT_S} s")


def charge(weight: int) -> None:
    """Count a value of this weight as built."""
    budget = _BUDGET.get()
    budget.left -= weight
    if weight > PIECE_LIMIT or budget.left < 0:
        raise BudgetError(f"it builds texts or lists of more than {PIECE_LIMIT:,} characters")
    look()


def weigh(value: Any) -> int:
    """Return the weight of plain data, counting no further than over the limit.

    Raises:
        SecurityError: A list holds something that is no plain data.
        BudgetError: A number is too large.
    """
    weight, stack = 0, [value]
    while stack and weight <= PIECE_LIMIT:
        item = stack.pop()
        weight += ENTRY_WEIGHT
        if isinstance(item, str):
            weight += len(item)
        elif isinstance(item, dict):
            stack += item
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
        elif isinstance(item, int) and abs(item) >= _INT_LIMIT:
            raise BudgetError("it computes numbers of 2**64 or more")
        elif item is not value and not isinstance(item, _PLAIN):
            raise SecurityError(f"a {type(item).__name__} cannot be put into a list")
    return weight


def checked(value: Any) -> Any:
    """Return ``value`` after charging its weight."""
    charge(weigh(value))
    return value


def text(value: Any) -> str:
    """Return the text that ``value`` prints; only plain data prints.

    Raises:
        SecurityError: The value is no plain data.
    """
    if isinstance(value, str):
        return str(value)
    if not isinstance(value, (*_PLAIN, list, tuple, dict)):
        raise SecurityError(f"a {type(value).__name__} cannot be printed")
    charge(weigh(value))
    return str(value)
