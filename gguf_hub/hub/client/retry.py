"""How often a request is sent again, and how long it waits: one rule for all that asks a hub.

What is transient is said by the error: ``HubUnreachableError``, with ``retry_after_s`` where the
server asks for a pause (``translate.py`` makes it from the answer).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from gguf_hub.errors import HubUnreachableError, OfflineModeError

LONGEST_WAIT_S = 120.0
"""A server that asks for more is reported instead of waited for."""


@dataclass
class Backoff:
    """The tries of one request, or of one connection.

    Attributes:
        waits_s: Longest pause after each failure in a row; there are no more tries than these.
        n_failures: How many failures in a row brought nothing.
    """

    waits_s: tuple[float, ...]
    n_failures: int = 0

    def count(self, *, has_progress: bool = False) -> None:
        """Count a failure; one that brought something starts the count anew."""
        self.n_failures = 0 if has_progress else self.n_failures + 1

    def wait_s(self, error: HubUnreachableError, *, is_hopeless: bool = True) -> float:
        """Return how long to wait now: as asked for, or at random, so that clients spread.

        Args:
            error: What went wrong.
            is_hopeless: Too many failures end it; not so while other connections do well.

        Raises:
            HubUnreachableError: ``error``, where another try makes no sense.
        """
        asked_s = error.retry_after_s or 0.0
        is_spent = self.n_failures > len(self.waits_s)
        is_forbidden = isinstance(error, OfflineModeError)
        if (is_spent and is_hopeless) or is_forbidden or asked_s > LONGEST_WAIT_S:
            raise error
        step = min(max(self.n_failures, 1), len(self.waits_s)) - 1
        longest_s = self.waits_s[step] if self.waits_s else 0.0
        return max(asked_s, random.uniform(longest_s / 2, longest_s))
