"""Work that threads share as they become free."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.run.kernels.atomics import fetch_add
from gguf_hub.run.kernels.sharing import NO_TURN, leave, make_shared

SMALL, LARGE = 16, 256 << 10  # bytes of a unit: few are too little for a queue, or one is enough


def steps_in(grain: int) -> Callable[..., None]:
    """A step of several matrices, whose units are counted by whoever does them."""

    def work(first, last, tid, counts, matrix, m, seen, ranges, starts):  # type: ignore[no-untyped-def]
        for unit in range(first, last):
            fetch_add(counts + 8 * (matrix + unit), 1)
        if seen[tid] != m:  # a thread's own range comes first
            seen[tid] = m
            ranges[tid] += 1
        elif first % grain != 0:
            starts[tid] += 1

    shared = make_shared(numba.njit(work), grain)

    def one_step(tid, nth, queue, n_units, unit_bytes, counts, seen, ranges, starts):  # type: ignore[no-untyped-def]
        turn, matrix, seen[tid] = NO_TURN, 0, -1
        for m in range(len(n_units)):
            turn = shared(tid, nth, queue, turn, n_units[m], unit_bytes[m],
                          tid, counts, matrix, m, seen, ranges, starts)  # fmt: skip
            matrix += n_units[m]
        leave(queue, turn, nth)

    return numba.njit(nogil=True)(one_step)


STEPS = {grain: steps_in(grain) for grain in (1, 4)}


@pytest.mark.timeout(120)
@settings(max_examples=60, deadline=None)
@given(
    matrices=st.lists(
        st.tuples(st.integers(0, 300), st.sampled_from([SMALL, LARGE])), min_size=1, max_size=5
    ),
    n_threads=st.integers(1, 5),
    grain=st.sampled_from(sorted(STEPS)),
)
def test_each_unit_is_done_once_in_each_pass(
    matrices: list[tuple[int, int]], n_threads: int, grain: int
) -> None:
    """On more threads than there are cores, and again and again with the same queue."""
    n_units, unit_bytes = np.array(matrices, np.int64).T.copy()
    queue, counts = np.zeros(1, np.int64), np.zeros(n_units.sum() + 1, np.int64)
    seen, ranges, off_grain = np.zeros((3, n_threads), np.int64)
    barrier, n_passes = threading.Barrier(n_threads), 4
    left = []

    def run(tid: int) -> None:
        for _ in range(n_passes):
            barrier.wait()
            STEPS[grain](tid, n_threads, queue.ctypes.data, n_units, unit_bytes,
                         counts.ctypes.data, seen, ranges, off_grain)  # fmt: skip
            if barrier.wait() == 0:
                left.append(int(queue[0]))

    threads = [threading.Thread(target=run, args=(tid,)) for tid in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (counts[:-1] == n_passes).all()
    assert counts[-1] == 0
    assert (ranges == n_passes * len(matrices)).all()
    assert not off_grain.any()
    assert left == [0] * n_passes
