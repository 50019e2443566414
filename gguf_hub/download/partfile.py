"""A file that is written in any order, from several threads."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from pathlib import Path
from types import TracebackType

_NOT_HERE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

# no link: what somebody made the name lead to is not for us to write
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class PartFile:
    """A file of a known size, open for reading and writing; also a context manager.

    Args:
        path: The file; made when it does not exist.
        size_bytes: What it shall have; space is set aside for it where the file system can.
        is_compare: Write only what differs from what is there.

    Raises:
        OSError: It cannot be opened, or there is no space for it.
    """

    def __init__(self, path: Path, size_bytes: int, *, is_compare: bool = False) -> None:
        self.path = path
        self.n_changed_bytes = 0
        self._is_compare = is_compare
        self._seeking = threading.Lock()
        self.fd = os.open(path, _FLAGS, 0o666)
        try:
            _reserve(self.fd, size_bytes)
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
        found = memoryview(bytearray(len(data)))
        return self.read(found, at) == len(data) and found == data

    def _write_some(self, data: memoryview, at: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.fd, data, at)
        with self._seeking:
            os.lseek(self.fd, at, os.SEEK_SET)
            return os.write(self.fd, data)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _reserve(fd: int, size_bytes: int) -> None:
    """Give the file its size, with space on the disk where the file system can.

    Raises:
        OSError: ENOSPC: there is no room.
    """
    if os.fstat(fd).st_size > size_bytes:
        os.ftruncate(fd, size_bytes)
    if size_bytes and not _fallocate(fd, size_bytes):
        os.ftruncate(fd, size_bytes)


def _fallocate(fd: int, size_bytes: int) -> bool:
    """Set space aside; False where that cannot be done.

    NOTE: ``os.posix_fallocate`` will not do: where the file system cannot, the C library writes
    into every block of the file instead, which takes as long as the download.
    """
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError, TypeError):
        return False
    number = errno.EINTR
    while number == errno.EINTR:
        if call(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size_bytes)) == 0:
            return True
        number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number))
