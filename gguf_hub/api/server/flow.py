"""Waiting for work or a disconnect; results from threads to event loops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed the connection before the answer was ready."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns; cancel it when the client disconnects.

    Raises:
        ClientGoneError: The client has disconnected.
    """
    task, disconnect = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for future in (task, disconnect):
            future.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *values: Any) -> None:
    """Call a function in a loop's thread; from any thread.

    A closed loop calls nothing: the server has stopped.
    """
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *values)


def settle(
    future: asyncio.Future[Any], value: Any = None, error: BaseException | None = None
) -> None:
    """Set the result of a future, or its error, unless it is done; from any thread."""

    def act() -> None:
        """Settle the future in its own loop's thread."""
        if future.done():  # cancelled or failed meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    call_in(future.get_loop(), act)
