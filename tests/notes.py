"""A ``Progress`` that remembers what it was told."""

from __future__ import annotations

from gguf_hub.progress import SILENT, Task


class Notes:
    """Notes as text, tasks as (label, total), units done by label."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tasks: list[tuple[str, int | None]] = []

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        self.tasks.append((label, total))
        return SILENT.task(label, total)

    def note(self, text: str) -> None:
        self.texts.append(text)
