"""How many threads run a pass, where other programs use their cores.

All threads of a pass wait at each step for the slowest one. One whose core another program uses
half of the time makes all others wait, and a pass is faster without it. No result depends on how
many there are, so that this is found out by trying.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence

_MOST_TOKENS = 8
"""Passes over more tokens have enough work for half a core, too: all threads run them."""
_LEAST_PASSES, _WATCHED_S, _TRIED_S = 8, 0.4, 0.1
"""How many passes are looked at together, and for how long at least, before a try and in it: many
turns of the system's scheduler, and more than a moment's work of another program."""
_LATE = 0.1
"""Share of a pass that a thread waits for its core, from which it counts as late."""
_CROWDED = 0.5
"""Late threads, on the average of the time, from which fewer are tried."""
_FASTER = 0.98
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.5, 16.0


class CoreClock:
    """Tells how long the calling thread did not run, though it could have."""

    def __init__(self) -> None:
        self._began = time.perf_counter() - time.thread_time()

    def waited_s(self) -> float:
        """Return the seconds since the clock was made."""
        return time.perf_counter() - time.thread_time() - self._began


class ActiveThreads:
    """Chooses how many of ``n_threads`` run the next pass.

    While threads wait for their cores, it tries now and then to do without as many, and while none
    does, to take one more. The faster number stays; where it is the old one, the next try is later.
    """

    def __init__(self, n_threads: int) -> None:
        self._most = self._n = n_threads
        self._tried = 0  # another number, which is being tried
        self._kind: tuple[Hashable, int] | None = None
        self._n_passes, self._wall_s, self._late_s = 0, 0.0, 0.0
        self._reference_s = 0.0  # a pass with ``_n`` threads, before the try
        self._pause_s = _FIRST_PAUSE_S
        self._try_at = 0.0

    def choose(self, n_tokens: int) -> int:
        """Return how many threads run a pass over so many tokens."""
        return self._most if n_tokens > _MOST_TOKENS else self._tried or self._n

    def count(
        self, program: Hashable, n_tokens: int, wall_s: float, waits_s: Sequence[float]
    ) -> None:
        """Learn from a pass that as many threads ran as ``choose`` said.

        Args:
            program: What was run; passes of another one take another time.
            n_tokens: How many tokens it had; as well.
            wall_s: How long it took.
            waits_s: How long each thread waited for its core.
        """
        if self._most == 1 or n_tokens > _MOST_TOKENS:
            return
        if (program, n_tokens) != self._kind:
            self._kind, self._tried = (program, n_tokens), 0
            self._forget()
        self._n_passes += 1
        self._wall_s += wall_s
        self._late_s += wall_s * sum(wait_s > _LATE * wall_s for wait_s in waits_s)
        least_s = _TRIED_S if self._tried else _WATCHED_S
        if self._n_passes >= _LEAST_PASSES and self._wall_s >= least_s:
            self._judge(time.monotonic())
            self._forget()

    def _forget(self) -> None:
        self._n_passes, self._wall_s, self._late_s = 0, 0.0, 0.0

    def _judge(self, now: float) -> None:
        pass_s = self._wall_s / self._n_passes
        if self._tried:
            is_faster = pass_s < _FASTER * self._reference_s
            if is_faster:
                self._n = self._tried
            self._pause_s = _FIRST_PAUSE_S if is_faster else min(2 * self._pause_s, _MOST_PAUSE_S)
            self._tried, self._try_at = 0, now + self._pause_s
        elif now >= self._try_at:
            n_late = self._late_s / self._wall_s
            other = self._n + (-max(1, round(n_late)) if n_late > _CROWDED else 1)
            other = min(max(other, 1), self._most)
            if other != self._n:
                self._tried, self._reference_s = other, pass_s
