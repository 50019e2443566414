"""The hub's JSON for what the mirror offers.

Source: what huggingface_hub 2.4.0 and llama.cpp read (``hf_api.py``, ``common/hf-cache.cpp``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from gguf_hub.hub.mirror.repository_index import BRANCH, Snapshot
from gguf_hub.hub.store import StoredFile

JsonObject = dict[str, Any]


def model_info(listing: Snapshot, *, with_blobs: bool = False) -> JsonObject:
    """Return what the hub says of a model; with sizes and hashes of its files if asked."""
    return {
        "id": listing.repo_id,
        "modelId": listing.repo_id,
        "sha": listing.commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": ["gguf"],
        "siblings": [
            {"rfilename": path, **(_blob(entry) if with_blobs else {})}
            for path, entry in listing.files.items()
        ],
    }


def tree(listing: Snapshot, folder: str = "", *, is_recursive: bool = False) -> list[JsonObject]:
    """Return the entries below a folder, each folder before what is in it."""
    return list(_walk(listing, folder.strip("/"), is_recursive))


def paths_info(listing: Snapshot, paths: Iterable[str]) -> list[JsonObject]:
    """Return the entries of some paths; what does not exist is left out, as the hub does."""
    known = {entry["path"]: entry for entry in _walk(listing, "", is_recursive=True)}
    return [known[path.strip("/")] for path in paths if path.strip("/") in known]


def refs(listing: Snapshot) -> JsonObject:
    """Return the only branch."""
    branch = {"name": BRANCH, "ref": f"refs/heads/{BRANCH}", "targetCommit": listing.commit}
    return {"branches": [branch], "tags": [], "converts": []}


def _walk(listing: Snapshot, folder: str, is_recursive: bool) -> Iterator[JsonObject]:
    base, folders_done = f"{folder}/" if folder else "", set()
    for path, entry in listing.files.items():
        if not path.startswith(base):
            continue
        *folders, _ = path[len(base) :].split("/")
        for depth in range(1, len(folders) + 1 if is_recursive else min(len(folders), 1) + 1):
            inner = base + "/".join(folders[:depth])
            if inner not in folders_done:
                folders_done.add(inner)
                oid = _sha1(f"{listing.commit} {inner}".encode())
                yield {"type": "directory", "oid": oid, "size": 0, "path": inner}
        if is_recursive or not folders:
            yield _tree_file(path, entry)


def _tree_file(path: str, entry: StoredFile) -> JsonObject:
    pointer = lfs_pointer(entry)
    lfs = {"oid": entry.sha256, "size": entry.size_bytes, "pointerSize": len(pointer)}
    return {
        "type": "file",
        "oid": _git_id(pointer),
        "size": entry.size_bytes,
        "lfs": lfs,
        "path": path,
    }


def _blob(entry: StoredFile) -> JsonObject:
    pointer = lfs_pointer(entry)
    lfs = {"sha256": entry.sha256, "size": entry.size_bytes, "pointerSize": len(pointer)}
    return {"size": entry.size_bytes, "blobId": _git_id(pointer), "lfs": lfs}


def lfs_pointer(entry: StoredFile) -> bytes:
    """Return the small text that git keeps instead of a large file.

    Source: git-lfs docs/spec.md.
    """
    return (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{entry.sha256}\n"
        f"size {entry.size_bytes}\n"
    ).encode()


def _git_id(data: bytes) -> str:
    """Return git's name of a file's content. Source: git-hash-object(1)."""
    return _sha1(b"blob %d\0" % len(data) + data)


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
