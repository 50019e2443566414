"""What of a part file is there: each finished segment with its SHA-256, beside the part.

One JSON object per line. The first line says which file the part belongs to; every other line is
about one segment. A line is written as soon as its segment is, so that a killed process loses
nothing that was finished. For the loss of power, ``sync`` puts first the bytes and then the lines
safely on the disk; a line that got there before its bytes does no harm, because a part is hashed
again when its download resumes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf_hub.files import open_regular, write_atomically
from gguf_hub.hub.download.cachedir import SHA256
from gguf_hub.hub.download.segments import Segments
from gguf_hub.units import MIB

VERSION = 1
MAX_SEGMENTS = 1_000_000
MAX_BYTES = 64 * MIB
"""More than journals of downloads take, some hundred bytes for each segment."""


@dataclass(frozen=True)
class Start:
    """The first bytes of an unfinished segment: how many, and their SHA-256."""

    n_bytes: int
    sha256: str


@dataclass
class ResumeState:
    """What a journal records.

    Attributes:
        segments: How the file is cut.
        done: SHA-256 of each finished segment.
        adopted: Those of them that were found and not fetched: nobody vouches for them.
        starts: Segments of which only the first bytes are there.
    """

    segments: Segments
    done: dict[int, str] = field(default_factory=dict)
    adopted: set[int] = field(default_factory=set)
    starts: dict[int, Start] = field(default_factory=dict)

    @property
    def have_bytes(self) -> int:
        """How many bytes of the file are there."""
        done_bytes = sum(self.segments.length(index) for index in self.done)
        return done_bytes + sum(start.n_bytes for start in self.starts.values())


def journal_of(part: Path) -> Path:
    """Return the name of a part's journal."""
    return part.with_name(f"{part.name}.journal")


def remove_part(part: Path) -> None:
    """Remove a part and its journal, where they are."""
    part.unlink(missing_ok=True)
    journal_of(part).unlink(missing_ok=True)


def read_journal(
    part: Path, etag: str, size_bytes: int, segments: Segments | None = None
) -> ResumeState | None:
    """Return what the journal of a part records, or None when there is none that fits.

    Args:
        part: The part file.
        etag: What the file is known by.
        size_bytes: Its size.
        segments: How it is cut, where the journal does not say all of it.
    """
    try:
        lines = _read_lines(journal_of(part))
        head = json.loads(lines[0])
        expected = {"journal": VERSION, "etag": etag, "size_bytes": size_bytes}
        if not isinstance(head, dict) or head != expected | {
            "segment_bytes": head.get("segment_bytes")
        }:
            return None
        if segments and head["segment_bytes"] != segments.segment_bytes:
            return None
        state = ResumeState(segments or _segments(size_bytes, head["segment_bytes"]))
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    for line in lines[1:]:
        if not _read_line(line, state):
            break  # torn by a loss of power: what follows is as little worth
    return state


def _read_line(line: bytes, state: ResumeState) -> bool:
    """Apply one line to ``state``; return False when it is invalid."""
    try:
        row = json.loads(line)
        index, sha256 = row["segment"], row["sha256"]
        if sha256 is None:
            _forget(state, index)
            return True
        n_bytes = int(row.get("n_bytes", state.segments.length(index)))
        is_sound = 0 <= index < len(state.segments) and SHA256.fullmatch(sha256)
        if not is_sound or not 0 < n_bytes <= state.segments.length(index):
            return False
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return False
    _forget(state, index)
    if n_bytes < state.segments.length(index):
        state.starts[index] = Start(n_bytes, sha256)
    else:
        state.done[index] = sha256
        if row.get("adopted"):
            state.adopted.add(index)
    return True


def _forget(state: ResumeState, index: int) -> None:
    state.done.pop(index, None)
    state.starts.pop(index, None)
    state.adopted.discard(index)


def _read_lines(journal: Path) -> list[bytes]:
    """Return the lines of a journal; what is a link or far too long is none."""
    with os.fdopen(open_regular(journal), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"a journal of more than {MAX_BYTES} bytes")
    return data.splitlines()


def _segments(size_bytes: int, segment_bytes: Any) -> Segments:
    """Return how a journal says that the file is cut; so many segments as nobody cuts are none."""
    if type(segment_bytes) is not int or segment_bytes <= 0:
        raise ValueError(f"a segment of {segment_bytes!r} bytes")
    segments = Segments(size_bytes, segment_bytes)
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(f"{len(segments)} segments")
    return segments


class Journal:
    """A journal that is being written; also a context manager.

    Args:
        part: The part file that it is about.
        etag: What the file is known by.
        state: What is there already; becomes the beginning.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, part: Path, etag: str, state: ResumeState) -> None:
        path = journal_of(part)
        head = {
            "journal": VERSION,
            "etag": etag,
            "size_bytes": state.segments.size_bytes,
            "segment_bytes": state.segments.segment_bytes,
        }
        rows = [head, *(_row(i, sha, i in state.adopted) for i, sha in sorted(state.done.items()))]
        write_atomically(path, b"".join(map(_line, rows)))
        self._fd = open_regular(path, os.O_WRONLY | os.O_APPEND)

    def add(self, index: int, sha256: str) -> None:
        """Write down that a segment is there."""
        self._write(_row(index, sha256))

    def add_start(self, index: int, n_bytes: int, sha256: str) -> None:
        """Write down that the first bytes of a segment are there."""
        self._write(_row(index, sha256) | {"n_bytes": n_bytes})

    def forget(self, index: int) -> None:
        """Write down that a segment is not what it should be."""
        self._write({"segment": index, "sha256": None})

    def sync(self, part_fd: int) -> None:
        """Bring to the disk first the bytes of the part, then the lines about them."""
        os.fsync(part_fd)
        os.fsync(self._fd)

    def close(self) -> None:
        """End writing; the file stays."""
        os.close(self._fd)

    def _write(self, row: dict[str, Any]) -> None:
        os.write(self._fd, _line(row))  # one short write: whole or, after a loss of power, torn


def _row(index: int, sha256: str, is_adopted: bool = False) -> dict[str, Any]:
    row: dict[str, Any] = {"segment": index, "sha256": sha256}
    return row | {"adopted": True} if is_adopted else row


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"
