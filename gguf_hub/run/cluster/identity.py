"""What both ends must have alike: the program, and the file.

Logits are the same to the bit on every machine only where the same code computes with the same
bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gguf_hub import __version__
from gguf_hub.errors import ClusterError
from gguf_hub.gguf.shards import Gguf
from gguf_hub.run.kernels.build.build import hash_of_sources

_SAMPLE_BYTES = 4096


def program_id() -> str:
    """Return the version, and a hash of the sources that decide about bits."""
    return f"{__version__} ({hash_of_sources()[:12]})"


def require_same_program(theirs: str, where: str) -> None:
    """Refuse a machine with another version.

    Raises:
        ClusterError: It has one.
    """
    if theirs != program_id():
        raise ClusterError(
            f"{where} has gguf-hub {theirs}: expected {program_id()}, as here",
            hint="install the same version on all machines: `pip install -U gguf-hub`",
        )


def header_id(file: Gguf) -> str:
    """Return the SHA-256 of all that stands before the tensors, shard by shard."""
    digest = hashlib.sha256()
    for part in file.files:
        start = file.starts[part.path]
        digest.update(f"{part.size_bytes}\n".encode())
        digest.update(file.data[start : start + part.data_offset].data)
    return digest.hexdigest()


def tensors_id(file: Gguf, names: Sequence[str]) -> str:
    """Return a hash of samples of tensors: the first and the last 4 KiB of each.

    Other weights differ in nearly all of them; single flipped bits ``verify`` finds.
    """
    digest = hashlib.sha256()
    for name in names:
        data = file.tensor_bytes(name).data
        digest.update(data[:_SAMPLE_BYTES])
        digest.update(data[-_SAMPLE_BYTES:])
    return digest.hexdigest()
