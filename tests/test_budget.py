"""Budgets: what work on input from outside may take."""

from __future__ import annotations

import threading
import time

import pytest

from gguf_hub.budget import Budget, Lane, limit, look, spend
from gguf_hub.errors import BudgetError


def work(cpu_s: float) -> None:
    """Take CPU time, looking at the clock all the while."""
    began = time.thread_time()
    while time.thread_time() - began < cpu_s:
        spend()


def test_without_a_budget_nothing_is_counted() -> None:
    spend(10**12)
    look()


def test_cpu_time_is_limited_and_waiting_is_free() -> None:
    with limit(0.02, 10**9):
        time.sleep(0.05)
        spend()
        look()
        began = time.thread_time()
        with pytest.raises(BudgetError, match=r"it takes more than 0\.02 s of CPU time"):
            work(60.0)
        assert time.thread_time() - began < 6.0


def test_memory_is_limited() -> None:
    with limit(60, 100_000_000):
        spend(90_000_000)
        with pytest.raises(BudgetError, match="it takes more than 100 MB of memory"):
            spend(20_000_000)


def test_inside_a_budget_there_is_no_other() -> None:
    with limit(60, 1_000), pytest.raises(BudgetError), limit(60, 10**9):
        spend(2_000)
    with limit(60, 10**9):  # nor is anything left of the first
        spend(2_000)


def test_cpu_time_that_is_left_stays_for_the_next_time_and_comes_back_up_to_the_limit() -> None:
    budget = Budget(0.05, 1_000)
    with budget:
        spend(900)
        work(0.04)
    with budget:
        spend(900)  # memory is counted anew
        with pytest.raises(BudgetError):
            work(5.0)
    with budget, pytest.raises(BudgetError):
        look()
    budget.refill(10.0)
    with budget, pytest.raises(BudgetError):
        work(5.0)


def test_threads_have_budgets_of_their_own() -> None:
    errors: list[Exception] = []

    def run() -> None:
        try:
            spend(10**12)
        except BudgetError as exc:
            errors.append(exc)

    with limit(60, 1_000):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert errors == []


def test_short_work_passes_by_long_work_and_long_work_has_turns() -> None:
    lane = Lane(after_s=0.01)
    events: list[str] = []
    has_begun, may_end = threading.Event(), threading.Event()

    def first() -> None:
        with limit(60, 10**9, lane):
            work(0.03)
            has_begun.set()
            assert may_end.wait(60)
            events.append("first")

    def second() -> None:
        with limit(60, 10**9, lane):
            work(0.03)
            events.append("second")

    threads = [threading.Thread(target=run) for run in (first, second)]
    threads[0].start()
    assert has_begun.wait(60)
    threads[1].start()
    with limit(60, 10**9, lane):
        spend()
    events.append("short")
    may_end.set()
    for thread in threads:
        thread.join()
    assert events == ["short", "first", "second"]


def test_work_that_fails_leaves_its_lane() -> None:
    lane = Lane(after_s=0.0)
    for _ in range(2):
        with pytest.raises(BudgetError), limit(0.02, 10**9, lane):
            work(5.0)
