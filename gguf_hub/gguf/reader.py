"""Opening a GGUF file: metadata and tensors over a memory map, nothing copied.

``GgufFile.open`` refuses what cannot be read safely. Whether a file keeps all the rules of the
format is the matter of ``gguf_hub.gguf.validate``.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf.format import ByteOrder, Field, TensorInfo
from gguf_hub.gguf.header import Header, read_header
from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.gguf.issues import RULES, Issue, Severity
from gguf_hub.gguf.layout import read_table
from gguf_hub.gguf.mapping import read_errors, read_together
from gguf_hub.gguf.metadata import Metadata
from gguf_hub.gguf.raw_parts import refuse_raw_part
from gguf_hub.gguf.slices import refuse_slice
from gguf_hub.gguf.source import JoinedSource, MemorySource
from gguf_hub.progress import SILENT, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray


class GgufFile:
    """An open GGUF file; also a context manager.

    Attributes:
        path: The file.
        header: What stands before the data.
        fields: Metadata with its GGUF types, in file order.
        metadata: Metadata as plain Python values, with checked reading.
        hparams: What it says of the model's sizes.
        tensors: By name, in file order.
        data: The whole file, ``uint8[size_bytes]``, read-only: mapped, or a copy in memory.
        status: Distinguishes the mapped file from another of its name; None for a copy.
    """

    def __init__(
        self, path: Path, header: Header, tensors: dict[str, TensorInfo], data: NDArray[np.uint8]
    ) -> None:
        self.path = path
        self.header = header
        self.tensors: Mapping[str, TensorInfo] = tensors
        self.read_as(header.fields)
        self.data = data
        self.status: os.stat_result | None = None
        self._map: mmap.mmap | None = None

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        is_mapped: bool = True,
        is_slice: bool = False,
        progress: Progress = SILENT,
    ) -> GgufFile:
        """Map a file and read its header.

        Args:
            path: A GGUF file: version 1 to 3, either byte order.
            is_mapped: False to read all of it into memory of our own.
            is_slice: Whether a slice is meant, of which some tensors are holes.
            progress: Where to report that reading.

        Raises:
            GgufError: There is no such file, it cannot be read safely, or it is a raw part, or a
                slice where none is meant.
            UnsupportedGgufError: It has tensors of a type that this version does not know.
        """
        path = Path(path)
        refuse_raw_part(path)
        if not is_slice:
            refuse_slice(path)
        if not is_mapped:
            return cls.in_memory(path, read_together([path], progress)[1][0])
        buffer, status = _map(path)
        file = cls._parse(path, buffer, np.frombuffer(buffer, np.uint8))
        file.status = status
        file._map = buffer if isinstance(buffer, mmap.mmap) else None
        return file

    @classmethod
    def in_memory(cls, path: Path, data: NDArray[np.uint8]) -> GgufFile:
        """Read the header of a file whose bytes are in memory of our own.

        Raises:
            GgufError: It cannot be read safely.
            UnsupportedGgufError: It has tensors of a type that this version does not know.
        """
        return cls._parse(path, MemorySource(data), data)

    @classmethod
    def _parse(cls, path: Path, source: Any, data: NDArray[np.uint8]) -> GgufFile:
        header = read_header(source)
        table = read_table(header)
        raise_unreadable(path, header.issues + table.issues)
        data.flags.writeable = False
        return cls(path, header, table.tensors, data)

    def read_as(self, fields: Mapping[str, Field]) -> None:
        """Have other metadata than the file's, see ``overrides``."""
        self.fields: Mapping[str, Field] = fields
        self.metadata = Metadata(fields)
        self.hparams = HyperParameters(fields, self.tensors)

    @property
    def version(self) -> int:
        """Format version."""
        return self.header.version

    @property
    def byte_order(self) -> ByteOrder:
        """Byte order of the file; tensor data is given as it lies there."""
        return self.header.byte_order

    @property
    def alignment(self) -> int:
        """What offsets of tensors are multiples of, in bytes."""
        return self.header.alignment

    @property
    def data_offset(self) -> int:
        """Where the data section starts, in bytes."""
        return self.header.data_offset

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self.header.size_bytes

    @property
    def files(self) -> tuple[GgufFile, ...]:
        """All files of the model: this one."""
        return (self,)

    @property
    def starts(self) -> Mapping[Path, int]:
        """Where the file begins in ``data``."""
        return {self.path: 0}

    def owner(self, name: str) -> GgufFile:
        """Return the file that holds a tensor: this one."""
        return self

    def start_of(self, name: str) -> int:
        """Return the byte of ``data`` where a tensor begins."""
        return self.data_offset + self.tensors[name].offset

    def tensor_bytes(self, name: str) -> NDArray[np.uint8]:
        """Return a tensor's data, ``uint8[size_bytes]``, read-only and not copied.

        Raises:
            KeyError: The file has no such tensor.
        """
        start = self.start_of(name)
        return self.data[start : start + self.tensors[name].size_bytes]

    def check_size(self) -> None:
        """Raise if the mapped file has another size by now: reading past its end kills the process.

        It costs half a microsecond, so that it may be asked before every use. A file that was
        replaced, not written over, is still there.

        Raises:
            GgufError: It has.
        """
        if self._map is not None and self._map.size() != self.size_bytes:
            raise GgufError(
                f"`{self.path}` has changed while it was in use: expected {self.size_bytes:,} "
                f"bytes, found {self._map.size():,}",
                path=self.path,
                hint="put another file in its place with `mv`, not over it with `cp`; `run "
                "--no-mmap` reads all of it first",
            )

    def close(self) -> None:
        """Let go of the file; views that others hold stay valid."""
        self._map = None
        self.data = np.empty(0, np.uint8)

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GgufFile({str(self.path)!r}, {len(self.tensors)} tensors)"


def map_file(path: Path) -> mmap.mmap | bytes:
    """Map a file into memory, read-only; an empty one is ``b""``.

    Raises:
        GgufError: It does not exist, is a folder, a slice, or may not be read.
    """
    refuse_slice(path)
    return _map(path)[0]


def map_joined(paths: Sequence[Path]) -> JoinedSource:
    """Return the file that parts on this machine make; nothing is copied.

    Raises:
        GgufError: One cannot be read.
    """
    return JoinedSource([MemorySource(map_file(path)) for path in paths])


def _map(path: Path) -> tuple[mmap.mmap | bytes, os.stat_result]:
    with read_errors(path), path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_size == 0:
            return b"", status
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), status


def raise_unreadable(path: Path | str, issues: tuple[Issue, ...]) -> None:
    """Raise for problems that forbid reading; return when there are none.

    Raises:
        GgufError: Names the first problem, counts the others, carries all.
        UnsupportedGgufError: The same, when nothing is damaged.
    """
    grave = [issue for issue in issues if RULES[issue.code].stops_reading]
    if not grave:
        return
    damaged = [issue for issue in grave if issue.severity is Severity.ERROR]
    first = (damaged or grave)[0]
    more = f" (and {len(grave) - 1} more)" if len(grave) > 1 else ""
    kind = GgufError if damaged else UnsupportedGgufError
    raise kind(
        f"`{path}`: {first}{more}",
        path=path,
        issues=[str(issue) for issue in grave],
        hint=_hint(first, path),
    )


_HINTS = {
    "GGUF-FILE-EMPTY": "",
    "GGUF-FILE-HTML": "the link led to a web page; ",
    "GGUF-FILE-LFS-POINTER": "`git lfs pull` in that folder fetches it; or ",
    "GGUF-FILE-ZEROS": "",
    "GGUF-TRUNCATED": "the download was cut; ",
    "GGUF-TENSOR-BOUNDS": "the download was cut; ",
}
"""What happened to a file that is to be downloaded again."""


def _hint(issue: Issue, path: Path | str) -> str:
    verify = f"`gguf-hub verify {quote(str(path))}`"
    if issue.code in _HINTS:  # only `verify` may know which file it was
        return (
            f"{_HINTS[issue.code]}download it again: {verify} prints the command if the origin "
            "of the file is known"
        )
    if issue.code == "GGUF-TENSOR-TYPE-UNKNOWN":
        return "a newer gguf-hub may know it: `pip install -U gguf-hub`"
    if issue.code == "GGUF-OLLAMA-TYPE":
        return "`ollama pull` with the model's name fetches today's file"
    return f"{verify} lists every problem"


def gguf_problem(path: Path) -> str | None:
    """Return why a file cannot be opened as a GGUF, or None."""
    try:
        with GgufFile.open(path):
            return None
    except UnsupportedGgufError:
        return None  # sound, only not for this version
    except GgufError as error:
        return error.issues[0] if error.issues else error.message
