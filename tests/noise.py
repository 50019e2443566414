"""Bytes for tests that move files about."""

from __future__ import annotations

import random


def noise(n_bytes: int, seed: int = 0) -> bytes:
    """Return bytes without a pattern, the same in every run: what fails once fails again.

    None of them is zero, as zeros where a download was broken off count as never written.
    """
    return random.Random(seed).randbytes(n_bytes).replace(b"\0", b"\1")
