"""CPU time and memory that work on input from outside may take: templates, grammars, schemas.

Whoever takes such input in opens a budget; whatever works on it calls ``spend`` as it goes, which
counts the bytes that are kept and looks at the CPU clock of this thread. Waiting for other threads
costs nothing. Between two calls stands only what is quick whatever the input.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import TracebackType

from gguf_hub.errors import BudgetError

_SPENDS_PER_LOOK = 32  # a look at the clock takes about 1 us
_LARGE_BYTES = 20_000  # what keeps so much may have taken long


class Lane:
    """Where work that takes long goes on: one task at a time, so that short work passes.

    Args:
        after_s: CPU time after which work takes long.
    """

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self.lock = threading.Lock()


class Budget:
    """CPU time and memory for one task; entered, it is what this thread spends from.

    Args:
        cpu_s: CPU time of this thread; what is left stays for the next time it is entered.
        n_bytes: Memory that may be kept each time it is entered.
        lane: Where the work goes on when it takes long; None for no waiting.
    """

    def __init__(self, cpu_s: float, n_bytes: int, lane: Lane | None = None) -> None:
        self.cpu_s, self.n_bytes = cpu_s, n_bytes
        self._lane, self._is_in_lane = lane, False
        self._left_s = cpu_s
        self._bytes_left = n_bytes
        self._began_s: float | None = None
        self._until_look = _SPENDS_PER_LOOK
        self._outer: list[Token[Budget | None]] = []

    def __enter__(self) -> Budget:
        self._outer.append(_CURRENT.set(self))
        self._bytes_left = self.n_bytes
        self._began_s = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        _CURRENT.reset(self._outer.pop())
        if self._began_s is not None:
            self._left_s -= time.thread_time() - self._began_s
        if self._lane is not None and self._is_in_lane:
            self._is_in_lane = False
            self._lane.lock.release()

    def refill(self, cpu_s: float) -> None:
        """Give back some CPU time, no more than there was at first."""
        self._left_s = min(self._left_s + cpu_s, self.cpu_s)

    def spend(self, n_bytes: int) -> None:
        """Count bytes that are kept; now and then look at the clock."""
        self._bytes_left -= n_bytes
        if self._bytes_left < 0:
            raise BudgetError(f"it takes more than {self.n_bytes // 10**6} MB of memory")
        self._until_look -= 1
        if self._until_look < 0 or n_bytes > _LARGE_BYTES or self._began_s is None:
            self.look()

    def look(self) -> None:
        """Look at the clock, which runs from the first look on: work that costs nothing is free."""
        self._until_look = _SPENDS_PER_LOOK
        now = time.thread_time()
        if self._began_s is None:
            self._began_s = now
        used_s = now - self._began_s
        if used_s > self._left_s:
            raise BudgetError(f"it takes more than {self.cpu_s:g} s of CPU time")
        if self._lane is not None and not self._is_in_lane and used_s > self._lane.after_s:
            self._is_in_lane = self._lane.lock.acquire()


_CURRENT: ContextVar[Budget | None] = ContextVar("budget", default=None)


def limit(cpu_s: float, n_bytes: int, lane: Lane | None = None) -> AbstractContextManager[object]:
    """Return a context in which work has a budget: the one in force, else a new one.

    Raises:
        BudgetError: Inside it, when more is spent.
    """
    return nullcontext() if _CURRENT.get() is not None else Budget(cpu_s, n_bytes, lane)


def spend(n_bytes: int = 0) -> None:
    """Count bytes that are kept, and time; free where there is no budget.

    Raises:
        BudgetError: The budget is spent.
    """
    budget = _CURRENT.get()
    if budget is not None:
        budget.spend(n_bytes)


def look() -> None:
    """Look at the clock at once: before or after what may have taken long.

    Raises:
        BudgetError: The budget is spent.
    """
    budget = _CURRENT.get()
    if budget is not None:
        budget.look()
