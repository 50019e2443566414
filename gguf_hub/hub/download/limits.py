"""Bounds that all connections of a command share: bytes per second."""

from __future__ import annotations

import threading
import time

from gguf_hub.units import KIB

_BURST_S = 0.1


class RateLimit:
    """So many bytes per second over everything that asks, exact over any second.

    A clock that is set back does no harm: only the monotonic one is read.

    Args:
        bytes_per_s: The rate.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def take(self, n_bytes: int, cancel: threading.Event) -> None:
        """Wait until ``n_bytes`` more may have come, or until ``cancel`` is set."""
        with self._lock:
            now = time.monotonic()
            # time that nobody used is lost, but for a little: else a pause would make a burst
            self._free_at = max(self._free_at, now - _BURST_S) + n_bytes / self.bytes_per_s
            wait_s = self._free_at - now
        if wait_s > 0:
            cancel.wait(wait_s)

    def window_bytes(self, n_connections: int) -> int:
        """Return how much one connection may have under way that nobody has asked for yet."""
        return max(16 * KIB, int(self.bytes_per_s * _BURST_S / n_connections))
