"""Which process a number stands for: numbers are given to other processes again."""

from __future__ import annotations

import psutil


def start_time(pid: int) -> float | None:
    """Return when a process started, seconds since 1970; None if there is no such process."""
    try:
        return float(psutil.Process(pid).create_time())
    except (psutil.Error, ValueError, OverflowError):
        return None


def is_running(pid: int, started: float) -> bool:
    """Return whether a number still stands for the process that started then."""
    now = start_time(pid)
    return now is not None and abs(now - started) < 1.0
