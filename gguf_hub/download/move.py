"""The bytes of one file, from the hub to a part file: one connection, going on after failures.

Whether they are the right bytes is for the caller to check.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from gguf_hub.errors import HubError, HubUnreachableError
from gguf_hub.hub import ByteStream, FileFacts, Hub, RemoteFile
from gguf_hub.progress import Progress, Task
from gguf_hub.units import format_size

WAITS_S = (1.0, 2.0, 4.0, 8.0, 8.0)
LONGEST_WAIT_S = 120.0


@dataclass(frozen=True)
class Source:
    """One file of a repository at one commit."""

    repo_id: str
    commit: str
    file: RemoteFile


class Mover(Protocol):
    """Whatever fills a part file."""

    def __call__(self, hub: Hub, source: Source, part: Path, progress: Progress) -> None:
        """Make ``part`` as long as the file, keeping the bytes that it has already.

        Args:
            hub: Where to ask.
            source: What to fetch.
            part: File to fill; may hold the first bytes from an earlier run.
            progress: Told of every chunk.

        Raises:
            HubError: The hub refuses, or stays away for too long; ``part`` keeps what came.
            OSError: ``part`` cannot be written.
        """
        ...


@dataclass(frozen=True)
class StreamMover:
    """Moves bytes through one connection; tries again from where it broke off.

    Args:
        waits_s: Pauses between tries that bring nothing new; after the last one it gives up.
    """

    waits_s: tuple[float, ...] = WAITS_S

    def __call__(self, hub: Hub, source: Source, part: Path, progress: Progress) -> None:
        """Fill ``part``; see ``Mover``."""
        size_bytes = source.file.size_bytes
        part.touch()
        with part.open("r+b") as out:
            # more than the file has can only be another file's
            if out.seek(0, os.SEEK_END) > size_bytes:
                _cut(out, 0)
            label = f"download {Path(source.file.path).name}"
            with progress.task(label, size_bytes, done=out.tell()) as task:
                transfer = _Transfer(hub, source, out, task)
                self._run(transfer, progress)
            out.flush()
            os.fsync(out.fileno())

    def _run(self, transfer: _Transfer, progress: Progress) -> None:
        """Pour until nothing is missing, with a pause after each connection that broke."""
        furthest, failures = transfer.have_bytes, 0
        while not transfer.is_complete and (error := transfer.pour()):
            # only bytes beyond the furthest point count, else a server could keep us busy for ever
            failures = 0 if transfer.have_bytes > furthest else failures + 1
            furthest = max(furthest, transfer.have_bytes)
            asked_s = error.retry_after_s or 0.0
            if failures > len(self.waits_s) or asked_s > LONGEST_WAIT_S:
                raise error
            wait_s = max(asked_s, self.waits_s[max(failures - 1, 0)] if self.waits_s else 0.0)
            at = format_size(transfer.have_bytes)
            progress.note(f"{error.message}; going on from {at} in {wait_s:.0f} s")
            time.sleep(wait_s)


@dataclass
class _Transfer:
    """A file under way, over as many connections as it takes."""

    hub: Hub
    source: Source
    out: BinaryIO
    task: Task
    etag: str | None = None

    @property
    def have_bytes(self) -> int:
        """How many bytes are there; the file's position is always its end."""
        return self.out.tell()

    @property
    def is_complete(self) -> bool:
        """Tell whether nothing is missing."""
        return self.have_bytes >= self.source.file.size_bytes

    def pour(self) -> HubUnreachableError | None:
        """Append what one connection brings; return why it ended before the file did, or None."""
        try:
            with self.hub.open_range(self._facts(), self.have_bytes, if_range=self.etag) as stream:
                self.etag = stream.etag or self.etag
                self._restart_at(stream.start)
                self._append(stream)
        except HubUnreachableError as error:
            return error
        if self.is_complete:
            return None
        return HubUnreachableError(
            f"`{self.source.file.path}`: the server ended at byte {self.have_bytes} "
            f"of {self.source.file.size_bytes}",
            repo_id=self.source.repo_id,
            hint="repeat the command; it goes on from what is there",
        )

    def _facts(self) -> FileFacts:
        """Ask for a fresh link and make sure that it leads to what the listing named."""
        file = self.source.file
        facts = self.hub.file_facts(self.source.repo_id, file.path, self.source.commit)
        found = (facts.size_bytes or file.size_bytes, facts.etag or file.etag)
        if found != (file.size_bytes, file.etag):
            raise HubError(
                f"`{file.path}`: the hub lists {file.size_bytes} bytes with id {file.etag}, "
                f"but serves {found[0]} bytes with id {found[1]}",
                repo_id=self.source.repo_id,
                hint="repeat the command; if it stays so, the hub or a mirror is broken",
            )
        return facts

    def _restart_at(self, start: int) -> None:
        """Go back when the server sends the whole file: it knows no ranges, or it has another."""
        if start != self.have_bytes:
            self.task.advance(start - self.have_bytes)
            _cut(self.out, start)

    def _append(self, stream: ByteStream) -> None:
        for chunk in stream.chunks:
            piece = chunk[: self.source.file.size_bytes - self.have_bytes]
            self.out.write(piece)
            self.task.advance(len(piece))
            if len(piece) < len(chunk):
                return


def _cut(out: BinaryIO, size_bytes: int) -> None:
    out.seek(size_bytes)
    out.truncate()


move_bytes: Mover = StreamMover()
