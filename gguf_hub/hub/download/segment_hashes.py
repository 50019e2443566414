"""SHA-256 of the segments of whole files, kept so that a damaged file can be repaired.

They belong to the content and not to a place: one small JSON file for each, named after the
SHA-256 of the whole. Losing them costs a longer repair, nothing more.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from gguf_hub.files import write_atomically
from gguf_hub.hub.download.cachedir import SHA256
from gguf_hub.hub.download.segments import SegmentHashes, Segments

VERSION = 1


class SegmentHashStore:
    """The hashes of segments.

    Args:
        folder: The data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "segments"

    def add(self, sha256: str, hashes: SegmentHashes) -> None:
        """Keep the hashes of a file with this SHA-256.

        Raises:
            OSError: They cannot be written.
        """
        text = json.dumps(
            {
                "version": VERSION,
                "size_bytes": hashes.segments.size_bytes,
                "segment_bytes": hashes.segments.segment_bytes,
                "sha256": list(hashes.hashes),
            }
        )
        write_atomically(self._path(sha256), text)

    def find(self, sha256: str) -> SegmentHashes | None:
        """Return the hashes of a file with this SHA-256, or None when nobody kept them."""
        try:
            row = json.loads(self._path(sha256).read_text(encoding="utf-8"))
            segments = Segments(int(row["size_bytes"]), int(row["segment_bytes"]))
            hashes = tuple(row["sha256"])
            is_sound = (
                row["version"] == VERSION
                and segments.segment_bytes > 0
                and len(hashes) == len(segments)
                and all(map(SHA256.fullmatch, hashes))
            )
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return SegmentHashes(segments, hashes) if is_sound else None

    def remove(self, sha256: str) -> None:
        """Forget the hashes of a file with this SHA-256."""
        with contextlib.suppress(OSError):
            self._path(sha256).unlink(missing_ok=True)

    def contents(self) -> dict[str, Path]:
        """Return the SHA-256 of every file whose hashes were kept, and where they lie."""
        return {path.stem: path for path in self._folder.glob("*.json")}

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.json"
