"""What the program asks of a hub, and the data that comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gguf_hub.errors import GgufHubError


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository.

    Attributes:
        path: Path inside the repository, with ``/``.
        size_bytes: Its size.
        sha256: SHA-256 of the content in hex; None for small files that git itself keeps.
        blob_id: Git's id; for small files that is the SHA-1 of the content with git's header.
    """

    path: str
    size_bytes: int
    sha256: str | None
    blob_id: str

    @property
    def etag(self) -> str:
        """The name that the hub and every cache know the content by."""
        return self.sha256 or self.blob_id


@dataclass(frozen=True)
class RepoListing:
    """All files of a repository at one commit; ``revision`` is what was asked for."""

    repo_id: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]

    def find(self, path: str) -> RemoteFile | None:
        """Return the file at ``path``, or None."""
        return next((file for file in self.files if file.path == path), None)


@dataclass(frozen=True)
class FileMetadata:
    """Where the bytes of a file come from right now.

    Attributes:
        url: Where to read: often a signed link on another host that expires.
        etag: What the hub calls the content, without quotes; None when it does not say.
        size_bytes: Size that the hub announces; None when it does not say.
    """

    repo_id: str
    path: str
    url: str
    etag: str | None
    size_bytes: int | None


@dataclass(frozen=True)
class ByteStream:
    """Bytes under way.

    Attributes:
        start: Offset of the first byte; 0 when the server sends the whole file instead.
        etag: The server's strong validator as it stands in the header, for ``if_range``.
        chunks: The bytes.
        is_whole: The server sends the whole file although a range was asked for.
        total_bytes: Size of the whole file, as far as the server says.
    """

    start: int
    etag: str | None
    chunks: Iterator[bytes]
    is_whole: bool = False
    total_bytes: int | None = None


class Hub(Protocol):
    """What the program asks of a hub."""

    endpoint: str

    def list_files(self, repo_id: str, revision: str = "main") -> RepoListing:
        """Return all files of a repository at a branch, tag or commit."""
        ...

    def file_metadata(self, repo_id: str, path: str, revision: str = "main") -> FileMetadata:
        """Return where the bytes of one file are."""
        ...

    def open_range(
        self,
        metadata: FileMetadata,
        start: int,
        stop: int | None = None,
        *,
        if_range: str | None = None,
        window_bytes: int | None = None,
    ) -> AbstractContextManager[ByteStream]:
        """Open the bytes from ``start`` to before ``stop`` (None: to the end)."""
        ...

    def headers_for(self, metadata: FileMetadata) -> dict[str, str]:
        """Return what a request for a file's bytes must carry; a token only for the hub itself."""
        ...

    def fetch_xet(self, repo_id: str, path: str, revision: str, target: Path) -> None:
        """Fetch a whole file to ``target`` through hf_xet."""
        ...

    def ping(self, timeout_s: float = 3.0) -> GgufHubError | None:
        """Return None when a hub answers, else what is wrong."""
        ...


def is_offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
