"""Fewer threads run a pass while other programs use their cores, and all of them otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from gguf_hub.run.kernels.vm import active_threads
from gguf_hub.run.kernels.vm.active_threads import ActiveThreads, CoreClock

PASS_S = 0.01
"""What one thread takes for a pass, alone."""
Machine = Callable[[int], tuple[float, list[float]]]
"""Threads -> how long a pass takes, and how long each thread waited for its core."""


class World:
    """Runs passes on a machine, in its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n_threads: int) -> None:
        self.now = 100.0
        self.threads = ActiveThreads(n_threads)
        monkeypatch.setattr(active_threads.time, "monotonic", lambda: self.now)

    def run(
        self, machine: Machine, seconds: float, n_tokens: int = 1, kinds: Sequence[str] = "a"
    ) -> list[int]:
        """Run passes for a time; return how many threads each had."""
        found, end = [], self.now + seconds
        while self.now < end:
            n = self.threads.choose(n_tokens)
            wall_s, waits_s = machine(n)
            self.now += wall_s
            self.threads.count(kinds[len(found) % len(kinds)], n_tokens, wall_s, waits_s)
            found.append(n)
        return found


def quiet(n: int) -> tuple[float, list[float]]:
    """Return the times where each thread has a core."""
    return PASS_S / n, [0.0] * n


def shared_by(n_cores: int, share: float, n_shared: int = 1) -> Machine:
    """Return a machine whose last cores other programs use for a share of their time."""

    def machine(n: int) -> tuple[float, list[float]]:
        n_late = max(0, n - (n_cores - n_shared))
        wall_s = PASS_S / n / (1 - share if n_late else 1)
        return wall_s, [0.0] * (n - n_late) + [share * wall_s] * n_late

    return machine


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], World]:
    return lambda n_threads: World(monkeypatch, n_threads)


@pytest.mark.parametrize("n_threads", [1, 2, 16])
def test_all_threads_run_where_nobody_waits(world: Callable[[int], World], n_threads: int) -> None:
    assert set(world(n_threads).run(quiet, 20)) == {n_threads}


@pytest.mark.parametrize("n_threads", [2, 4, 16])
def test_a_thread_without_a_core_of_its_own_is_left_out_until_it_has_one(
    world: Callable[[int], World], n_threads: int
) -> None:
    there = world(n_threads)
    assert set(there.run(quiet, 5)) == {n_threads}
    busy = there.run(shared_by(n_threads, 0.6), 60)
    assert busy.count(n_threads - 1) > 0.9 * len(busy)
    there.run(quiet, 20)  # the last try may be up to sixteen seconds ago
    assert set(there.run(quiet, 20)) == {n_threads}


def test_several_cores_are_left_to_others(world: Callable[[int], World]) -> None:
    there = world(8)
    late = there.run(shared_by(8, 0.5, n_shared=3), 60)
    assert late.count(5) > 0.9 * len(late)
    there.run(quiet, 20)
    assert set(there.run(quiet, 20)) == {8}


def test_a_thread_that_waits_and_yet_helps_stays(world: Callable[[int], World]) -> None:
    found = world(2).run(shared_by(2, 0.2), 60)
    assert found.count(2) > 0.9 * len(found)


def test_prompts_have_all_threads(world: Callable[[int], World]) -> None:
    there = world(4)
    there.run(shared_by(4, 0.6), 10)
    assert set(there.run(shared_by(4, 0.6), 5, n_tokens=64)) == {4}
    assert there.run(shared_by(4, 0.6), 5).count(3) > 0


def test_passes_of_different_kinds_are_not_compared(world: Callable[[int], World]) -> None:
    assert set(world(4).run(shared_by(4, 0.6), 20, kinds="ab")) == {4}


def test_short_passes_are_judged_by_their_sum(world: Callable[[int], World]) -> None:
    """The system's turns are longer than a pass: most are undisturbed, a few take very long."""
    count = 0

    def machine(n: int) -> tuple[float, list[float]]:
        nonlocal count
        count += 1
        is_hit = n == 2 and count % 20 == 0
        return (3e-3, [0.0, 2.9e-3]) if is_hit else (1e-4 / n, [0.0] * n)

    found = world(2).run(machine, 20)
    assert found.count(1) > 0.9 * len(found)


def test_a_clock_counts_no_time_that_is_computed() -> None:
    clock = CoreClock()
    assert 0 <= clock.waited_s() < 10
