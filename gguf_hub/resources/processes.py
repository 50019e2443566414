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
    """Return whether a number still stands for the process that started then.

    One that has ended but that its parent has not collected does not run; in containers whose first
    process collects nobody, such ones stay for ever.
    """
    now = start_time(pid)
    return now is not None and abs(now - started) < 1.0 and not _has_ended(pid)


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True
