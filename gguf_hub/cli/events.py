"""Progress for programs: one JSON object per line on stderr, as docs/progress.md describes.

Keys are stable; new ones may be added.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections import deque
from typing import Any

from gguf_hub.progress import Task

EVERY_S = 0.5
_WINDOW_S = 5.0


class EventProgress:
    """A ``Progress`` that writes events, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count(1)

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        """Write ``start``; return what writes ``progress`` and ``end``."""
        task, _, file = label.partition(" ")
        fields = {"id": next(self._ids), "task": task, "file": file or None, "unit": unit}
        return _EventTask(self, fields, total, done)

    def note(self, text: str) -> None:
        """Write ``note``."""
        if text.strip():
            self.write("note", text=text.strip())

    def warning(self, text: str) -> None:
        """Write ``warning``."""
        self.write("warning", text=text)

    def error(self, text: str, hint: str | None) -> None:
        """Write ``error``."""
        self.write("error", text=text, hint=hint)

    def write(self, event: str, **fields: Any) -> None:
        """Write one line."""
        line = json.dumps({"event": event} | fields) + "\n"
        with self._lock:
            sys.stderr.write(line)
            sys.stderr.flush()


class _EventTask:
    def __init__(
        self, progress: EventProgress, fields: dict[str, Any], total: int | None, done: int
    ) -> None:
        self._progress = progress
        self._fields = fields
        self._total = total
        self._done = done
        self._start_s = self._last_write_s = time.monotonic()
        self._samples: deque[tuple[float, int]] = deque([(self._start_s, done)])
        self._write("start")

    def advance(self, n: int) -> None:
        """Count, and write ``progress`` every now and then."""
        self._done += n
        now_s = time.monotonic()
        if now_s - self._last_write_s >= EVERY_S:
            self._last_write_s = now_s
            rate = self._rate(now_s)
            n_left = None if self._total is None else max(self._total - self._done, 0)
            left_s = round(n_left / rate, 1) if rate and n_left is not None else None
            self._write("progress", rate_per_s=round(rate), left_s=left_s)

    def _rate(self, now_s: float) -> float:
        """Return units per second over the last seconds."""
        self._samples.append((now_s, self._done))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        first_s, first_done = self._samples[0]
        return (self._done - first_done) / max(now_s - first_s, 1e-9)

    def _write(self, event: str, **values: Any) -> None:
        counts = {"done": self._done, "total": self._total}
        self._progress.write(event, **self._fields, **counts, **values)

    def __enter__(self) -> _EventTask:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        seconds = round(time.monotonic() - self._start_s, 3)
        self._write("end", seconds=seconds, ok=kind is None)
