"""Which model files this machine has: those on record, and those that other programs fetched.

Reads only names, sizes and times; only the record says whether the bytes are right.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from gguf_hub.conversions import KeptConversion, find_conversion, kept_conversions
from gguf_hub.hub.client import RemoteFile
from gguf_hub.hub.download.cachedir import (
    COMMIT,
    CachedFile,
    all_files_of,
    find_file,
    repo_folder,
    repo_id_of,
    repos_of,
)
from gguf_hub.hub.download.known_folders import KnownFolders
from gguf_hub.hub.download.names import holds_gguf, is_model, set_key
from gguf_hub.hub.download.notes import Note, notes_of, own_folder
from gguf_hub.hub.download.quants import nearest, quant_of
from gguf_hub.hub.download.refs import Target
from gguf_hub.hub.programs.folders import Program
from gguf_hub.hub.programs.found import ProgramModel, find_models, known_folders
from gguf_hub.hub.programs.record import ShareRecord
from gguf_hub.hub.programs.sharing import shared_folders
from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.paths import absolute


class Condition(str, Enum):
    """What is known about a file."""

    VERIFIED = "verified"  # recorded as whole, and as it was then
    UNCHECKED = "unchecked"  # another program fetched it
    CHANGED = "changed"  # other than it was when it was recorded
    EDITED = "edited"  # changed by `gguf-hub edit` since then
    GONE = "gone"  # recorded, and no longer there


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine.

    Attributes:
        path: Where users find it.
        condition: What is known about it.
        size_bytes: As it is now; as it was recorded when it is gone.
        repo_id: Where it came from; None when nobody knows.
        commit: Likewise.
        filename: Path in the repository, or the file's own name.
        sha256: What its content is, or should be; None when nobody knows.
        verified_at: When it was verified, in UTC, ISO 8601; None when it was not.
        foreign: What it is to the program whose file it is; None when no other program's.
        conversion: What is known of it if it was converted to be run, and is kept; else None.
    """

    path: Path
    condition: Condition
    size_bytes: int
    repo_id: str | None
    commit: str | None
    filename: str
    sha256: str | None
    verified_at: str | None
    foreign: ProgramModel | None = None
    conversion: KeptConversion | None = None

    @property
    def converted_from(self) -> str | None:
        """The repository or the folder of the checkpoint that it was made of, if that is known."""
        folder = self.conversion.checkpoint if self.conversion else None
        if folder is None:
            return None
        is_cached = folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name)
        return (repo_id_of(folder.parent.parent) if is_cached else None) or str(folder)

    @property
    def quant(self) -> str | None:
        """The quant that the file name contains, or that the file's program names."""
        told = self.foreign.quant if self.foreign else None
        return told or quant_of(self.filename)

    @property
    def is_model(self) -> bool:
        """Whether it holds a model, or a raw part of one, as far as its name tells."""
        return is_model(self.filename) or bool(self.foreign and self.foreign.is_model)

    @property
    def remote(self) -> RemoteFile:
        """What a hub would announce, as far as this machine knows: the etag may be empty."""
        if not holds_gguf(self.filename) and (etag := _etag_beside(self.path)):
            # git's id of a small file, by which the cache names it
            return RemoteFile(self.filename, self.size_bytes, None, etag)
        return RemoteFile(self.filename, self.size_bytes, self.sha256, "")

    @property
    def root(self) -> Path:
        """The folder that ``filename`` is a path in."""
        is_named_so = self.path.as_posix().endswith(f"/{self.filename}")
        return self.path.parents[self.filename.count("/") if is_named_so else 0]

    @property
    def content(self) -> str:
        """The same text for names of the same bytes on the disk."""
        try:
            status = self.path.stat()
        except OSError:
            return os.path.realpath(self.path)
        is_linked = status.st_nlink > 1 and status.st_ino
        return f"{status.st_dev}:{status.st_ino}" if is_linked else os.path.realpath(self.path)


@dataclass(frozen=True)
class Roots:
    """Where to look: caches, folders of the user's choice, those of other programs, conversions."""

    caches: tuple[Path, ...]
    folders: tuple[Path, ...]
    programs: tuple[tuple[Program, Path], ...] = ()
    has_conversions: bool = False

    @classmethod
    def known(cls, store: Store, cache_dir: Path, *more: Path) -> Roots:
        """Return the given cache, what was ever fetched to, and ``more``."""
        paths = [*KnownFolders(store.folder).folders(), *more]
        notes = [note for entry in store.entries() if (note := Note.find(entry.path))]
        paths += [note.root for note in notes]
        caches = [cache_dir, *(path for path in paths if repos_of(path))]
        folders = [path for path in paths if own_folder(path).is_dir()]
        programs = known_folders(shared_folders(ShareRecord(store.folder)))
        return cls(tuple(dict.fromkeys(caches)), tuple(dict.fromkeys(folders)), programs, True)


def inventory(store: Store, roots: Roots) -> list[LocalFile]:
    """Return the files of this machine, each name once, ordered by repository and name."""
    files = _each_once(_all(store, roots))
    return sorted(files, key=lambda file: (file.repo_id or "~", file.filename, str(file.path)))


def files_in_repo(
    repo_id: str, store: Store, roots: Roots, *, folder: Path | None = None
) -> list[LocalFile]:
    """Return the files of a repository that can be used, of whatever kind, commit and place.

    Args:
        repo_id: The repository.
        store: The record.
        roots: Caches to look in.
        folder: One that ``--local-dir`` filled; its notes are taken for this repository's.
    """
    files = [_from_record(entry) for entry in store.in_repo(repo_id)]
    for cache in roots.caches:
        names = all_files_of(repo_folder(cache, repo_id))
        files += (_from_cache(name) for name in names if name.path.is_file())
    if folder is not None:
        files += (_from_note(note) for note in notes_of(folder) if note.path.is_file())
    return _each_once(files)


def find_local_file(path: Path, store: Store) -> LocalFile | None:
    """Return what is known of the file at ``path``, or None when it is nobody's download.

    A link of the user's own to such a file is a name of its own.
    """
    entry = store.find(path)
    if entry and path.is_symlink() and not find_file(path) and _key(entry.path) != _key(path):
        return replace(_from_record(entry), path=absolute(path))
    if entry and (not (cached := find_file(path)) or _key(entry.path) == _key(cached.path)):
        return _from_record(entry)
    if (cached := find_file(path)) and path.is_file():
        return _from_cache(cached)
    if (note := Note.find(path)) and path.is_file():
        return _from_note(note)
    if kept := find_conversion(absolute(path)):
        return _from_conversion(kept)
    return None


def files_of_target(files: Iterable[LocalFile], target: Target) -> list[LocalFile]:
    """Return the files of a repository that a target names, of whatever commit and place.

    What was converted from its checkpoint is among them.

    Args:
        files: The files of this machine.
        target: The repository and selector; without names and quant, all of the repository. A
            revision must be a commit: only a hub knows where a branch leads.
    """
    selector = target.selector
    names = {set_key(name) for name in selector.filenames}

    files = [
        file
        for file in files
        if target.repo_id in (file.repo_id, file.converted_from)
        and target.revision in (None, file.commit)
    ]
    if selector.filenames:
        return [file for file in files if set_key(file.filename) in names]
    if selector.quant is None:
        return files
    models = [file for file in files if is_model(file.filename)] or files
    return nearest(models, selector.quant, lambda file: file.filename)


def contents_bytes(files: Iterable[LocalFile]) -> int:
    """Return the bytes that files take on the disk: several names of the same bytes count once."""
    sizes = {h.content: h.size_bytes for h in files if h.condition is not Condition.GONE}
    return sum(sizes.values())


def _all(store: Store, roots: Roots) -> Iterator[LocalFile]:
    for entry in store.entries():
        yield _from_record(entry)
    for cache in roots.caches:
        for repo in repos_of(cache):
            yield from map(_from_cache, filter(_is_model_file, all_files_of(repo)))
    for folder in roots.folders:
        for note in notes_of(folder):
            if holds_gguf(note.filename) and note.path.is_file():
                yield _from_note(note)
    if roots.has_conversions:
        yield from map(_from_conversion, kept_conversions())
    for model in find_models(roots.programs):
        with contextlib.suppress(OSError):  # its program has removed it since
            yield _from_program(model)


def _each_once(files: Iterable[LocalFile]) -> list[LocalFile]:
    """Return the first file of each name."""
    first: dict[str, LocalFile] = {}
    for file in files:
        first.setdefault(_key(file.path), file)
    return list(first.values())


def _is_model_file(file: CachedFile) -> bool:
    return holds_gguf(file.filename) and file.path.is_file()


def _from_record(entry: StoredFile) -> LocalFile:
    size_bytes, condition = entry.size_bytes, Condition.VERIFIED
    try:
        size_bytes = entry.path.stat().st_size
        if not entry.is_unchanged():
            condition = Condition.EDITED if entry.edited_at else Condition.CHANGED
    except OSError:
        condition = Condition.GONE
    return LocalFile(
        entry.path,
        condition,
        size_bytes,
        entry.repo_id,
        entry.commit,
        entry.filename,
        entry.sha256,
        entry.verified_at,
    )


def _from_cache(file: CachedFile) -> LocalFile:
    size_bytes, sha256 = file.path.stat().st_size, file.sha256
    origin = (file.repo_id, file.commit, file.filename)
    return LocalFile(file.path, Condition.UNCHECKED, size_bytes, *origin, sha256, None)


def _from_note(note: Note) -> LocalFile:
    size_bytes = note.path.stat().st_size
    origin = (None, note.commit, note.filename)
    return LocalFile(note.path, Condition.UNCHECKED, size_bytes, *origin, note.sha256, None)


def _from_program(model: ProgramModel) -> LocalFile:
    size_bytes = model.path.stat().st_size
    return LocalFile(
        model.path, Condition.UNCHECKED, size_bytes, None, None, model.filename, model.sha256, None,
        model,
    )  # fmt: skip


def _from_conversion(kept: KeptConversion) -> LocalFile:
    size_bytes = kept.path.stat().st_size
    return LocalFile(
        kept.path, Condition.UNCHECKED, size_bytes, None, None, kept.path.name, None, None,
        conversion=kept,
    )  # fmt: skip


def _etag_beside(path: Path) -> str | None:
    """Return git's id of a small file, from a cache or a note."""
    known = find_file(path) or Note.find(path)
    etag = known.etag if known else None
    return etag if etag and COMMIT.fullmatch(etag) else None


def _key(path: Path) -> str:
    """Return the same text for one name however its folder is written."""
    return os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118
