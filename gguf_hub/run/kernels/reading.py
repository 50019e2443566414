"""Reading memory and nothing else: the most that any step which reads weights could reach."""

from __future__ import annotations

import numpy as np

from gguf_hub.run.kernels.sharing import share


def read_bytes(tid, nth, n, f, q, kv, w, first, size, results):
    """Read ``w[first:first + size]``; each thread leaves a checksum of its part in ``n``.

    The sum is what keeps the compiler from leaving the loads out; it turns the loop into SIMD code.
    """
    begin, end = share(size, tid, nth)
    total = np.uint8(0)
    for i in range(begin, end):
        total = np.uint8(total ^ w[np.uintp(first + i)])
    n[results + tid] = total
