"""A file on a hub, read by ranges."""

from __future__ import annotations

from gguf_hub.errors import HubUnreachableError
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.interface import FileFacts


class HubRanges:
    """A file on a hub as something that gives ranges (``gguf.source.RangeSource``)."""

    def __init__(self, hub: HfHub, facts: FileFacts, size_bytes: int) -> None:
        self._hub = hub
        self._facts = facts
        self.size_bytes = size_bytes

    def read(self, offset: int, n: int) -> bytes:
        """Return ``n`` bytes from ``offset``.

        Raises:
            HubUnreachableError: Fewer came: the file is there, and the connection was not.
        """
        found = self._hub.read_range(self._facts, offset, offset + n)
        if len(found) < n:
            raise HubUnreachableError(
                f"`{self._facts.path}`: {len(found):,} of {n:,} bytes came from the hub",
                repo_id=self._facts.repo_id,
                hint="try again; `gguf-hub doctor` looks at the connection",
            )
        return found
