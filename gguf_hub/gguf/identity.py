"""What tells models from others: their headers, and samples of their tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from gguf_hub.gguf.shards import Gguf

_SAMPLE_BYTES = 4096


def header_id(file: Gguf) -> str:
    """Return the SHA-256 of all that stands before the tensors, shard by shard."""
    digest = hashlib.sha256()
    for part in file.files:
        start = file.starts[part.path]
        digest.update(f"{part.size_bytes}\n".encode())
        digest.update(file.data[start : start + part.data_offset].data)
    return digest.hexdigest()


def tensors_id(file: Gguf, names: Iterable[str]) -> str:
    """Return a hash of samples of tensors: the first and the last 4 KiB of each.

    Other weights differ in nearly all of them; single flipped bits ``verify`` finds.
    """
    digest = hashlib.sha256()
    for name in names:
        data = file.tensor_bytes(name).data
        digest.update(data[:_SAMPLE_BYTES])
        digest.update(data[-_SAMPLE_BYTES:])
    return digest.hexdigest()
