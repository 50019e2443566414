"""Where a stage has its file from: the seam between the process of a stage and its machine."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gguf_hub.errors import ClusterError
from gguf_hub.progress import Progress, SilentProgress, Task


class StageFiles(Protocol):
    """Where a machine has the driver's file from."""

    def find(self, path: Path) -> Path | None:
        """Return this machine's copy of a file that the driver names; None where it has none."""

    def fetch(self, offer: Mapping[str, Any], progress: Progress) -> tuple[Sequence[Path], int]:
        """Fetch what ``Host.offer`` offered.

        Returns:
            The files, a slice of the model (see ``gguf.slices``), and how many bytes came.

        Raises:
            GgufHubError: It is not to be had.
        """


class SharedFiles:
    """The files of a machine that sees the driver's."""

    def find(self, path: Path) -> Path | None:
        """Return the same path."""
        return path

    def fetch(self, offer: Mapping[str, Any], progress: Progress) -> tuple[Sequence[Path], int]:
        """Refuse: nobody offers what is there."""
        raise ClusterError(f"{socket.gethostname()} fetches no files")


class FetchCount(SilentProgress):
    """Counts the bytes that a stage fetches, and keeps notes, for the driver to show.

    Attributes:
        n_bytes: Bytes that are there, of all files.
        notes: What was noted.
    """

    def __init__(self) -> None:
        self.n_bytes = 0
        self.notes: list[str] = []

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        """Begin with the next file."""
        self.n_bytes += done
        return self

    def note(self, text: str) -> None:
        """Keep a line."""
        self.notes.append(text)

    def advance(self, n: int) -> None:
        """Count bytes."""
        self.n_bytes += n

    def __enter__(self) -> FetchCount:
        return self

    def __exit__(self, *exception: object) -> None:
        """End nothing: the next file counts on."""
