"""Opening a GGUF file: metadata and tensors over a memory map, nothing copied.

``GgufFile.open`` refuses what cannot be read safely. Whether a file keeps all the rules of the
format is the matter of ``gguf_hub.gguf.validate``.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf.format import ByteOrder, Field, TensorInfo
from gguf_hub.gguf.header import Header, read_header
from gguf_hub.gguf.issues import RULES, Issue, Severity
from gguf_hub.gguf.layout import read_table
from gguf_hub.gguf.metadata import Metadata
from gguf_hub.progress import SILENT, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE_BYTES = 64 << 20


class GgufFile:
    """An open GGUF file; also a context manager.

    Attributes:
        path: The file.
        header: What stands before the data.
        fields: Metadata with its GGUF types, in file order.
        metadata: Metadata as plain Python values, with checked reading.
        tensors: By name, in file order.
        data: The whole file, ``uint8[size_bytes]``, read-only: mapped, or a copy in memory.
    """

    def __init__(
        self, path: Path, header: Header, tensors: dict[str, TensorInfo], data: NDArray[np.uint8]
    ) -> None:
        self.path = path
        self.header = header
        self.fields: Mapping[str, Field] = header.fields
        self.metadata = Metadata(header.fields)
        self.tensors: Mapping[str, TensorInfo] = tensors
        self.data = data

    @classmethod
    def open(
        cls, path: Path | str, *, is_mapped: bool = True, progress: Progress = SILENT
    ) -> GgufFile:
        """Map a file and read its header.

        Args:
            path: A GGUF file: version 1 to 3, either byte order.
            is_mapped: False to read all of it into memory of our own.
            progress: Told about that reading.

        Raises:
            GgufError: There is no such file, or it cannot be read safely.
            UnsupportedGgufError: It has tensors of a type that this version does not know.
        """
        path = Path(path)
        buffer = map_file(path)
        header = read_header(buffer)
        table = read_table(header)
        raise_unreadable(path, header.issues + table.issues)
        mapped = np.frombuffer(buffer, np.uint8)
        return cls(path, header, table.tensors, mapped if is_mapped else _copied(mapped, progress))

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

    def tensor_bytes(self, name: str) -> NDArray[np.uint8]:
        """Return a tensor's data, ``uint8[size_bytes]``, read-only and not copied.

        Raises:
            KeyError: The file has no such tensor.
        """
        info = self.tensors[name]
        start = self.data_offset + info.offset
        return self.data[start : start + info.size_bytes]

    def close(self) -> None:
        """Let go of the file; views that others hold stay valid."""
        self.data = np.empty(0, np.uint8)

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of the file."""
        self.close()

    def __repr__(self) -> str:
        return f"GgufFile({str(self.path)!r}, {len(self.tensors)} tensors)"


def map_file(path: Path) -> mmap.mmap | bytes:
    """Map a file into memory, read-only; an empty one is ``b""``.

    Raises:
        GgufError: It does not exist, is a folder, or may not be read.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as exc:
        hint = "check the path; `gguf-hub list` names the files that can be downloaded"
        raise GgufError(f"no such file: `{path}`", path=path, hint=hint) from exc
    except IsADirectoryError as exc:
        hint = "name the .gguf file inside of it"
        raise GgufError(f"`{path}` is a folder, not a file", path=path, hint=hint) from exc
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise GgufError(f"cannot read `{path}`: {reason}", path=path) from exc


def _copied(mapped: NDArray[np.uint8], progress: Progress) -> NDArray[np.uint8]:
    """Return a copy of a mapped file in memory of our own."""
    data = np.empty_like(mapped)
    with progress.task("read the file", data.size) as task:
        for at in range(0, data.size, _PIECE_BYTES):
            piece = mapped[at : at + _PIECE_BYTES]
            data[at : at + piece.size] = piece
            task.advance(piece.size)
    data.flags.writeable = False
    return data


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


_FETCH_AGAIN = "`gguf-hub download` fetches it again and checks it"
_HINTS = {
    "GGUF-FILE-EMPTY": _FETCH_AGAIN,
    "GGUF-FILE-HTML": f"the link led to a web page; {_FETCH_AGAIN}",
    "GGUF-FILE-LFS-POINTER": f"`git lfs pull` in that folder fetches it, or {_FETCH_AGAIN}",
    "GGUF-FILE-ZEROS": _FETCH_AGAIN,
    "GGUF-TRUNCATED": f"the download was cut; {_FETCH_AGAIN}",
    "GGUF-TENSOR-BOUNDS": f"the download was cut; {_FETCH_AGAIN}",
    "GGUF-TENSOR-TYPE-UNKNOWN": "a newer gguf-hub may know it: `pip install -U gguf-hub`",
}


def _hint(issue: Issue, path: Path | str) -> str:
    """The next step after a problem."""
    hint = _HINTS.get(issue.code)
    return hint or f"`gguf-hub verify {path}` lists every problem"
