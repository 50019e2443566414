"""What the values that a template builds cost.

Every value costs its characters and its entries, nested ones counted each time that they appear. A
value over ``VALUE_LIMIT`` ends the rendering, and so does spending more than the budget of
``rendering_budget``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

from gguf_hub import budget
from gguf_hub.errors import BudgetError

CPU_LIMIT_S = 0.5
BYTES_LIMIT = 200_000_000
VALUE_LIMIT = 4_000_000

ENTRY_COST = 16  # characters that an entry of a list counts for
_CHARACTER_BYTES = 4
_INT_LIMIT = 2**64
_PLAIN = (str, int, float, type(None), Undefined, range)  # bool is an int


def rendering_budget() -> AbstractContextManager[object]:
    """Return a context with the budget of one rendering."""
    return budget.limit(CPU_LIMIT_S, BYTES_LIMIT)


def spend(n_characters: int) -> None:
    """Count a value of this cost as built, and look at the clock.

    Raises:
        BudgetError: It is too large, or the budget is spent.
    """
    if n_characters > VALUE_LIMIT:
        raise BudgetError(f"it builds texts or lists of more than {VALUE_LIMIT:,} characters")
    budget.spend(n_characters * _CHARACTER_BYTES)
    budget.look()


def cost(value: Any) -> int:
    """Return the cost of plain data in characters, counting no further than over the limit.

    Raises:
        SecurityError: A list holds something other than plain data.
        BudgetError: A number is too large.
    """
    total, stack = 0, [value]
    while stack and total <= VALUE_LIMIT:
        item = stack.pop()
        total += ENTRY_COST
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            stack += item
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
        elif isinstance(item, int) and abs(item) >= _INT_LIMIT:
            raise BudgetError("it computes numbers of 2**64 or more")
        elif item is not value and not isinstance(item, _PLAIN):
            raise SecurityError(f"a {type(item).__name__} cannot be put into a list")
    return total


def spend_on(value: Any) -> Any:
    """Return ``value`` after spending its cost."""
    spend(cost(value))
    return value


def text_of(value: Any) -> str:
    """Return the text that ``value`` prints; only plain data prints.

    Raises:
        SecurityError: The value is not plain data.
    """
    if isinstance(value, str):
        return str(value)
    if not isinstance(value, (*_PLAIN, list, tuple, dict)):
        raise SecurityError(f"a {type(value).__name__} cannot be printed")
    spend(cost(value))
    return str(value)
