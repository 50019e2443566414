"""CPU time and memory that work on input from outside may take: templates, grammars, schemas.

Whoever takes such input in opens a budget; whatever works on it calls ``spend`` as it goes, which
counts the bytes that are kept and looks at the CPU clock of this thread. Waiting for other threads
costs nothing. Between two calls stands only what is quick whatever the input.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from types import TracebackType

from gguf_hub.errors import BudgetError, BusyError

_SPENDS_PER_LOOK = 32  # a look at the clock takes about 1 us
_LARGE_BYTES = 20_000  # what keeps so much may have taken long


class Budget:
    """CPU time and memory for one piece of work; entered, it is what this thread spends from.

    Args:
        cpu_s: CPU time of this thread; what is left stays for the next time it is entered.
        n_bytes: Memory that may be kept each time it is entered.
    """

    def __init__(self, cpu_s: float, n_bytes: int) -> None:
        self.cpu_s, self.n_bytes = cpu_s, n_bytes
        self._left_s = cpu_s
        self._bytes_left = n_bytes
        self._deadline_s = 0.0
        self._until_look = _SPENDS_PER_LOOK
        self._outer: list[Token[Budget | None]] = []

    def __enter__(self) -> Budget:
        self._outer.append(_CURRENT.set(self))
        self._deadline_s = time.thread_time() + self._left_s
        self._bytes_left = self.n_bytes
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self._left_s = self._deadline_s - time.thread_time()
        _CURRENT.reset(self._outer.pop())

    def refill(self, cpu_s: float) -> None:
        """Give back some CPU time, no more than there was at first."""
        self._left_s = min(self._left_s + cpu_s, self.cpu_s)

    def spend(self, n_bytes: int) -> None:
        """Count bytes that are kept; now and then look at the clock."""
        self._bytes_left -= n_bytes
        if self._bytes_left < 0:
            raise BudgetError(f"it takes more than {self.n_bytes // 10**6} MB of memory")
        self._until_look -= 1
        if self._until_look < 0 or n_bytes > _LARGE_BYTES:
            self.look()

    def look(self) -> None:
        """Look at the clock."""
        self._until_look = _SPENDS_PER_LOOK
        if time.thread_time() > self._deadline_s:
            raise BudgetError(f"it takes more than {self.cpu_s:g} s of CPU time")
        stop = _STOP.get()
        if stop is not None and stop.is_set():
            raise BusyError("the program is about to stop")


_CURRENT: ContextVar[Budget | None] = ContextVar("budget", default=None)
_STOP: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


def limit(cpu_s: float, n_bytes: int) -> AbstractContextManager[object]:
    """Return a context in which work has a budget: the one in force, else a new one.

    Raises:
        BudgetError: Inside it, when more is spent.
    """
    return nullcontext() if _CURRENT.get() is not None else Budget(cpu_s, n_bytes)


@contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """Let ``stop`` end what this thread does on a budget.

    Raises:
        BusyError: Inside it, soon after ``stop`` is set.
    """
    token = _STOP.set(stop)
    try:
        yield
    finally:
        _STOP.reset(token)


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
