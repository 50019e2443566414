"""What was put into folders of other programs, so that just that can be taken back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gguf_hub.errors import GgufHubError
from gguf_hub.files import write_atomically
from gguf_hub.locks import try_lock
from gguf_hub.oserrors import translate_os_errors
from gguf_hub.paths import data_dir

_VERSION = 1
_LOCK_TIMEOUT_S = 10.0
_POLL_S = 0.05
_SMALL_BYTES = 1 << 20


@dataclass(frozen=True)
class PlacedFile:
    """A file that was put somewhere.

    Attributes:
        path: Its name.
        kind: How it was made: a ``Kind``, or ``file`` for a small one with content of its own.
        proof: What tells that it is still that file: where a symbolic link leads, device, number
            and size of a file with blocks of its own or a hard link, SHA-256 of a small one.
    """

    path: Path
    kind: str
    proof: str

    @classmethod
    def of(cls, path: Path, kind: str) -> PlacedFile:
        """Describe a file that was just made."""
        proof = _proof_of(path, kind)
        assert proof is not None
        return cls(path, kind, proof)

    def is_unchanged(self) -> bool:
        """Return whether the name is still that of the file which was put there."""
        return _proof_of(self.path, self.kind) == self.proof


def _proof_of(path: Path, kind: str) -> str | None:
    try:
        status = path.lstat()
        if kind == "symbolic link":
            return str(path.readlink()) if stat.S_ISLNK(status.st_mode) else None
        if not stat.S_ISREG(status.st_mode):
            return None
        if kind == "file":
            is_small = status.st_size <= _SMALL_BYTES
            return hashlib.sha256(path.read_bytes()).hexdigest() if is_small else None
    except OSError:
        return None
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}"


@dataclass(frozen=True)
class Share:
    """A model that another program was lent.

    Attributes:
        program: Key of the program.
        folder: Its folder.
        name: What the model goes by there.
        model: What it was called when it was lent.
        sources: The files that were lent.
        files: What was put there, in the order in which it was.
        folders: Folders that were made for it, outer ones first.
        shared_at: When, in UTC, ISO 8601.
    """

    program: str
    folder: Path
    name: str
    model: str
    sources: tuple[Path, ...]
    files: tuple[PlacedFile, ...]
    folders: tuple[Path, ...]
    shared_at: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What no two shares have in common."""
        return self.program, str(self.folder), self.name


class ShareRecord:
    """All shares, in one JSON file that several processes may use at once.

    Args:
        folder: Where it lies; the data folder of gguf-hub when None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = (folder or data_dir()) / "shared.json"

    def shares(self) -> list[Share]:
        """Return all of them.

        Raises:
            GgufHubError: The record cannot be read. It is not taken for empty: what it lists could
                not be taken back any more.
        """
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            if data["version"] != _VERSION:
                raise ValueError(f"version {data['version']}, expected {_VERSION}")
            return [_parse(row) for row in data["shares"]]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError, TypeError, KeyError) as exc:
            raise GgufHubError(
                f"the record of shared models `{self._path}` cannot be read: {exc}",
                hint="mend it, or move it away: what is shared then stays where it is",
            ) from exc

    def add(self, share: Share) -> None:
        """Write a share down; one of the same name there is replaced.

        Raises:
            GgufHubError: It cannot be written.
        """
        self._change(lambda shares: shares.update({share.key: share}))

    def remove(self, share: Share) -> None:
        """Forget a share.

        Raises:
            GgufHubError: The record cannot be written.
        """
        self._change(lambda shares: shares.pop(share.key, None))

    def _change(self, edit: Callable[[dict[tuple[str, str, str], Share]], object]) -> None:
        with translate_os_errors(f"cannot write `{self._path}`", path=None):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                shares = {share.key: share for share in self.shares()}
                edit(shares)
                data = {"version": _VERSION, "shares": list(map(asdict, shares.values()))}
                write_atomically(self._path, json.dumps(data, indent=1, default=str))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock_path, until = Path(f"{self._path}.lock"), time.monotonic() + _LOCK_TIMEOUT_S
        while (lock := try_lock(lock_path)) is None:
            if time.monotonic() > until:
                raise TimeoutError("another process holds its lock")
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            lock.release()


def _parse(row: dict[str, Any]) -> Share:
    files = tuple(
        PlacedFile(Path(file["path"]), file["kind"], file["proof"]) for file in row["files"]
    )
    return Share(
        program=row["program"],
        folder=Path(row["folder"]),
        name=row["name"],
        model=row["model"],
        sources=tuple(map(Path, row["sources"])),
        files=files,
        folders=tuple(map(Path, row["folders"])),
        shared_at=row["shared_at"],
    )


def links_to(shares: list[Share], path: Path) -> list[Share]:
    """Return the shares that lead to nothing once a file is removed."""
    real = os.path.realpath(path)
    return [share for share in shares
            if any(file.kind == "symbolic link" and file.proof == real and file.is_unchanged()
                   for file in share.files)]  # fmt: skip
