"""Threads for work that would block the event loop.

Encoding, rendering and building grammars are plain Python: threads do not make them faster, but
the interpreter switches between them, the event loop and the scheduler. Unlike the threads of
``asyncio.to_thread`` these are daemons, so a shutdown never waits for them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from gguf_hub.api.server.flow import settle
from gguf_hub.errors import BusyError, UnavailableError

P = ParamSpec("P")
T = TypeVar("T")


class WorkerPool:
    """A fixed number of threads with a bounded queue; threads are started on demand.

    Args:
        name: Name of the threads.
        n_threads: Calls that run at the same time.
        n_waiting: Calls that may be queued besides.
    """

    def __init__(self, name: str, *, n_threads: int = 2, n_waiting: int = 256) -> None:
        self._name = name
        self._n_threads = n_threads
        self._max_open = n_threads + n_waiting
        self._lock = threading.Lock()
        self._open_calls: set[_Call] = set()
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread of the pool and return its result.

        If the caller is cancelled, a call that has not started is skipped.

        Raises:
            BusyError: Too many calls are queued, or the pool is closed.
            Exception: Whatever the function raises.
        """
        call = _Call(partial(function, *args, **kwargs))
        self._add(call)
        self._calls.put(call)
        try:
            return await call.future  # type: ignore[no-any-return]
        finally:
            if not call.has_started:
                self._forget(call)

    def close(self) -> None:
        """Refuse further calls and fail the open ones; a running function is not interrupted."""
        with self._lock:
            self._is_closed = True
            open_calls = list(self._open_calls)
        for call in open_calls:
            settle(call.future, error=UnavailableError("the server has stopped"))
        for _ in self._threads:
            self._calls.put(None)

    def _add(self, call: _Call) -> None:
        with self._lock:
            n_open = len(self._open_calls)
            if self._is_closed:
                raise UnavailableError("the server is stopping", hint="use another server")
            if n_open >= self._max_open:
                raise BusyError(
                    f"{n_open} requests are being prepared, the most this server accepts",
                    hint="try again in a moment",
                )
            self._open_calls.add(call)
            if len(self._threads) < min(self._n_threads, n_open + 1):
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if call.future.done():
                continue
            call.has_started = True
            value, error = _outcome(call.function)
            self._forget(call)  # first, so that its caller can submit another one
            settle(call.future, value, error)

    def _forget(self, call: _Call) -> None:
        with self._lock:
            self._open_calls.discard(call)


class _Call:
    """A call and the future of its result; created in the event loop's thread."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.has_started = False
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except BaseException as exc:  # the awaiting caller gets it, whatever it is
        return None, exc
