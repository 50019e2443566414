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
        self._n_open = 0
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``function`` returns, called in a thread of the pool.

        A caller that is cancelled does not wait; a call that has not begun is then left out.

        Raises:
            BusyError: Too many calls are waiting, or the pool is closed.
            Exception: What ``function`` raises.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            try:
                if not future.cancelled():
                    _settle(loop, future, *_outcome(function, args, kwargs))
            finally:
                self._leave()

        self._enter()
        self._calls.put(call)
        return await future

    def close(self) -> None:
        """Take no more calls; nobody waits for those that are under way."""
        with self._lock:
            self._is_closed = True
        for _ in self._threads:
            self._calls.put(None)

    def _enter(self) -> None:
        with self._lock:
            if self._is_closed:
                raise BusyError("the server is about to stop", hint="ask another one")
            if self._n_open >= self._n_most:
                raise BusyError(
                    f"{self._n_open} requests are being prepared, as many as this server takes",
                    hint="ask again in a moment",
                )
            self._n_open += 1
            if len(self._threads) < min(self._n_threads, self._n_open):
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _leave(self) -> None:
        with self._lock:
            self._n_open -= 1

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _outcome(
    function: Callable[..., T], args: Any, kwargs: Any
) -> tuple[T | None, BaseException | None]:
    try:
        return function(*args, **kwargs), None
    except BaseException as exc:  # it belongs to whoever awaits, whatever it is
        return None, exc


def _settle(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
    value: Any,
    error: BaseException | None,
) -> None:
    def act() -> None:
        if future.done():  # cancelled meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    # a loop that has ended has nobody left who waits
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(act)
