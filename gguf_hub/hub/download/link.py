"""Where the bytes of a file come from right now: one link for all connections, renewed at need."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from gguf_hub.errors import FileChangedError, HubUnreachableError
from gguf_hub.hub.client import (
    OTHER_SIZE_HINT,
    ByteStream,
    FileMetadata,
    Hub,
    RemoteFile,
    other_size,
)

YOUNG_S = 30.0


@dataclass(frozen=True)
class Source:
    """One file of a repository at one commit."""

    repo_id: str
    commit: str
    file: RemoteFile


@dataclass
class ResolvedLink:
    """A link, since when it is there, and what the file host calls its content."""

    metadata: FileMetadata
    since: float
    etag: str | None = None

    @property
    def is_young(self) -> bool:
        """Whether the link is too new to have expired."""
        return time.monotonic() - self.since < YOUNG_S


class Link:
    """Asks the hub once for a link, and once more whenever it is no longer good.

    Args:
        hub: Who is asked.
        source: The file.
    """

    def __init__(self, hub: Hub, source: Source) -> None:
        self._hub = hub
        self._source = source
        self._lock = threading.Lock()
        self._current: ResolvedLink | None = None

    def current(self) -> ResolvedLink:
        """Return the link of now.

        Raises:
            FileChangedError: The hub serves something else than it listed.
            HubError: As the hub says.
        """
        with self._lock:
            if self._current is None:
                self._current = ResolvedLink(self._fetch_metadata(), time.monotonic())
            return self._current

    def drop(self, link: ResolvedLink) -> bool:
        """Have the next one ask for a new link; False when another thread has said so before."""
        with self._lock:
            is_first = self._current is link
            self._current = None if is_first else self._current
            return is_first

    def is_same(self, link: ResolvedLink, stream: ByteStream) -> bool:
        """Return whether a stream brings the content that the others brought, as far as it says."""
        with self._lock:
            link.etag = link.etag or stream.etag
            size_bytes = self._source.file.size_bytes
            is_other_size = stream.total_bytes not in (None, size_bytes)
            return not is_other_size and stream.etag in (None, link.etag)

    def _fetch_metadata(self) -> FileMetadata:
        file = self._source.file
        metadata = self._hub.file_metadata(self._source.repo_id, file.path, self._source.commit)
        size_bytes, etag = metadata.size_bytes or file.size_bytes, metadata.etag or file.etag
        if (size_bytes, etag) != (file.size_bytes, file.etag):
            raise FileChangedError(
                f"`{file.path}`: the hub lists {file.size_bytes} bytes with id {file.etag}, "
                f"but serves {size_bytes} bytes with id {etag}",
                repo_id=self._source.repo_id,
                hint="repeat the command; if it persists, the hub or a mirror is broken",
            )
        return metadata


def content_changed(source: Source, link: ResolvedLink, stream: ByteStream) -> HubUnreachableError:
    """Return the error for a file host that sends something else than was listed, or than before.

    The hub's own word, asked for again with the next link, decides whether the file is another.
    """
    message = f"`{source.file.path}`: the file host sends other content than before"
    hint = "repeat the command; if it persists, a proxy on the way may be broken"
    size_bytes, served_bytes = source.file.size_bytes, stream.total_bytes
    if served_bytes not in (None, size_bytes):
        message, hint = other_size(link.metadata, size_bytes, served_bytes), OTHER_SIZE_HINT
    return HubUnreachableError(message, repo_id=source.repo_id, retry_after_s=0.0, hint=hint)
