"""What of a repository is wanted, and which copies of it this machine has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguf_hub.errors import HubUnreachableError
from gguf_hub.hub.client import RemoteFile, RepoListing


@dataclass(frozen=True)
class LocalCopy:
    """All wanted files of one commit in one folder of this machine.

    Attributes:
        listing: What is known of the commit here.
        files: The wanted ones, in order.
        paths: Where they lie.
        is_verified: The record vouches for all of them.
    """

    listing: RepoListing
    files: tuple[RemoteFile, ...]
    paths: tuple[Path, ...]
    is_verified: bool

    @property
    def has_hashes(self) -> bool:
        """Whether it is known what the content of every file should be."""
        return all(file.etag for file in self.files)


@dataclass(frozen=True)
class Selection:
    """What of a repository is wanted.

    Attributes:
        listing: The repository at one commit: as the hub has it, or as this machine knows it.
        files: The wanted files of it.
        unreachable: Why the hub was not asked; None when it was.
        unverified: The files as they are here, where their SHA-256 is not known.
    """

    listing: RepoListing
    files: tuple[RemoteFile, ...]
    unreachable: HubUnreachableError | None = None
    unverified: LocalCopy | None = None
