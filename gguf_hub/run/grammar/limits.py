"""What a grammar may cost: once, to be made, and again for every token.

All texts of a server share its threads, so that no grammar may hold them up for long. Real grammars
take a tenth of this, most of them a hundredth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gguf_hub.budget import Budget, Lane, limit
from gguf_hub.errors import BudgetError, GrammarError

MAKE_CPU_S = 0.8
MAKE_BYTES = 150_000_000
_LONG = Lane(after_s=0.05)
"""Small grammars are made while a large one is."""

TOKEN_CPU_S = 0.15
"""It is spent by the thread that computes all texts: they wait meanwhile."""
REFILL_CPU_S = 0.02
"""What each token gives back: a grammar may not take longer than this on average."""
TOKEN_BYTES = 40_000_000

MAX_AUTOMATON_BYTES = 40_000_000
"""What an automaton may have learned before it is made anew."""
MAX_MASK_BYTES = 30_000_000


@contextmanager
def making(what: str) -> Iterator[None]:
    """Give work on a grammar the budget of one.

    Args:
        what: ``"grammar"`` or ``"schema"``, for the message.

    Raises:
        GrammarError: It costs too much, or is nested too deeply.
    """
    try:
        with limit(MAKE_CPU_S, MAKE_BYTES, _LONG):
            yield
    except BudgetError as exc:
        raise GrammarError(
            f"the {what} is too large: {exc}", hint="repeat less, and use fewer alternatives"
        ) from exc
    except RecursionError as exc:
        raise GrammarError(f"the {what} is nested too deeply") from exc


def token_budget() -> Budget:
    """Return the budget of a text that follows a grammar."""
    return Budget(TOKEN_CPU_S, TOKEN_BYTES)


def too_ambiguous(exc: BudgetError) -> GrammarError:
    """Return the error of a grammar that costs too much while a text is written."""
    return GrammarError(
        f"the grammar leaves too many ways to read the text: {exc}",
        hint="make it less ambiguous, or repeat less inside of repetitions",
    )
