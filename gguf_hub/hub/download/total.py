"""One count over all files of a download, beside those of each file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from gguf_hub.progress import Progress, Task

COUNTED = "download "
"""Labels of what counts; to check and to copy brings no bytes."""


@contextlib.contextmanager
def with_total(progress: Progress, total_bytes: int) -> Iterator[Progress]:
    """Start a task ``total``; what is downloaded through the progress inside advances it too.

    Args:
        progress: Where to report bytes.
        total_bytes: What is to come.
    """
    with progress.task("total", total_bytes) as total:
        yield _TotalProgress(progress, _CappedTask(total, total_bytes))


class _CappedTask:
    """Counts up to a total: what has to come twice is counted once."""

    def __init__(self, task: Task, total: int) -> None:
        self._task = task
        self._remaining = total
        self._lock = threading.Lock()

    def advance(self, n: int) -> None:
        """Count ``n`` more, as far as the total has room."""
        with self._lock:
            n = min(n, self._remaining)
            self._remaining -= n
        self._task.advance(n)


class _TotalProgress:
    def __init__(self, progress: Progress, total: _CappedTask) -> None:
        self._progress = progress
        self._total = total

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        """Return a task, which counts to the total too if its label says that it downloads."""
        task = self._progress.task(label, total, unit=unit, done=done)
        return _PairTask(task, self._total) if label.startswith(COUNTED) else task

    def note(self, text: str) -> None:
        self._progress.note(text)


class _PairTask:
    def __init__(self, task: Task, total: _CappedTask) -> None:
        self._task = task
        self._total = total

    def advance(self, n: int) -> None:
        """Count to the task and to the total."""
        self._task.advance(n)
        self._total.advance(n)

    def __enter__(self) -> _PairTask:
        self._task.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._task.__exit__(*error)
