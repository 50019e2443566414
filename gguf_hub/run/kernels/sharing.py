"""How the threads of a step share its work.

Small work is shared beforehand, in ranges. Of a large matrix only half is: the other half lies in a
queue of chunks, which threads take as they become free, as other programs may have taken a core
meanwhile, and the slowest thread would keep all others waiting. No result depends on who computes
it.
"""

from __future__ import annotations

from numba.extending import register_jitable

from gguf_hub.run.kernels.atomics import fetch_add, store

_MIN_BYTES = 256 << 10  # of weights for each thread, times tokens: less takes some ten microseconds
_CHUNKS = 16  # of a queue, for each thread

NO_TURN = (-1, 0)
"""A thread's turn before its first matrix: the number of the chunk that it has taken, or -1, and
how many chunks the matrices before had."""


@register_jitable
def share(items, tid, nth):
    """Return this thread's range of ``items``: with 10 items on 4 threads, thread 1 has 2..5."""
    return items * tid // nth, items * (tid + 1) // nth


@register_jitable
def _split(n_units, unit_bytes, grain, nth):
    """Return how many units are shared beforehand, and how many a chunk of the others has."""
    if nth == 1 or n_units * unit_bytes < nth * _MIN_BYTES:
        return n_units, 1
    n_early = n_units // (2 * grain) * grain
    n_grains = (n_units - n_early + grain - 1) // grain
    return n_early, grain * ((n_grains + _CHUNKS * nth - 1) // (_CHUNKS * nth))


def make_shared(work, grain=1):
    """Return this thread's share of some work; all threads of a step call it equally often.

    Args:
        work: ``(first, last, *arguments)``: does units ``first`` to ``last``, which may be none.
        grain: Chunks hold a multiple of so many units.
    """

    @register_jitable
    def shared(tid, nth, queue, turn, n_units, unit_bytes, *arguments):
        """Work on ``n_units`` of ``unit_bytes`` each; return the turn for the next matrix.

        ``queue`` is the address of the number of chunks that threads have taken from all matrices
        of a step; ``turn`` what this returned for the one before, or ``NO_TURN``.
        """
        taken, n_before = turn
        n_early, size = _split(n_units, unit_bytes, grain, nth)
        n_chunks = (n_units - n_early + size - 1) // size
        first, last = share(n_early, tid, nth)
        while True:
            work(first, last, *arguments)
            if n_chunks == 0:
                break
            if taken < 0:
                taken = fetch_add(queue, 1)
            if taken >= n_before + n_chunks:  # it is of a matrix to come
                break
            first = n_early + size * (taken - n_before)
            last = min(first + size, n_units)
            taken = -1  # this chunk is worked on now
        return taken, n_before + n_chunks

    return shared


@register_jitable
def leave(queue, turn, nth):
    """End a step: the last thread that takes a number makes the queue ready for the next time.

    Each thread has taken one number beyond the last chunk; the last one has the largest.
    """
    taken, n_chunks = turn
    if taken == n_chunks + nth - 1 and taken >= 0:
        store(queue, 0)
