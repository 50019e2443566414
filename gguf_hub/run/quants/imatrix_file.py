"""Files of importance matrices: llama.cpp's GGUF, and the format from before it.

GGUF: ``general.type`` is ``imatrix``; ``imatrix.datasets``, ``imatrix.chunk_count`` and
``imatrix.chunk_size``; for each tensor NAME two of float32: ``NAME.in_sum2`` [n, n_counts] and
``NAME.counts`` [1, n_counts].

Before: int32 number of entries; for each int32 length of the name, the name, int32 chunks, int32
numbers, and these, float32: mean squares times chunks. Then int32 chunks, and int32 length and
name of the text, which may be absent. Little-endian.

Source: common/imatrix-loader.cpp and tools/imatrix/imatrix.cpp of llama.cpp at ggml 0.25.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import GgufError
from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.roles import Role, role_of_header
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.oserrors import reason_of
from gguf_hub.run.quants.imatrix import Entry, ImportanceMatrix

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAKE = "`gguf-hub imatrix MODEL --text FILE -o OUT` makes one"
_MAX_NAME = 1 << 16
_MAX_COUNT = 2**62


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read an importance matrix of either format.

    Raises:
        GgufError: It is not there, damaged, or something else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as exc:
        raise GgufError(f"cannot read `{path}`: {reason_of(exc)}", path=path, hint=_MAKE) from exc
    return _read_gguf(path)[0] if start == b"GGUF" else _read_legacy(path)


def read_unfinished(path: Path) -> tuple[ImportanceMatrix, Mapping[str, Field]]:
    """Read a file of ours with all its keys, to go on with it.

    Raises:
        GgufError: It is damaged, or something else.
    """
    return _read_gguf(path)


def write_imatrix(
    path: Path, matrix: ImportanceMatrix, more: Mapping[str, Field] | None = None
) -> None:
    """Write an importance matrix as GGUF; it appears, or replaces another one, when it is whole.

    Args:
        path: The file.
        matrix: What it shall hold.
        more: Keys of our own.

    Raises:
        DiskFullError: Not enough space.
        LockedError: Another process writes the same file.
    """
    fields = {
        "general.type": Field.of("imatrix"),
        "imatrix.datasets": Field.of(list(matrix.datasets)),
        "imatrix.chunk_count": Field.of(matrix.n_chunks),
        "imatrix.chunk_size": Field.of(matrix.chunk_size),
        **(more or {}),
    }
    write_gguf(path, fields, list(_tensors(matrix)))


def _tensors(matrix: ImportanceMatrix) -> Iterator[tuple[TensorSpec, NDArray[np.float32]]]:
    for name, entry in sorted(matrix.entries.items()):
        n = len(entry.counts)
        sums = np.ascontiguousarray(entry.sums, np.float32).reshape(n, -1)
        yield TensorSpec(name + _SUMS, (sums.shape[1], n), QuantType.F32), sums
        counts = entry.counts.astype(np.float32)
        yield TensorSpec(name + _COUNTS, (1, n), QuantType.F32), counts


# -- GGUF ------------------------------------------------------------------------------------------


def _read_gguf(path: Path) -> tuple[ImportanceMatrix, Mapping[str, Field]]:
    with GgufFile.open(path) as file:
        role = role_of_header(file.fields, file.tensors)
        if role is not Role.IMATRIX:
            raise _unusable(path, f"is {role.description}, not an importance matrix")
        if file.byte_order != "little":
            raise _unusable(path, "is big-endian")
        names = {name.removesuffix(_SUMS) for name in file.tensors if name.endswith(_SUMS)}
        known = {name + suffix for name in names for suffix in (_SUMS, _COUNTS)}
        if other := next((name for name in file.tensors if name not in known), None):
            raise _unusable(path, f"tensor `{shown(other)}` is not one of an entry")
        entries = {name: _entry(file, path, name) for name in sorted(names)}
        if not entries:
            raise _unusable(path, "has no entries")
        datasets = file.metadata.get("imatrix.datasets")
        matrix = ImportanceMatrix(
            entries,
            tuple(str(text) for text in datasets) if isinstance(datasets, (list, tuple)) else (),
            file.metadata.uint("imatrix.chunk_count", 0),
            max(1, file.metadata.uint("imatrix.chunk_size", 512)),
            path,
        )
        return matrix, file.fields


def _entry(file: GgufFile, path: Path, name: str) -> Entry:
    if name + _COUNTS not in file.tensors:
        raise _unusable(path, f"the entry of tensor `{shown(name)}` has sums and no counts")
    for suffix in (_SUMS, _COUNTS):
        if file.tensors[name + suffix].type is not QuantType.F32:
            raise _unusable(path, f"tensor `{shown(name + suffix)}` is not F32")
    sums = file.tensor_bytes(name + _SUMS).view(np.float32)
    counts = file.tensor_bytes(name + _COUNTS).view(np.float32)
    return _checked(path, name, sums.copy(), counts.astype(np.float64))


def _checked(
    path: Path, name: str, sums: NDArray[np.float32], counts: NDArray[np.float64]
) -> Entry:
    """Return an entry whose numbers can be: sums and counts of something."""
    if not counts.size or not sums.size or sums.size % counts.size:
        problem = f"has {sums.size:,} sums and {counts.size:,} counts"
    elif not (np.isfinite(sums) & (sums >= 0)).all():
        bad = sums[~(np.isfinite(sums) & (sums >= 0))][0]
        problem = f"has a sum of squares of {bad:g}"
    elif not (np.isfinite(counts) & (counts >= 0) & (counts < _MAX_COUNT)).all():
        problem = "has a count that is not a number of rows"
    else:
        return Entry(sums.reshape(counts.size, -1), np.rint(counts).astype(np.int64))
    raise _unusable(path, f"the entry of tensor `{shown(name)}` {problem}")


def _unusable(path: Path, problem: str) -> GgufError:
    return GgufError(f"`{path}`: {problem}", path=path, hint=_MAKE)


# -- the format before -----------------------------------------------------------------------------


class _Reader:
    """Takes numbers and bytes off a file that may end anywhere."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._at = path, data, 0

    @property
    def is_at_end(self) -> bool:
        """Whether all bytes are taken."""
        return self._at >= len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes; raise where the file ends before."""
        if size < 0 or self._at + size > len(self._data):
            raise _unusable(
                self._path,
                f"ends, or makes no sense, at byte {self._at:,} of {len(self._data):,}: "
                "expected an importance matrix",
            )
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self) -> int:
        """Return the next four bytes, a signed little-endian integer."""
        return int(struct.unpack("<i", self.take(4))[0])


def _read_legacy(path: Path) -> ImportanceMatrix:
    reader = _Reader(path, path.read_bytes())
    n_entries = reader.number()
    if n_entries < 1:
        raise _unusable(path, f"says that it has {n_entries:,} entries")
    entries: dict[str, Entry] = {}
    for _ in range(n_entries):
        raw = reader.take(min(reader.number(), _MAX_NAME))
        name = raw.decode("utf-8", "replace")
        n_chunks, n = reader.number(), reader.number()
        if n_chunks < 0:
            raise _unusable(path, f"the entry of tensor `{shown(name)}` has {n_chunks:,} chunks")
        sums = np.frombuffer(reader.take(4 * n), "<f4").astype(np.float32)
        entries[name] = _checked(path, name, sums, np.array([max(1, n_chunks)], np.float64))
    n_chunks, datasets = 0, list[str]()
    if not reader.is_at_end:
        n_chunks = max(0, reader.number())
    if not reader.is_at_end:
        text = reader.take(min(reader.number(), _MAX_NAME)).decode("utf-8", "replace")
        datasets += [text] if text else []
    return ImportanceMatrix(entries, tuple(datasets), n_chunks, 0, path)
