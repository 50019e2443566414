"""Manifests that were computed on this machine, so that a file is hashed once.

They hold for files as they are: one that has another size or time since is hashed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from gguf_hub.errors import GgufError
from gguf_hub.files import write_atomically
from gguf_hub.gguf.manifest import Manifest, manifest_of
from gguf_hub.gguf.shards import Gguf
from gguf_hub.paths import absolute
from gguf_hub.progress import SILENT, Progress

Hashes = dict[tuple[str, str], tuple[str, ...]]


class ManifestStore:
    """The manifests of this machine.

    Args:
        folder: The data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "manifests"

    def manifest(
        self, file: Gguf, names: Collection[str] | None = None, *, progress: Progress = SILENT
    ) -> Manifest:
        """Return the manifest of an open model, with the hashes of some tensors.

        Args:
            file: The model; what was hashed of it before is not read again.
            names: The tensors whose hashes are wanted; all when None.
            progress: Where to report bytes.
        """
        paths = [part.path for part in file.files]
        known = self._read(paths)
        manifest = manifest_of(file, names, known, progress=progress)
        found = {
            (part.name, each.name): each.hashes for part in manifest.files for each in part.hashed
        }
        if found.keys() - known.keys():
            self._write(file, paths, known | found)
        return manifest

    def of_missing(self) -> list[Path]:
        """Return where manifests lie whose files are gone, sorted."""
        return sorted(path for path in self._folder.glob("*.json") if not _is_needed(path))

    def _write(self, file: Gguf, paths: Sequence[Path], known: Hashes) -> None:
        """Keep hashes; losing them costs another reading, nothing more."""
        names = {name for _, name in known}
        data = manifest_of(file, names & set(file.tensors), known).to_json()
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(data | {"files_were": _state(paths)})
            write_atomically(self._path(paths), text)

    def _read(self, paths: Sequence[Path]) -> Hashes:
        row = self._row(paths)
        try:
            manifest = Manifest.from_json(row) if row else Manifest(())
        except GgufError:
            return {}
        return {(f.name, each.name): each.hashes for f in manifest.files for each in f.hashed}

    def _row(self, paths: Sequence[Path]) -> dict[str, object] | None:
        try:
            row = json.loads(self._path(paths).read_text(encoding="utf-8"))
            is_same = row["files_were"] == _state(paths)
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return row if is_same else None

    def _path(self, paths: Sequence[Path]) -> Path:
        name = hashlib.sha256(str(absolute(paths[0])).encode()).hexdigest()
        return self._folder / f"{name}.json"


def _is_needed(path: Path) -> bool:
    try:
        first, *_ = json.loads(path.read_text(encoding="utf-8"))["files_were"]
        return os.path.lexists(first[0])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _state(paths: Sequence[Path]) -> list[list[object]]:
    return [[str(absolute(p)), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
