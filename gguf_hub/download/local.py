"""What a model argument wants of a repository, and what of it is on this machine already."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf_hub.catalog import Catalog, CatalogFile
from gguf_hub.download.plan import Wanted, select
from gguf_hub.download.refs import CatalogQuant, RepoFile, RepoQuant
from gguf_hub.errors import HubError, UsageError
from gguf_hub.hub import RemoteFile, RepoListing
from gguf_hub.store import Store

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Target:
    """Files of a repository that are wanted; ``revision`` None takes whatever is at hand."""

    repo_id: str
    wanted: Wanted
    revision: str | None = None


def target_of(ref: CatalogQuant | RepoQuant | RepoFile, catalog: Catalog) -> Target:
    """Return what a model argument wants.

    Args:
        ref: The argument, parsed; not a local file.
        catalog: Where catalog quants come from.
    """
    if isinstance(ref, CatalogQuant):
        file = catalog.find(ref.quant)
        assert file is not None, "the parser knows only quants of the catalog"
        return target_of_file(catalog, file)
    if isinstance(ref, RepoFile):
        return Target(ref.repo_id, Wanted(filenames=(ref.filename,)), ref.revision)
    return Target(ref.repo_id, Wanted(quant=ref.quant), ref.revision)


def target_of_file(catalog: Catalog, *files: CatalogFile) -> Target:
    """Return the target of files of the catalog; its ``main`` is no particular commit."""
    revision = None if catalog.revision == "main" else catalog.revision
    return Target(catalog.repo_id, Wanted(tuple(file.filename for file in files)), revision)


def find_verified(target: Target, store: Store) -> list[Path]:
    """Return the wanted files that the record knows to be whole, all of one commit, or nothing.

    A branch or tag may have moved, which only the hub knows: nothing is found for one.
    """
    if target.revision and not _COMMIT.fullmatch(target.revision):
        return []
    entries = [entry for entry in store.in_repo(target.repo_id) if entry.commit]
    for commit in dict.fromkeys(str(entry.commit) for entry in entries):
        if target.revision in (None, commit):
            paths = {entry.filename: entry.path for entry in entries if entry.commit == commit}
            files = tuple(RemoteFile(name, 0, None, "") for name in paths)
            chosen = _select(RepoListing(target.repo_id, commit, commit, files), target.wanted)
            if chosen:
                return [paths[file.path] for file in chosen]
    return []


def find_cached(target: Target, cache_dir: Path) -> tuple[RepoListing, list[RemoteFile]] | None:
    """Return the wanted files that lie in the Hugging Face cache, not yet verified, or None.

    Args:
        target: What is wanted; its revision is looked up in the cache, ``main`` when None.
        cache_dir: The cache.
    """
    repo = cache_dir / "--".join(("models", *target.repo_id.split("/")))
    revision = target.revision or "main"
    commit = revision if _COMMIT.fullmatch(revision) else _read(repo / "refs" / revision)
    if commit is None or not _COMMIT.fullmatch(commit):
        return None
    files = tuple(_files_of(repo / "snapshots" / commit))
    listing = RepoListing(target.repo_id, revision, commit, files)
    chosen = _select(listing, target.wanted)
    return (listing, chosen) if chosen else None


def _select(listing: RepoListing, wanted: Wanted) -> list[RemoteFile]:
    try:
        return list(select(listing, wanted))
    except (HubError, UsageError):
        # not here, or not all of it: the hub may have what this machine has not
        return []


def _files_of(snapshot: Path) -> Iterator[RemoteFile]:
    """Yield the large files of a commit; the name of the bytes is their SHA-256."""
    for folder, _, names in os.walk(snapshot):
        for name in names:
            path = Path(folder, name)
            blob = Path(os.path.realpath(path))
            if re.fullmatch(r"[0-9a-f]{64}", blob.name) and blob.is_file():
                filename = path.relative_to(snapshot).as_posix()
                yield RemoteFile(filename, blob.stat().st_size, blob.name, "")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
