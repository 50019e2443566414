"""Reading memory and nothing else: the most that any step which reads weights could reach."""

from __future__ import annotations

import numpy as np

from gguf_hub.kernels.steps import share

_PIECE = 4096
_AHEAD = 8192


def make_read_bytes(ask):
    """Return the step that reads ``w[first:first + size]``.

    Each thread leaves a checksum of its part in ``n``. The sum is what keeps the compiler from
    leaving the loads out; it turns the loop into SIMD code.

    Args:
        ask: ``(w, offset)``: asks for a cache line that will be read soon.
    """

    def read_bytes(tid, nth, n, f, q, kv, w, first, size, results):
        begin, end = share(size, tid, nth)
        total = np.uint8(0)
        for piece in range((end - begin + _PIECE - 1) // _PIECE):
            start = first + begin + _PIECE * piece
            for line in range(_PIECE // 64):
                ask(w, start + _AHEAD + 64 * line)
            for i in range(min(_PIECE, first + end - start)):
                total = np.uint8(total ^ w[np.uintp(start + i)])
        n[results + tid] = total

    return read_bytes
