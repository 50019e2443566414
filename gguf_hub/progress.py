"""How long work reports its progress, without knowing who listens.

The library takes a ``Progress`` and is silent by default; the command line passes one that draws
bars on stderr.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol


class Task(Protocol):
    """A task under way; leaving the ``with`` block ends it."""

    def advance(self, n: int) -> None:
        """Count ``n`` more units as done."""

    def __enter__(self) -> Task: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Progress(Protocol):
    """Where long work reports to."""

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        """Start a task.

        Args:
            label: What is being done: a verb, and after a space the file's name, e.g.
                ``"download mixtral.Q4_K_M.gguf"``.
            total: How many units there are, or None when nobody knows.
            unit: What is counted: ``"B"`` for bytes, else a noun.
            done: Units done by an earlier run (a resumed download).
        """
        ...

    def note(self, text: str) -> None:
        """Show one line that is not an error."""


class _SilentTask:
    def advance(self, n: int) -> None:
        """Count nothing."""

    def __enter__(self) -> _SilentTask:
        return self

    def __exit__(self, *error: object) -> None:
        """End nothing."""


class SilentProgress:
    """The default: says nothing."""

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        """Return a task that counts nothing."""
        return _SilentTask()

    def note(self, text: str) -> None:
        """Say nothing."""


SILENT: Progress = SilentProgress()


class LoggedNotes(SilentProgress):
    """Logs notes as warnings of the logger ``gguf_hub``; shows no progress."""

    def note(self, text: str) -> None:
        """Log one line."""
        import logging  # 3 ms, which `gguf-hub --help` need not wait for

        logging.getLogger("gguf_hub").warning("%s", text)
