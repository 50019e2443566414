"""A file on a hub, read by ranges."""

from __future__ import annotations

import threading
from dataclasses import replace

from gguf_hub.errors import HubError
from gguf_hub.hub.client.client import HfHub
from gguf_hub.hub.client.interface import FileMetadata
from gguf_hub.units import format_size


class ReadBudget:
    """How many bytes the files of one question may cost together, whatever a hub sends.

    Args:
        size_bytes: The most that is read.
        hint: The next step when that is not enough.
    """

    def __init__(self, size_bytes: int, *, hint: str) -> None:
        self._hint = hint
        self._size_bytes = self._left_bytes = size_bytes
        self._lock = threading.Lock()

    def spend(self, n: int, repo_id: str) -> None:
        """Count bytes before they are asked for.

        Raises:
            HubError: There were too many.
        """
        with self._lock:
            self._left_bytes -= n
            is_over = self._left_bytes < 0
        if is_over:
            raise HubError(
                f"the headers of `{repo_id}` are longer than {format_size(self._size_bytes)} "
                "together: the rest is not read",
                repo_id=repo_id,
                hint=self._hint,
            )


class HubRanges:
    """A file on a hub as something that gives ranges (``gguf.source.RangeSource``).

    Args:
        hub: The hub.
        metadata: Where the file is.
        size_bytes: Its size.
        budget: Shared with other files; no limit beyond what the reader has when None.
    """

    def __init__(
        self, hub: HfHub, metadata: FileMetadata, size_bytes: int, budget: ReadBudget | None = None
    ) -> None:
        self._budget = budget
        self._hub = hub
        self._metadata = replace(metadata, size_bytes=size_bytes)
        self.size_bytes = size_bytes

    def read(self, offset: int, n: int) -> bytes:
        """Return ``n`` bytes from ``offset``.

        Raises:
            HubError: The budget is spent; or as ``HfHub.read_range``. The message names the file.
        """
        if self._budget:
            self._budget.spend(n, self._metadata.repo_id)
        try:
            return self._hub.read_range(self._metadata, offset, offset + n)
        except HubError as error:
            path = self._metadata.path
            if path not in error.message:
                error.message = f"`{path}`: {error.message}"
                error.args = (error.message,)
            raise
