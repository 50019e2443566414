"""The way of pieces from the thread that computes to the event loops that send them.

Waking a loop costs more than a token of a small model, so what a round has made crosses at once,
and what nobody reads before the end waits for the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from gguf_hub.api.server.flow import call_in
from gguf_hub.api.server.scheduler import TokenSequence
from gguf_hub.run.generation import Generation, TextDelta

Item = tuple[int, TextDelta | Exception]
"""Number of the run, and what came of it."""


class Outbox:
    """Holds what the worker's thread has for streams until ``flush``; of that thread alone."""

    def __init__(self) -> None:
        self._held: dict[Stream, list[Item]] = {}

    def put(self, stream: Stream, items: list[Item]) -> None:
        """Hold items of a stream."""
        self._held.setdefault(stream, []).extend(items)

    def flush(self) -> None:
        """Hand over what is held: each loop is woken once."""
        if not self._held:
            return
        held, self._held = self._held, {}
        for loop in dict.fromkeys(stream.loop for stream in held):
            there = [(s, items) for s, items in held.items() if s.loop is loop]
            call_in(loop, _deliver, there)


def _deliver(there: list[tuple[Stream, list[Item]]]) -> None:
    for stream, items in there:
        stream.arrive(items)


class Stream:
    """The pieces of the runs of one request, as they come; leaving it cancels them.

    Args:
        runs: The runs.
        outbox: Carries the pieces.
        is_whole: Whether nobody reads before a run has ended.

    Attributes:
        loop: Where it is read.
        tasks: One for each run.
    """

    def __init__(
        self, runs: Sequence[Generation], outbox: Outbox, *, is_whole: bool = False
    ) -> None:
        self.runs = list(runs)
        self.loop = asyncio.get_running_loop()
        self._outbox = outbox
        self._is_whole = is_whole
        self._made: list[list[Item]] = [[] for _ in runs]  # of the worker's thread
        self._arrived: list[Item] = []  # of the loop's
        self._has_arrived = asyncio.Event()
        puts = [partial(self._put, i) for i in range(len(runs))]
        self.tasks = [
            TokenSequence(run, put, put) for run, put in zip(self.runs, puts, strict=True)
        ]

    def _put(self, i: int, item: TextDelta | Exception) -> None:
        """Take what the worker's thread has made."""
        self._made[i].append((i, item))
        if self._is_whole and isinstance(item, TextDelta) and item.finish_reason is None:
            return
        self._outbox.put(self, self._made[i])
        self._made[i] = []

    def arrive(self, items: list[Item]) -> None:
        """Take what has crossed; in the loop's thread."""
        self._arrived += items
        self._has_arrived.set()

    async def batches(self) -> AsyncIterator[list[tuple[int, TextDelta]]]:
        """Yield (number of the run, piece) of all that has come, until all runs have ended.

        Raises:
            GgufHubError: What went wrong while one was computed.
        """
        n_open = len(self.runs)
        try:
            while n_open:
                await self._has_arrived.wait()
                self._has_arrived.clear()
                items, self._arrived = self._arrived, []
                batch, error = _until_error(items)
                n_open -= sum(piece.finish_reason is not None for _, piece in batch)
                if batch:
                    yield batch
                if error is not None:
                    raise error
        finally:
            self.cancel()

    async def all(self) -> list[list[TextDelta]]:
        """Return all pieces of each run."""
        found: list[list[TextDelta]] = [[] for _ in self.runs]
        async for batch in self.batches():
            for i, piece in batch:
                found[i].append(piece)
        return found

    def cancel(self) -> None:
        """Say that nobody reads any more."""
        for task in self.tasks:
            task.cancel()


def _until_error(items: list[Item]) -> tuple[list[tuple[int, TextDelta]], Exception | None]:
    """Return the pieces before the first error, and that error."""
    found: list[tuple[int, TextDelta]] = []
    for i, item in items:
        if isinstance(item, Exception):
            return found, item
        found.append((i, item))
    return found, None
