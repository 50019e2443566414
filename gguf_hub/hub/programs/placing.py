"""A second name for a file without a second copy of it: shared blocks, a hard or a symbolic link.

In this order: shared blocks make two files that know nothing of each other; a hard link is one
file, whose bytes stay until both names are gone; a symbolic link leads to nothing once the file is
removed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from gguf_hub.errors import GgufHubError
from gguf_hub.files import write_new
from gguf_hub.gguf.copying import FileRange, copy_range
from gguf_hub.oserrors import reason_of, translate_os_errors
from gguf_hub.progress import SILENT, Progress

_FICLONE = 0x40049409
"""Source: linux/fs.h, ``_IOW(0x94, 9, int)``."""


class Kind(str, Enum):
    """How a file came to have another name."""

    REFLINK = "reflink"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    COPY = "copy"


def place(source: Path, target: Path, *, may_copy: bool, progress: Progress = SILENT) -> Kind:
    """Give a file another name.

    Args:
        source: The file.
        target: A name that nothing has; its folder is there.
        may_copy: Whether to copy the bytes where nothing else works.
        progress: Where to report bytes that are copied.

    Raises:
        GgufHubError: No link can be made, and ``may_copy`` is False; or the bytes cannot be copied.
    """
    source = Path(os.path.realpath(source))
    reasons = []
    for kind, make in _LINKS.items():
        try:
            make(source, target)
        except (OSError, NotImplementedError) as exc:
            reason = reason_of(exc) if isinstance(exc, OSError) else "not on this system"
            reasons.append(f"{kind.value}: {reason}")
        else:
            return kind
    if not may_copy:
        raise GgufHubError(
            f"`{target}` cannot share the bytes of `{source}` ({'; '.join(reasons)})",
            hint="`--copy` makes a second copy; a folder on the same disk needs none",
        )
    with translate_os_errors(f"cannot write `{target}`", path=target,
                             full_hint="free some space there"):  # fmt: skip
        _copy(source, target, progress)
    return Kind.COPY


def _reflink(source: Path, target: Path) -> None:
    if sys.platform == "darwin":
        _clone_file(source, target)
        return
    if sys.platform != "linux":
        raise NotImplementedError
    import fcntl

    with source.open("rb") as file:
        write_new(target, lambda part: fcntl.ioctl(part, _FICLONE, file.fileno()))


def _clone_file(source: Path, target: Path) -> None:
    """Have macOS share blocks. Source: clonefile(2); it refuses a name that something has."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if library.clonefile(os.fsencode(source), os.fsencode(target), ctypes.c_uint32(0)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _hard_link(source: Path, target: Path) -> None:
    os.link(source, target)


def _symlink(source: Path, target: Path) -> None:
    target.symlink_to(source)


def _copy(source: Path, target: Path, progress: Progress) -> None:
    size_bytes = source.stat().st_size

    def fill(part: int) -> None:
        """Copy the source, with progress."""
        with progress.task(f"copy {source.name}", size_bytes) as task:
            for n in copy_range(FileRange(source, 0, size_bytes), part):
                task.advance(n)

    write_new(target, fill)


_LINKS: dict[Kind, Callable[[Path, Path], None]] = {
    Kind.REFLINK: _reflink,
    Kind.HARD_LINK: _hard_link,
    Kind.SYMLINK: _symlink,
}
