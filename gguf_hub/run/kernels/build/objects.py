"""Compiled kernels on the disk. They are machine code: only what we wrote ourselves is loaded.

A folder holds an object file for each kernel and a manifest with the SHA-256 of each, which also
shows that the folder is ours. Nothing is read from a folder or file that others could have changed;
what is damaged counts as absent and is replaced. Where nothing can be written, objects stay in
memory until the process ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.oserrors import reason_with_name
from gguf_hub.ownership import make_own_folder, read_own_file, weakness_of_folder
from gguf_hub.paths import kernel_cache_dir

if TYPE_CHECKING:
    from gguf_hub.progress import Progress

MANIFEST = "manifest.json"
_FORMAT = "gguf-hub kernels 1"
_LOCK = ".lock"
_NEW = ".new-"  # begins the name of a file that is being written
_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)
_KEEP_S = 30 * 24 * 3600

_unsaved: dict[tuple[Path, ...], dict[str, bytes]] = {}
"""Folders of a cache -> objects that could not be written there, by kernel."""


def user_folders(key: str) -> tuple[Path, ...]:
    """Return the folders that may hold the objects of a version and CPU, best first.

    The second one lasts for a session of the user: for a home that cannot be written.
    """
    folders = [kernel_cache_dir() / f"kernels-{key}"]
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(session):  # noqa: PTH117
        folders.append(Path(session, "gguf-hub", f"kernels-{key}"))
    return tuple(folders)


class ObjectCache:
    """The objects of kernels, in a folder or else in memory.

    Args:
        folders: Where they may be saved, best first; the first that only we can write is used.

    Attributes:
        folder: Where they are saved; None for nowhere.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._problems: dict[str, None] = {}  # each once
        self.folder = next(filter(self._may_use, folders), None)
        self._sha256 = self._read_manifest()
        self._unsaved = _unsaved.setdefault(tuple(folders), {})
        self._writing = threading.Lock()

    @property
    def n_unsaved(self) -> int:
        """Number of objects that could not be written."""
        return len(self._unsaved)

    def problems(self) -> list[str]:
        """Return, once, the problems so far, as notes to the user."""
        problems, self._problems = list(self._problems), {}
        return problems

    def _note(self, problem: str) -> None:
        self._problems[problem] = None

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the sound objects of some kernels, by name; others are absent or damaged."""
        objects, damage = sound_objects(
            names, lambda name: self._unsaved.get(name) or self._read_object(name)
        )
        if damage:
            self._note(f"replacing compiled kernels in `{self.folder}`: {damage}")
        return objects

    def write(self, name: str, code: bytes) -> None:
        """Save an object; several threads may call this at once."""
        assert _NAME.fullmatch(name), name
        with self._writing:
            if self.folder is None:
                self._unsaved[name] = code
                return
            try:
                self._write_object(self.folder, name, code)
            except OSError as error:
                if not self._unsaved:
                    self._note(f"compiled kernels are not kept: {reason_unused(error)}")
                self._unsaved[name] = code

    @contextlib.contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Let one process at a time compile: a second one would compile the same kernels again."""
        with contextlib.ExitStack() as stack:
            if self.folder and _lock(self.folder / _LOCK, progress, stack):
                for leftover in self.folder.glob(f"{_NEW}*"):  # whoever wrote it was killed
                    with contextlib.suppress(OSError):
                        leftover.unlink()
            self._sha256 = self._read_manifest()
            yield

    def _may_use(self, folder: Path) -> bool:
        """Return whether objects can be read from a folder; create it if there is none."""
        try:
            if folder.is_dir():  # may be read-only: root's, prepared for all users
                problem = weakness_of_folder(folder)
            else:
                problem = make_own_folder(folder)
        except OSError as error:
            problem = reason_unused(error)
        if problem:
            self._note(f"compiled kernels are not kept in `{folder}`: {problem}")
        return not problem

    def _read_manifest(self) -> dict[str, str]:
        try:
            return read_manifest(self.folder) if self.folder else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._note(f"replacing the compiled kernels in `{self.folder}`: {reason_unused(error)}")
            return {}

    def _read_object(self, name: str) -> bytes:
        """Return an object as it was written.

        Raises:
            OSError: There is none, or it is not as it was written.
        """
        if self.folder is None or name not in self._sha256:
            raise FileNotFoundError(name)
        return read_object(self.folder, name, self._sha256)

    def _write_object(self, folder: Path, name: str, code: bytes) -> None:
        _write_atomic(object_path(folder, name), code)
        self._sha256[name] = hashlib.sha256(code).hexdigest()
        manifest = {"format": _FORMAT, "sha256": self._sha256}
        _write_atomic(folder / MANIFEST, json.dumps(manifest, indent=0).encode())


def object_path(folder: Path, name: str) -> Path:
    """Return where the object file of a kernel lies."""
    return folder / f"{name}.o"


def sound_objects(
    names: Iterable[str], read: Callable[[str], bytes]
) -> tuple[dict[str, bytes], str]:
    """Read objects; return those that are sound, by name, and what is wrong with the others.

    Args:
        names: Names of kernels.
        read: Returns the object of a kernel; FileNotFoundError says that there is none.
    """
    objects, damaged = {}, []
    for name in names:
        try:
            objects[name] = read(name)
        except FileNotFoundError:
            continue
        except OSError as error:
            damaged.append(reason_unused(error))
    more = f" (and {len(damaged) - 1} more)" if damaged[1:] else ""
    return objects, f"{damaged[0]}{more}" if damaged else ""


def read_object(folder: Path, name: str, sha256: Mapping[str, str]) -> bytes:
    """Return an object of a folder whose SHA-256 is the one that the manifest lists.

    Raises:
        OSError: It is absent, others could have written it, or its SHA-256 is another.
    """
    code = read_own_file(object_path(folder, name))
    if hashlib.sha256(code).hexdigest() != sha256[name]:
        raise OSError(f"`{name}.o` is damaged (its SHA-256 differs from `{MANIFEST}`)")
    return code


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each object in a folder of ours, by kernel.

    Raises:
        OSError: There is no manifest, or others could have written it.
        ValueError: We did not write it.
    """
    return load_manifest(folder, _FORMAT)["sha256"]


def load_manifest(folder: Path, format_: str) -> dict[str, Any]:
    """Return the manifest of a folder of objects; its ``sha256`` is by names of kernels.

    Raises:
        OSError: There is no manifest, or others could have written it.
        ValueError: It is damaged, or of another format.
    """
    try:
        data = json.loads(read_own_file(folder / MANIFEST))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{MANIFEST}` is damaged") from error
    known = data.get("sha256") if isinstance(data, dict) and data.get("format") == format_ else None
    if not isinstance(known, dict) or not all(map(_NAME.fullmatch, known)):
        raise ValueError(f"`{MANIFEST}` does not list compiled kernels")
    return data


def forget_old(folder: Path) -> None:
    """Remove sibling folders that no start has used for a month: other versions, other CPUs.

    Only those with our manifest, and of these only the files that we write: ``kernels-*`` may be
    anybody's name in a folder that the user chose.
    """
    others: list[Path] = []
    with contextlib.suppress(OSError):  # it may be root's, prepared for all users
        os.utime(folder)
        others = list(folder.parent.glob("kernels-*"))
    for other in others:
        with contextlib.suppress(OSError, ValueError):
            is_old = time.time() - other.lstat().st_mtime > _KEEP_S
            if is_old and not other.is_symlink() and weakness_of_folder(other) is None:
                _remove(other)


def _remove(folder: Path) -> None:
    """Remove a folder of ours, unless it holds other things, too."""
    ours = [object_path(folder, name) for name in read_manifest(folder)]
    for path in (*ours, *folder.glob(f"{_NEW}*"), folder / _LOCK):
        path.unlink(missing_ok=True)
    if [path.name for path in folder.iterdir()] == [MANIFEST]:
        (folder / MANIFEST).unlink()
        folder.rmdir()


def _lock(path: Path, progress: Progress, stack: contextlib.ExitStack) -> bool:
    """Hold a lock until the stack is closed; return whether that is possible here."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.note("waiting for another gguf-hub that compiles kernels")
            lock.acquire()
    except (NotImplementedError, OSError):
        return False  # nothing can be locked or written: work is done twice, which harms nothing
    stack.callback(lock.release)
    return True


def _write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, for other processes and after a crash.

    Raises:
        OSError: It cannot be written; what was there before is left.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_NEW)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def reason_unused(error: Exception) -> str:
    """Return why a folder or file of objects is not used, as part of a note."""
    return reason_with_name(error) if isinstance(error, OSError) else str(error)
