"""What a file should be, as somebody says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpectedFile:
    """What a file should be, and who says so.

    Attributes:
        sha256: In hex.
        source: ``given``, ``record``, ``metadata`` (beside the file), ``cache`` or ``hub``.
        repo_id: Repository that it belongs to, as far as that is known.
        commit: Its commit, likewise.
        filename: Its path there, likewise.
        size_bytes: Its size, likewise.
    """

    sha256: str
    source: str
    repo_id: str | None = None
    commit: str | None = None
    filename: str | None = None
    size_bytes: int | None = None
