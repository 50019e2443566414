"""Manifests: SHA-256 of each tensor of a model, so that some of them can be fetched and checked.

A tensor of more than 16 MiB has a hash for each 16 MiB of it: a damaged or interrupted transfer
costs no more. As JSON::

    {"manifest": 1, "files": [
      {"name": "model.gguf", "size_bytes": 1000, "tensors": [
        {"name": "", "start": 0, "size_bytes": 320, "sha256": ["..."]},
        {"name": "token_embd.weight", "start": 320, "size_bytes": 680, "sha256": ["..."]}]}]}

The entry without a name is the header: all bytes before the first tensor. Where hashes are not
known, ``sha256`` is empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gguf_hub.errors import GgufError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.shards import Gguf
from gguf_hub.progress import SILENT, Progress, Task
from gguf_hub.units import MIB

VERSION = 1
BLOCK_BYTES = 16 * MIB
"""What one hash is of at most."""
HEADER = ""
_HASH_CHARS = 64
_READ_BYTES = 1 * MIB


@dataclass(frozen=True)
class HashedTensor:
    """Where a tensor lies, and what its bytes are.

    Attributes:
        name: Its name; ``HEADER`` for what stands before all tensors.
        start: Its first byte in the file.
        size_bytes: How many it has.
        hashes: SHA-256 in hex of each ``BLOCK_BYTES`` of it, the last block may be shorter; empty
            where nobody computed them.
    """

    name: str
    start: int
    size_bytes: int
    hashes: tuple[str, ...] = ()

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield first byte in the file, and the byte after the last one, of each block."""
        end = self.start + self.size_bytes
        for start in range(self.start, end, BLOCK_BYTES):
            yield start, min(start + BLOCK_BYTES, end)

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"tensor `{self.name}`" if self.name else "the header"


@dataclass(frozen=True)
class FileManifest:
    """The tensors of one file, in the order of their bytes; the header is the first."""

    name: str
    size_bytes: int
    tensors: tuple[HashedTensor, ...]

    @property
    def hashed(self) -> list[HashedTensor]:
        """Those whose hashes are known."""
        return [each for each in self.tensors if each.hashes]


@dataclass(frozen=True)
class Manifest:
    """The tensors of a model, in one file or in shards."""

    files: tuple[FileManifest, ...]

    @property
    def hashed_bytes(self) -> int:
        """Bytes of the tensors and headers whose hashes are known."""
        return sum(each.size_bytes for file in self.files for each in file.hashed)

    @property
    def is_complete(self) -> bool:
        """Whether all hashes are known."""
        return all(each.hashes for file in self.files for each in file.tensors)

    def to_json(self) -> dict[str, Any]:
        """Return it for ``from_json``."""
        return {
            "manifest": VERSION,
            "files": [
                {
                    "name": file.name,
                    "size_bytes": file.size_bytes,
                    "tensors": [
                        {"name": each.name, "start": each.start, "size_bytes": each.size_bytes,
                         "sha256": list(each.hashes)}
                        for each in file.tensors
                    ],
                }
                for file in self.files
            ],
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Any) -> Manifest:
        """Read a manifest of whatever origin.

        Raises:
            GgufError: It is none, or contradicts itself.
        """
        try:
            if data["manifest"] != VERSION:
                raise ValueError(f"version {data['manifest']}, expected {VERSION}")
            return cls(tuple(_read_file(row) for row in data["files"]))
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise GgufError(f"this is no manifest of tensors: {exc}") from exc


def _read_file(row: Mapping[str, Any]) -> FileManifest:
    file = FileManifest(
        _typed(row["name"], str), _typed(row["size_bytes"], int), tuple(map(_read, row["tensors"]))
    )
    at = 0
    for each in file.tensors:
        n_blocks = len(range(0, each.size_bytes, BLOCK_BYTES))
        if each.start < at or len(each.hashes) not in (0, n_blocks):
            raise ValueError(f"{each.label} of `{file.name}` overlaps others or lacks hashes")
        at = each.start + each.size_bytes
    if not at or file.tensors[0].start or at > file.size_bytes:
        raise ValueError(f"tensors of `{file.name}` do not begin at 0 or end behind the file")
    return file


def _read(row: Mapping[str, Any]) -> HashedTensor:
    hashes = tuple(_typed(text, str) for text in row["sha256"])
    if any(len(text) != _HASH_CHARS or set(text) - set("0123456789abcdef") for text in hashes):
        raise ValueError("a hash that is no SHA-256")
    sizes = _typed(row["start"], int), _typed(row["size_bytes"], int)
    if min(sizes) < 0:
        raise ValueError("a negative size")
    return HashedTensor(_typed(row["name"], str), *sizes, hashes)


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r}: expected {kind.__name__}")
    return value


# -- making them -----------------------------------------------------------------------------------


def manifest_of(
    file: Gguf,
    names: Collection[str] | None = None,
    known: Mapping[tuple[str, str], tuple[str, ...]] | None = None,
    *,
    progress: Progress = SILENT,
) -> Manifest:
    """Return where all tensors of an open model lie, and the hashes of some.

    Args:
        file: The model.
        names: The tensors to hash; all when None. Headers are always hashed: without that of each
            file none of a set is opened.
        known: Hashes from before, by the names of file and tensor.
        progress: Where to report bytes.
    """
    known = known or {}
    layouts = [_layout(part) for part in file.files]
    wanted = set(file.tensors if names is None else names) | {HEADER}
    todo = sum(
        each.size_bytes
        for layout in layouts
        for each in layout.tensors
        if each.name in wanted and (layout.name, each.name) not in known
    )
    with (progress if todo else SILENT).task(f"hash {file.path.name}", todo) as task:
        return Manifest(tuple(
            _hashed(part, layout, wanted, known, task)
            for part, layout in zip(file.files, layouts, strict=True)
        ))  # fmt: skip


def _layout(file: GgufFile) -> FileManifest:
    tensors = sorted(
        (HashedTensor(name, file.start_of(name), info.size_bytes)
         for name, info in file.tensors.items() if info.size_bytes),
        key=lambda each: each.start,
    )  # fmt: skip
    n_header = min(file.data_offset, file.size_bytes)
    return FileManifest(
        file.path.name, file.size_bytes, (HashedTensor(HEADER, 0, n_header), *tensors)
    )


def _hashed(
    file: GgufFile, layout: FileManifest, names: Collection[str],
    known: Mapping[tuple[str, str], tuple[str, ...]], task: Task,
) -> FileManifest:  # fmt: skip
    def hashes_of(each: HashedTensor) -> tuple[str, ...]:
        """Return the SHA-256 of each block of a tensor; known ones are not read again."""
        if each.name not in names:
            return ()
        if (layout.name, each.name) in known:
            return known[layout.name, each.name]
        return tuple(_sha256(file, start, stop, task) for start, stop in each.blocks())

    tensors = tuple(replace(each, hashes=hashes_of(each)) for each in layout.tensors)
    return replace(layout, tensors=tensors)


def _sha256(file: GgufFile, start: int, stop: int, task: Task) -> str:
    digest = hashlib.sha256()
    for at in range(start, stop, _READ_BYTES):
        data = file.data[at : min(at + _READ_BYTES, stop)].data
        digest.update(data)
        task.advance(len(data))
    return digest.hexdigest()
