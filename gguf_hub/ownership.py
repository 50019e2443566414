"""Who else could change a file: machine code is loaded only from where nobody else can.

Judged by owners and permission bits, as POSIX has them. On Windows nothing is judged: folders of a
user are closed to other users there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_MAX_LINKS = 40  # as many as Linux follows


def weakness_of_folder(folder: Path) -> str | None:
    """Return why others could change what lies in an existing folder, or None when nobody can.

    Raises:
        OSError: There is no such folder, or links lead in circles.
    """
    if not hasattr(os, "geteuid"):
        return None
    problem = _weakness(folder.stat())
    return f"`{folder}` {problem}" if problem else weakness_of_way(folder)


def weakness_of_way(path: Path) -> str | None:
    """Return why others could put something else under a path, or None when nobody can.

    Every folder and link on the way from the root is judged, as whoever may rename one of them may
    replace all that follows: each must be this user's or root's, and a folder must be closed to
    others, or sticky (``/tmp``). What does not exist yet is not judged.

    Raises:
        OSError: Links lead in circles, or a folder cannot be entered.
    """
    if not hasattr(os, "geteuid"):
        return None
    for step, status in _way_to(path.absolute()):
        if problem := _weakness(status, is_sticky_enough=True):
            return f"`{step}` {problem}"
    return None


def make_own_folder(folder: Path) -> str | None:
    """Create a folder, and those above it, that nobody else can write, whatever the umask.

    Returns:
        Why others could change what would lie in it, or None; see ``weakness_of_folder``.

    Raises:
        OSError: It cannot be made.
    """
    if problem := weakness_of_way(folder):
        return problem
    for path in reversed((folder, *folder.parents)):
        if not path.is_dir():
            path.mkdir(mode=0o755, exist_ok=True)
    return weakness_of_folder(folder)


def read_own_file(path: Path) -> bytes:
    """Return the content of a file that nobody else could have written.

    Raises:
        OSError: It cannot be read, or is a link, no file, or open to others.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # a pipe must not hang us
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        problem = _weakness(status) if stat.S_ISREG(status.st_mode) else "is not a regular file"
        if problem:
            raise PermissionError(f"`{path.name}` {problem}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _way_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every folder and link that the system passes on its way to an absolute path."""
    at = Path(path.anchor)
    yield at, at.lstat()
    rest = list(reversed(path.parts[1:]))
    n_links = 0
    while rest:
        part = rest.pop()
        step = at.parent if part == os.pardir else at / part
        try:
            status = step.lstat()
        except FileNotFoundError:
            return
        yield step, status
        if not stat.S_ISLNK(status.st_mode):
            at = step
            continue
        n_links += 1
        if n_links > _MAX_LINKS:
            raise OSError(f"too many links on the way to `{path}`")
        target = step.readlink()
        at = Path(target.anchor) if target.anchor else at
        rest += reversed(target.parts[1:] if target.anchor else target.parts)


def _weakness(status: os.stat_result, *, is_sticky_enough: bool = False) -> str | None:
    """Return who else may change a file, folder or link, or None."""
    if not hasattr(os, "geteuid"):
        return None
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to another user (uid {status.st_uid})"
    mode = status.st_mode
    if stat.S_ISLNK(mode) or (is_sticky_enough and mode & stat.S_ISVTX):
        return None
    if mode & stat.S_IWOTH:
        return f"can be written by everybody (mode {stat.S_IMODE(mode):o})"
    if mode & stat.S_IWGRP and not _is_private_group(status.st_gid):
        return f"can be written by group {status.st_gid} (mode {stat.S_IMODE(mode):o})"
    return None


def _is_private_group(gid: int) -> bool:
    """Return whether a group is the user's own and has no other members.

    Where every user has such a group the umask is often 002, and folders are open to it.
    """
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
