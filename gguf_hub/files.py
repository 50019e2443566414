"""Files that appear, are replaced or go: never an input, never what is not proved to be ours.

New names are made with ``O_EXCL`` and ``O_NOFOLLOW``, so that nothing is written through a link or
into what somebody else keeps under a name. docs/replaced-files.md lists who removes or replaces
what.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.oserrors import reason_of

HEAD_BYTES = 4096
"""How much of a file is looked at for the signature of whoever wrote it."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NOT_HERE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}
"""What systems answer that cannot rename without replacing."""


def create(path: Path) -> int:
    """Make a file that is not there yet; return its descriptor, for reading and writing.

    Raises:
        FileExistsError: Something has the name, be it a link to nothing.
        OSError: It cannot be made.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)


def create_beside(path: Path, suffix: str) -> tuple[int, Path]:
    """Make a file in the same folder, under a name that nobody can foresee.

    Returns:
        Descriptor and name, ``<name>.<16 hex digits><suffix>``.

    Raises:
        OSError: It cannot be made.
    """
    while True:
        name = path.with_name(f"{path.name}.{os.urandom(8).hex()}{suffix}")
        try:
            return create(name), name
        except FileExistsError:
            continue


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file that exists; return its descriptor. A pipe does not make it wait.

    Raises:
        OSError: There is none, it is a link, a folder, a pipe or a device, or it cannot be opened.
    """
    descriptor = os.open(path, flags | _NO_LINK | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def is_named(status: os.stat_result, path: Path) -> bool:
    """Return whether a name, no link, is still that of the file which was looked at."""
    try:
        return os.path.samestat(status, path.lstat())
    except OSError:
        return False


def remove_if(path: Path, status: os.stat_result) -> None:
    """Remove a name if it is still that of the file which was looked at."""
    if is_named(status, path):
        path.unlink(missing_ok=True)


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a small file of ours so that nobody ever reads half of it.

    Args:
        path: The file; one that is there is replaced, and a link is replaced itself.
        data: What it shall hold; text becomes UTF-8, undecodable parts of paths their bytes.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = create_beside(path, ".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_new(path: Path, fill: Callable[[int], object]) -> None:
    """Make a file that has its name only when it is whole.

    Args:
        path: A name that nothing has; its folder is there.
        fill: Called with the descriptor of the file to fill.

    Raises:
        FileExistsError: Something has the name by now.
        OSError: It cannot be written.
    """
    descriptor, part = create_beside(path, ".part")
    try:
        with os.fdopen(descriptor, "wb"):
            fill(descriptor)
        rename_new(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def rename_new(old: Path, new: Path) -> None:
    """Give a file a name that nothing has yet.

    Raises:
        FileExistsError: Something has it, be it a link to nothing.
        OSError: It cannot be renamed.
    """
    if os.name == "nt":
        old.rename(new)  # there, this never replaces anything
        return
    if not _rename_exclusively(old, new):
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
        old.rename(new)


def set_aside(path: Path, aside: Path) -> Path:
    """Rename a file out of the way, replacing nothing; return ``aside`` or another free name.

    Raises:
        OSError: It cannot be renamed.
    """
    try:
        rename_new(path, aside)
    except FileExistsError:
        aside = aside.with_name(f"{aside.stem}.{os.urandom(8).hex()}{aside.suffix}")
        rename_new(path, aside)
    return aside


def _rename_exclusively(old: Path, new: Path) -> bool:
    """Have the system rename and refuse to replace in one step; False where it cannot.

    Source: renameat2(2) of Linux, RENAME_NOREPLACE; renamex_np(2) of macOS, RENAME_EXCL.
    """
    import ctypes

    names = os.fsencode(old), os.fsencode(new)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if hasattr(library, "renameat2"):
            here = ctypes.c_int(-100)  # AT_FDCWD
            failed = library.renameat2(here, names[0], here, names[1], ctypes.c_uint(1))
        else:
            failed = library.renamex_np(*names, ctypes.c_uint(4))
    except (OSError, AttributeError, TypeError):
        return False
    number = ctypes.get_errno()
    if failed and number not in _NOT_HERE:
        raise OSError(number, os.strerror(number), str(new))
    return not failed


# -- what must not be written over ----------------------------------------------------------------


def require_distinct(
    outputs: Iterable[Path], inputs: Iterable[Path], *, hint: str = "name another file to write"
) -> None:
    """Refuse outputs that are inputs, whatever their names: links, other cases, other folders.

    Args:
        outputs: What would be written.
        inputs: What is read.
        hint: The next step.

    Raises:
        UsageError: One is.
    """
    known = {identity: path for path in inputs if (identity := _identity(path))}
    for path in outputs:
        source = known.get(_identity(path) or ())
        if source is None:
            continue
        what = f"the same file as the input `{source}`" if path != source else "the input itself"
        raise UsageError(f"`{path}` is {what}", hint=hint)


def _identity(path: Path) -> tuple[object, ...] | None:
    """Return what is equal for all names of a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    if status.st_ino:
        return status.st_dev, status.st_ino
    return (os.path.normcase(os.path.realpath(path)),)  # file systems that do not number files


def require_ours(path: Path, what: str, is_ours: Callable[[bytes], bool]) -> None:
    """Refuse to replace a file that does not begin as ours do; none, or an empty one, will do.

    Args:
        path: What would be replaced.
        what: What it would have to be, for the message: ``a prompt cache``.
        is_ours: Gets the first ``HEAD_BYTES`` bytes.

    Raises:
        GgufHubError: It is something else, or cannot be read.
    """
    try:
        descriptor = open_regular(Path(os.path.realpath(path)))
    except FileNotFoundError:
        return
    except OSError as exc:
        raise GgufHubError(
            f"`{path}` exists and is not {what} ({reason_of(exc)}): it is not replaced",
            hint="name another file",
        ) from exc
    with os.fdopen(descriptor, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head and not is_ours(head):
        raise GgufHubError(
            f"`{path}` exists and is not {what}: it is not replaced", hint="name another file"
        )
