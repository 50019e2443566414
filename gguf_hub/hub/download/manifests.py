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
from typing import Any

from gguf_hub.errors import DownloadError, GgufError
from gguf_hub.files import write_atomically, write_new
from gguf_hub.gguf.copying import write_all
from gguf_hub.gguf.manifest import Manifest, manifest_of
from gguf_hub.gguf.shards import Gguf, open_gguf
from gguf_hub.hub.download.diskerrors import translate_disk_errors
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
        known = self._read(paths[0])
        manifest = manifest_of(file, names, known, progress=progress)
        found = {
            (part.name, each.name): each.hashes for part in manifest.files for each in part.hashed
        }
        if found.keys() - known.keys():
            self._write(file, paths, known | found)
        return manifest

    def find(self, path: Path) -> Manifest | None:
        """Return what is known of a model without reading it.

        Args:
            path: The model; of a set its first shard.

        Returns:
            None where not all of its tensors were hashed, or it has changed since.
        """
        row = self._row(path)
        try:
            manifest = Manifest.from_json(row) if row else None
        except GgufError:
            return None
        return manifest if manifest and manifest.is_complete else None

    def json_of(self, path: Path) -> dict[str, Any] | None:
        """Return what ``find`` finds as JSON, for a mirror to serve."""
        manifest = self.find(path)
        return manifest.to_json() if manifest else None

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
            write_atomically(self._path(paths[0]), text)

    def _read(self, path: Path) -> Hashes:
        row = self._row(path)
        try:
            manifest = Manifest.from_json(row) if row else Manifest(())
        except GgufError:
            return {}
        return {(f.name, each.name): each.hashes for f in manifest.files for each in f.hashed}

    def _row(self, path: Path) -> dict[str, Any] | None:
        """Return what was kept of a model whose files are still what they were."""
        try:
            row = json.loads(self._path(path).read_text(encoding="utf-8"))
            paths = [Path(file[0]) for file in row["files_were"]]
            is_same = row["files_were"] == _state(paths) and paths[0] == absolute(path)
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return row if is_same else None

    def _path(self, path: Path) -> Path:
        name = hashlib.sha256(str(absolute(path)).encode()).hexdigest()
        return self._folder / f"{name}.json"


def write_manifest(
    path: Path, target: Path, store: ManifestStore, *, progress: Progress = SILENT
) -> None:
    """Write the SHA-256 of each tensor of a model to a new file.

    Args:
        path: The model; any shard of a set.
        target: The new file.
        store: Keeps them, too, so that a mirror serves them and a cluster need not compute them.
        progress: Where to report bytes.

    Raises:
        GgufError: The model cannot be read.
        DownloadError: The new file cannot be written, or there is one already.
    """
    with open_gguf(path) as file:
        text = json.dumps(store.manifest(file, progress=progress).to_json(), indent=1)
    with translate_disk_errors(target):
        try:
            write_new(target, lambda new: write_all(new, f"{text}\n".encode()))
        except FileExistsError as exc:
            raise DownloadError(
                f"`{target}` exists already", path=target, hint="name another file, or remove it"
            ) from exc


def _is_needed(path: Path) -> bool:
    try:
        first, *_ = json.loads(path.read_text(encoding="utf-8"))["files_were"]
        return os.path.lexists(first[0])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _state(paths: Sequence[Path]) -> list[list[object]]:
    return [[str(absolute(p)), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
