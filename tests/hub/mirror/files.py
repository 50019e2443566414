"""A record of verified files, made for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gguf_hub.hub.store import Store, StoredFile

REPO = "org/model"
COMMIT = "c" * 40


def add(
    store: Store,
    folder: Path,
    files: Mapping[str, bytes],
    *,
    repo_id: str | None = REPO,
    commit: str | None = COMMIT,
    verified_at: str = "2026-01-01T00:00:00+00:00",
) -> dict[str, Path]:
    """Write files below a folder, record them as verified, and return where they are."""
    paths = {}
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        entry = StoredFile.of(path, digest, repo_id=repo_id, commit=commit, filename=name)
        store.add(replace(entry, verified_at=verified_at))
        paths[name] = path
    return paths
