"""A progress for tests that want to see what was said."""

from __future__ import annotations

from gguf_hub.progress import SilentProgress


class Notes(SilentProgress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)
