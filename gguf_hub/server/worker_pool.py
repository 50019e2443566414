"""Threads for work that would keep the event loop from its other clients.

Encoding, rendering and building grammars are plain Python: threads do not make them faster, but
the interpreter takes turns between them, the event loop and the scheduler. The threads are daemons,
unlike those of ``asyncio.to_thread``, so that a stop never waits for what they are doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from gguf_hub.errors import BusyError

P = ParamSpec("P")
T = TypeVar("T")


class WorkerPool:
    """A fixed number of threads and a bounded queue before them; threads start at first use.

    Args:
        name: Name of the threads.
        n_threads: Calls that run at once.
        n_waiting: Calls that may wait besides.
    """

    def __init__(self, name: str, *, n_threads: int = 2, n_waiting: int = 256) -> None:
        self._name = name
        self._n_threads = n_threads
        self._n_most = n_threads + n_waiting
        self._lock = threading.Lock()
        self._waiting: set[_Call] = set()
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``function`` returns, called in a thread of the pool.

        A caller that is cancelled does not wait; a call that has not begun is then left out.

        Raises:
            BusyError: Too many calls are waiting, or the pool is closed.
            Exception: What ``function`` raises.
        """
        call = _Call(partial(function, *args, **kwargs))
        self._enter(call)
        self._calls.put(call)
        return await call.future  # type: ignore[no-any-return]

    def close(self) -> None:
        """Take no more calls; those that wait are told, those under way are left to themselves."""
        with self._lock:
            self._is_closed = True
            waiting = list(self._waiting)
        for call in waiting:
            call.settle(None, BusyError("the server has stopped"))
        for _ in self._threads:
            self._calls.put(None)

    def _enter(self, call: _Call) -> None:
        with self._lock:
            n_open = len(self._waiting)
            if self._is_closed:
                raise BusyError("the server is about to stop", hint="ask another one")
            if n_open >= self._n_most:
                raise BusyError(
                    f"{n_open} requests are being prepared, as many as this server takes",
                    hint="ask again in a moment",
                )
            self._waiting.add(call)
            if len(self._threads) < min(self._n_threads, n_open + 1):
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if not call.future.done():
                call.settle(*_outcome(call.function))
            with self._lock:
                self._waiting.discard(call)


class _Call:
    """A call and whoever waits for it; made in that loop's thread."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Hand over what came of it; from any thread."""

        def act() -> None:
            if self.future.done():  # cancelled or told meanwhile
                return
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(value)

        # a loop that has ended has nobody left who waits
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(act)


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except BaseException as exc:  # it belongs to whoever awaits, whatever it is
        return None, exc
