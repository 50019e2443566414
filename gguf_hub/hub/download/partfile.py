"""A file that is written in any order, from several threads."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from gguf_hub.errors import DownloadError
from gguf_hub.files import create, is_named, open_regular
from gguf_hub.gguf.copying import FileRange, copy_range
from gguf_hub.gguf.reserve import reserve
from gguf_hub.units import MIB

_CHUNK_BYTES = 1 * MIB
# no link: what somebody made the name lead to is not for us to write
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FLAGS |= getattr(os, "O_NONBLOCK", 0)  # a pipe makes nobody wait


class PartFile:
    """A file of a known size, open for reading and writing; also a context manager.

    Args:
        path: The file; made when it does not exist.
        size_bytes: What it shall have; space is set aside for it where the file system can.
        is_compare: Write only what differs from what is there.
        is_part: It is a part of ours: one that is a second name of another file is refused.
        is_sparse: Set no space aside: what is not written stays a hole.

    Raises:
        OSError: It cannot be opened, or there is no space for it.
    """

    def __init__(
        self,
        path: Path,
        size_bytes: int,
        *,
        is_compare: bool = False,
        is_part: bool = True,
        is_sparse: bool = False,
    ) -> None:
        self.path = path
        self.n_changed_bytes = 0
        self._is_compare = is_compare
        self._seeking = threading.Lock()
        self.fd = os.open(path, _FLAGS, 0o666)
        try:
            _require_alone(self.fd, path, is_part=is_part)
            if is_sparse:
                os.ftruncate(self.fd, size_bytes)
            else:
                reserve(self.fd, size_bytes)
        except OSError:
            os.close(self.fd)
            raise

    def read(self, buffer: memoryview, at: int) -> int:
        """Fill ``buffer`` from offset ``at``; return how many bytes there were."""
        if hasattr(os, "preadv"):
            return os.preadv(self.fd, [buffer], at)
        with self._seeking:
            os.lseek(self.fd, at, os.SEEK_SET)
            data = os.read(self.fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes of a range, as far as there are any, always in the same buffer."""
        buffer = memoryview(bytearray(min(_CHUNK_BYTES, stop - start)))
        while start < stop and (n := self.read(buffer[: stop - start], start)):
            yield buffer[:n]
            start += n

    def write(self, data: memoryview, at: int) -> None:
        """Write all of ``data`` at offset ``at``."""
        if self._is_compare and self._is_there(data, at):
            return
        self.n_changed_bytes += len(data)
        while data:
            n = self._write_some(data, at)
            data, at = data[n:], at + n

    def close(self) -> None:
        """Close it; what was written stays."""
        os.close(self.fd)

    def _is_there(self, data: memoryview, at: int) -> bool:
        current = memoryview(bytearray(len(data)))
        return self.read(current, at) == len(data) and current == data

    def _write_some(self, data: memoryview, at: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.fd, data, at)
        with self._seeking:
            os.lseek(self.fd, at, os.SEEK_SET)
            return os.write(self.fd, data)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextlib.contextmanager
def hold_open(part: Path) -> Iterator[os.stat_result]:
    """Give what the system says of a part, for ``require_named`` inside the block.

    The file stays open, so that no other gets its number. Windows gives no number twice, and would
    not rename an open file.

    Raises:
        OSError: There is no such file.
    """
    descriptor = open_regular(part)
    try:
        status = os.fstat(descriptor)
        if os.name == "nt":
            os.close(descriptor)
        yield status
    finally:
        if os.name != "nt":
            os.close(descriptor)


def require_named(status: os.stat_result, part: Path) -> None:
    """Refuse a name that does not lead to the part any more: somebody removed the folder.

    Raises:
        DownloadError: It leads to another file, maybe another download's, or to none.
    """
    if is_named(status, part):
        return
    is_there = os.path.lexists(part)
    raise DownloadError(
        f"`{part}` was {'replaced' if is_there else 'removed'} while it was downloaded: its bytes "
        f"are lost{', and the file that is there now is left as it is' if is_there else ''}",
        path=part,
        hint=f"repeat the command once no other download writes to `{part.parent}`",
    )


def _require_alone(fd: int, path: Path, *, is_part: bool) -> None:
    """Refuse what is no file, and a part that has another name: that may be anybody's file."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if is_part and status.st_nlink > 1:
        raise OSError(errno.EMLINK, "one of several names of a file", str(path))


def copy_file(source: Path, new: Path) -> None:
    """Copy a file to a part of ours: a new file, whatever the name led to before.

    Raises:
        OSError: It cannot be copied.
    """
    new.unlink(missing_ok=True)
    target = create(new)
    try:
        for _ in copy_range(FileRange(source, 0, source.stat().st_size), target):
            pass
    finally:
        os.close(target)
