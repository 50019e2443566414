"""Waiting for several things at once, and for clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from gguf_hub.completion import Piece
from gguf_hub.server.service import Stream

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client has closed the connection before the answer was there."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns; cancel it when the client goes away.

    Raises:
        ClientGoneError: The client has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def merged(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Piece]]:
    """Yield (number of the stream, piece) as they come, until all have ended."""
    queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    async def pump(i: int, stream: Stream) -> None:
        try:
            async for piece in stream:
                queue.put_nowait((i, piece))
            queue.put_nowait((i, None))
        except Exception as exc:
            queue.put_nowait((i, exc))

    pumps = [asyncio.ensure_future(pump(i, stream)) for i, stream in enumerate(streams)]
    try:
        n_open = len(streams)
        while n_open:
            i, item = await queue.get()
            if item is None:
                n_open -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield i, item
    finally:
        for stream in streams:
            stream.task.cancel()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def gathered(streams: Sequence[Stream]) -> list[list[Piece]]:
    """Return all pieces of all streams."""
    try:
        return list(await asyncio.gather(*(stream.all() for stream in streams)))
    finally:
        for stream in streams:
            stream.task.cancel()
