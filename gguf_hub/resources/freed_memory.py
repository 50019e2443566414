"""Memory that was freed and that the C library keeps."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Give memory that was freed back to the system, where the C library would keep it.

    glibc keeps what each thread has freed: after some large and refused requests a server has
    several hundred megabytes that nobody uses.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
