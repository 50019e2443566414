"""Opening a GGUF file: metadata and tensors over a memory map, nothing copied.

``GgufFile.open`` refuses what cannot be read safely. Whether a file keeps all the rules of the
format is the matter of ``gguf_hub.gguf.validate``.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from gguf_hub.errors import GgufError, ResourceError, UnsupportedGgufError
from gguf_hub.gguf.format import ByteOrder, Field, TensorInfo
from gguf_hub.gguf.header import Header, read_header
from gguf_hub.gguf.issues import RULES, Issue, Severity
from gguf_hub.gguf.layout import read_table
from gguf_hub.gguf.metadata import Metadata
from gguf_hub.progress import SILENT, Progress
from gguf_hub.units import format_size

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
        self._map: mmap.mmap | None = None

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
        buffer = map_file(path) if is_mapped else _read_file(path, progress)
        header = read_header(buffer)
        table = read_table(header)
        raise_unreadable(path, header.issues + table.issues)
        data = np.frombuffer(buffer, np.uint8)
        data.flags.writeable = False
        file = cls(path, header, table.tensors, data)
        file._map = buffer if is_mapped and isinstance(buffer, mmap.mmap) else None
        return file

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

    def check_size(self) -> None:
        """Raise if the mapped file has another size by now: what is gone of it ends the process.

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
    with _errors_told(path), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextlib.contextmanager
def _errors_told(path: Path) -> Iterator[None]:
    """Say in our own words why a file cannot be opened, mapped or read."""
    try:
        yield
    except FileNotFoundError as exc:
        hint = "check the path; `gguf-hub list` names the files that can be downloaded"
        raise GgufError(f"no such file: `{path}`", path=path, hint=hint) from exc
    except IsADirectoryError as exc:
        hint = "name the .gguf file inside of it"
        raise GgufError(f"`{path}` is a folder, not a file", path=path, hint=hint) from exc
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        hint = "the limit on address space is too low: `ulimit -v`"
        is_memory = exc.errno == errno.ENOMEM
        raise GgufError(
            f"cannot read `{path}`: {reason}", path=path, hint=hint if is_memory else None
        ) from exc


def _read_file(path: Path, progress: Progress) -> mmap.mmap | bytes:
    """Read a whole file into memory of our own; an empty one is ``b""``.

    Raises:
        GgufError: It cannot be read, or becomes shorter meanwhile.
        ResourceError: The system does not give as much memory.
    """
    with _errors_told(path), path.open("rb", buffering=0) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes == 0:
            return b""
        pages = _fresh_pages(path, size_bytes)
        with progress.task("read the file", size_bytes) as task, memoryview(pages) as data:
            at = 0
            while at < size_bytes:
                n = file.readinto(data[at : at + _PIECE_BYTES])
                if not n:
                    raise GgufError(f"`{path}` became shorter while it was read", path=path)
                at += n
                task.advance(n)
    return pages


def _fresh_pages(path: Path, size_bytes: int) -> mmap.mmap:
    """Return memory of our own; a map, so that its slices are bytes as those of a mapped file."""
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, size_bytes)
        pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as exc:
        raise ResourceError(
            f"not enough memory: `{path}` takes {format_size(size_bytes)}",
            hint="without `--no-mmap` it is read as it is needed",
        ) from exc
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


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
    """The next step after a problem."""
    verify = f"`gguf-hub verify {shlex.quote(str(path))}`"
    if issue.code in _HINTS:  # only `verify` may know which file it was
        return (
            f"{_HINTS[issue.code]}download it again: {verify} prints the command if the origin "
            "of the file is known"
        )
    if issue.code == "GGUF-TENSOR-TYPE-UNKNOWN":
        return "a newer gguf-hub may know it: `pip install -U gguf-hub`"
    return f"{verify} lists every problem"
