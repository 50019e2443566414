"""Calls in threads, of which so many run and so many wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from gguf_hub.api.server.worker_pool import WorkerPool
from gguf_hub.errors import BusyError


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool("test", n_threads=1, n_waiting=1)
    yield pool
    pool.close()


def test_values_and_errors_come_back(pool: WorkerPool) -> None:
    async def ask() -> None:
        assert await pool.run(divmod, 7, 2) == (3, 1)
        assert await pool.run(int, "11", base=2) == 3
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)
        assert await pool.run(threading.get_ident) != threading.get_ident()

    asyncio.run(ask())


def test_the_loop_goes_on_meanwhile(pool: WorkerPool) -> None:
    async def ask() -> None:
        gate = threading.Event()
        held = asyncio.ensure_future(pool.run(gate.wait, 60))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not held.done()
        gate.set()
        assert await held

    asyncio.run(ask())


def test_one_more_than_may_wait_is_refused_and_the_others_are_served(pool: WorkerPool) -> None:
    async def ask() -> None:
        gate = threading.Event()
        calls = [asyncio.ensure_future(pool.run(gate.wait, 60)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="2 requests"):
            await pool.run(gate.wait, 60)
        gate.set()
        assert await asyncio.gather(*calls) == [True, True]
        assert await pool.run(divmod, 7, 2) == (3, 1)

    asyncio.run(ask())


def test_a_call_whose_caller_has_gone_is_left_out(pool: WorkerPool) -> None:
    async def ask() -> None:
        gate, called = threading.Event(), threading.Event()
        held = asyncio.ensure_future(pool.run(gate.wait, 60))
        waiting = asyncio.ensure_future(pool.run(called.set))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        gate.set()
        assert await held
        await pool.run(divmod, 7, 2)  # comes after it
        assert not called.is_set()

    asyncio.run(ask())


def test_a_closed_pool_refuses_and_tells_who_waits() -> None:
    async def ask() -> None:
        pool, gate = WorkerPool("test", n_threads=1), threading.Event()
        held = asyncio.ensure_future(pool.run(gate.wait, 60))
        await asyncio.sleep(0)
        pool.close()
        with pytest.raises(BusyError, match="stop"):
            await pool.run(divmod, 7, 2)
        with pytest.raises(BusyError, match="has stopped"):
            await held
        gate.set()

    asyncio.run(ask())


def test_what_ends_after_its_loop_does_no_harm() -> None:
    pool, gate, ended = WorkerPool("test", n_threads=1), threading.Event(), threading.Event()

    async def ask() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(pool.run(gate.wait, 60), 0.01)

    asyncio.run(ask())
    gate.set()

    async def ask_again() -> None:
        await pool.run(ended.set)

    asyncio.run(ask_again())
    assert ended.is_set()
    pool.close()
