"""How pieces cross from the worker's thread to an event loop: no HTTP, no model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gguf_hub.api.server.stream import Outbox, Stream
from gguf_hub.errors import GgufError
from gguf_hub.run.generation import Generation, TextDelta
from tests.api.server.test_scheduler import Client

LAST = TextDelta("c", finish_reason="length")


def generation() -> Generation:
    """A run that nobody computes."""
    return Client([5]).sequence.generation


def in_loop(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test in an event loop of its own."""

    async def main() -> None:
        await work()

    asyncio.run(main())


def test_a_round_wakes_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        outbox, wakes = Outbox(), []
        streams = [Stream([generation()], outbox) for _ in range(3)]
        call = streams[0].loop.call_soon_threadsafe
        monkeypatch.setattr(
            streams[0].loop, "call_soon_threadsafe", lambda *a: (wakes.append(a), call(*a))
        )
        for stream in streams:
            stream.sequences[0].emit(TextDelta("a"))
        outbox.flush()
        outbox.flush()
        assert len(wakes) == 1
        for stream in streams:
            assert await anext(stream.batches()) == [(0, TextDelta("a"))]

    in_loop(work)


def test_what_has_come_together_is_read_together() -> None:
    async def work() -> None:
        outbox = Outbox()
        stream = Stream([generation(), generation()], outbox)
        for i, delta in ((0, TextDelta("a")), (1, TextDelta("b")), (0, LAST), (1, LAST)):
            stream.sequences[i].emit(delta)
            outbox.flush()
        batches = [batch async for batch in stream.batches()]
        assert batches == [[(0, TextDelta("a")), (1, TextDelta("b")), (0, LAST), (1, LAST)]]
        assert all(sequence.is_cancelled for sequence in stream.sequences)

    in_loop(work)


def test_nothing_crosses_before_the_end_of_what_is_read_whole() -> None:
    async def work() -> None:
        outbox = Outbox()
        stream = Stream([generation()], outbox, is_buffered=True)
        reader = asyncio.ensure_future(stream.all())
        for delta in (TextDelta("a"), TextDelta("b")):
            stream.sequences[0].emit(delta)
            assert not outbox._items
        stream.sequences[0].emit(LAST)
        outbox.flush()
        assert await reader == [[TextDelta("a"), TextDelta("b"), LAST]]

    in_loop(work)


@pytest.mark.parametrize("is_buffered", [False, True])
def test_an_error_comes_after_what_was_written_before_it(is_buffered: bool) -> None:
    async def work() -> None:
        outbox, seen = Outbox(), []
        stream = Stream([generation()], outbox, is_buffered=is_buffered)
        stream.sequences[0].emit(TextDelta("a"))
        stream.sequences[0].fail(GgufError("it broke"))
        outbox.flush()
        with pytest.raises(GgufError, match="it broke"):
            async for batch in stream.batches():
                seen += batch
        assert seen == [(0, TextDelta("a"))]

    in_loop(work)
