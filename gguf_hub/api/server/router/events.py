"""ModelEvents of a router for whoever listens, as llama-server's ``/models/sse`` sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

Event = dict[str, Any]
_MAX_WAITING = 1024


class ModelEvents:
    """Passes events on to each listener, in order; one that is too slow loses the oldest."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Event | None]] = set()

    def publish(self, model: str, event: str, data: Any = None) -> None:
        """Send an event; in the event loop's thread."""
        message = {"model": model, "event": event, **({} if data is None else {"data": data})}
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(message)

    def status(self, model: str, status: str, **more: Any) -> None:
        """Send the status of a model."""
        self.publish(model, "model_status", {"status": status, **more})

    async def listen(self, idle_s: float) -> AsyncIterator[Event | None]:
        """Yield events until ``close``; None whenever so many seconds pass without one."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(_MAX_WAITING)
        self._queues.add(queue)
        try:
            while True:
                try:
                    message = await asyncio.wait_for(queue.get(), idle_s)
                except asyncio.TimeoutError:
                    yield None
                    continue
                if message is None:
                    return
                yield message
        finally:
            self._queues.discard(queue)

    def close(self) -> None:
        """End all listeners."""
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
