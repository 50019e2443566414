"""Hashes of files: SHA-256 for large ones, git's SHA-1 for the small ones that git itself keeps."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gguf_hub.hub.client import RemoteFile
from gguf_hub.progress import SILENT, Progress

# large enough that reading is no matter, small enough to stay in the processor's cache
CHUNK_BYTES = 1 << 20


def sha256_file(path: Path, *, progress: Progress = SILENT, label: str | None = None) -> str:
    """Return the SHA-256 of a file in hex, reading it once.

    Args:
        path: The file.
        progress: Where to report bytes.
        label: What the bar says; ``check <name>`` when None.

    Raises:
        OSError: The file cannot be read.
    """
    digest, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
    size_bytes = path.stat().st_size
    with (
        path.open("rb", buffering=0) as file,
        progress.task(label or f"check {path.name}", size_bytes) as task,
    ):
        while n := file.readinto(buffer):
            digest.update(buffer[:n])
            task.advance(n)
    return digest.hexdigest()


def git_sha1_file(path: Path) -> str:
    """Return git's id of a file's content: SHA-1 over ``blob <size>``, a zero byte, the bytes.

    Source: git-hash-object(1), gitformat-pack(5).
    """
    data = path.read_bytes()
    # not for security here: it is the name that git gives
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def matches(path: Path, file: RemoteFile, sha256: str) -> bool:
    """Return whether a file has the content that the hub announces.

    Args:
        path: The file.
        file: The hub's entry.
        sha256: SHA-256 of the file as it is.
    """
    if path.stat().st_size != file.size_bytes:
        return False
    if file.sha256 is not None:
        return sha256 == file.sha256
    return git_sha1_file(path) == file.blob_id
