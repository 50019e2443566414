"""The folders that files were fetched to, so that what was left there can be found again.

One tiny file for each, named after a hash of the path: nothing needs a lock. Losing them means
that ``gc`` no longer looks there by itself.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from gguf_hub.files import write_atomically


class KnownFolders:
    """The folders.

    Args:
        folder: The data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "folders"

    def add(self, root: Path) -> None:
        """Remember a folder.

        Raises:
            OSError: It cannot be written down.
        """
        name = hashlib.sha256(str(root).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        note = self._folder / name
        if not note.exists():
            write_atomically(note, f"{root}\n")

    def folders(self) -> list[Path]:
        """Return those that still exist."""
        paths = set()
        for note in self._folder.glob("*"):
            try:
                text = note.read_text(encoding="utf-8", errors="surrogateescape")
            except OSError:
                continue
            paths.add(Path(text.removesuffix("\n")))
        return sorted(path for path in paths if path.is_dir())
