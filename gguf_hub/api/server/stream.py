"""Text deltas from the worker's thread to the event loops that send them.

Waking a loop costs more than a token of a small model, so the deltas of a round are handed over
together, and those of a response that is not streamed at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from gguf_hub.api.server.flow import call_in
from gguf_hub.api.server.slots import TokenSequence
from gguf_hub.run.generation import Generation, TextDelta

Item = tuple[int, TextDelta | Exception]
"""Number of the text, and its next delta or error."""


class Outbox:
    """Collects the items of a round in the worker's thread until ``flush``."""

    def __init__(self) -> None:
        self._items: dict[Stream, list[Item]] = {}

    def put(self, stream: Stream, items: list[Item]) -> None:
        """Add items of a stream."""
        self._items.setdefault(stream, []).extend(items)

    def flush(self) -> None:
        """Hand the items over; each loop is woken once."""
        if not self._items:
            return
        items_of, self._items = self._items, {}
        for loop in dict.fromkeys(stream.loop for stream in items_of):
            batch = [(s, items) for s, items in items_of.items() if s.loop is loop]
            call_in(loop, _deliver, batch)


def _deliver(batch: list[tuple[Stream, list[Item]]]) -> None:
    for stream, items in batch:
        stream.arrive(items)


class Stream:
    """The deltas of the texts of one request; closing the iterator cancels them.

    Args:
        generations: The texts.
        outbox: Hands the deltas over.
        is_buffered: Hand deltas over at the end of each text only.
        slot: The slot that they wait for; None for any.
        shows_progress: Whether there are deltas of ``PromptProgress``, too.

    Attributes:
        loop: The event loop of the reader.
        sequences: One for each text.
    """

    def __init__(
        self,
        generations: Sequence[Generation],
        outbox: Outbox,
        *,
        is_buffered: bool = False,
        slot: int | None = None,
        shows_progress: bool = False,
    ) -> None:
        self.generations = list(generations)
        self.loop = asyncio.get_running_loop()
        self._outbox = outbox
        self._is_buffered = is_buffered
        self._buffers: list[list[Item]] = [[] for _ in generations]  # in the worker's thread
        self._received: list[Item] = []  # in the loop's thread
        self._has_received = asyncio.Event()
        callbacks = [partial(self._put, i) for i in range(len(generations))]
        self.sequences = [
            TokenSequence(generation, callback, callback, slot, shows_progress=shows_progress)
            for generation, callback in zip(self.generations, callbacks, strict=True)
        ]

    def _put(self, i: int, item: TextDelta | Exception) -> None:
        """Buffer an item; in the worker's thread."""
        self._buffers[i].append((i, item))
        if self._is_buffered and isinstance(item, TextDelta) and item.finish_reason is None:
            return
        self._outbox.put(self, self._buffers[i])
        self._buffers[i] = []

    def arrive(self, items: list[Item]) -> None:
        """Receive items; in the loop's thread."""
        self._received += items
        self._has_received.set()

    async def batches(
        self, idle_s: float | None = None
    ) -> AsyncIterator[list[tuple[int, TextDelta]]]:
        """Yield batches of (number of the text, delta) until all texts have ended.

        Args:
            idle_s: Yield an empty batch whenever so many seconds pass without a delta.

        Raises:
            GgufHubError: A text failed.
        """
        n_open = len(self.generations)
        try:
            while n_open:
                try:
                    await asyncio.wait_for(self._has_received.wait(), idle_s)
                except asyncio.TimeoutError:
                    yield []
                self._has_received.clear()
                items, self._received = self._received, []
                batch, error = _until_error(items)
                n_open -= sum(delta.finish_reason is not None for _, delta in batch)
                if batch:
                    yield batch
                if error is not None:
                    raise error
        finally:
            self.cancel()

    async def all(self) -> list[list[TextDelta]]:
        """Return all deltas of each text."""
        deltas: list[list[TextDelta]] = [[] for _ in self.generations]
        async for batch in self.batches():
            for i, delta in batch:
                deltas[i].append(delta)
        return deltas

    def cancel(self) -> None:
        """Cancel the texts."""
        for sequence in self.sequences:
            sequence.cancel()


def _until_error(items: list[Item]) -> tuple[list[tuple[int, TextDelta]], Exception | None]:
    """Return the deltas before the first error, and that error."""
    batch: list[tuple[int, TextDelta]] = []
    for i, item in items:
        if isinstance(item, Exception):
            return batch, item
        batch.append((i, item))
    return batch, None
