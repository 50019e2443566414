"""What a model argument wants of a repository, and what of it is on this machine already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gguf_hub.errors import HubError, UsageError
from gguf_hub.hub.catalog import Catalog, CatalogFile
from gguf_hub.hub.client import RemoteFile, RepoListing
from gguf_hub.hub.download.cachedir import commit_of, commits_of, files_of, repo_folder
from gguf_hub.hub.download.destinations import Destination
from gguf_hub.hub.download.plan import FileSelector, select
from gguf_hub.hub.download.refs import CatalogQuant, RepoFile, RepoQuant
from gguf_hub.hub.store import Store


@dataclass(frozen=True)
class Target:
    """Files of a repository that are wanted; ``revision`` None takes whatever is at hand."""

    repo_id: str
    wanted: FileSelector
    revision: str | None = None

    @property
    def text(self) -> str:
        """What a message calls it."""
        at = f" at `{self.revision}`" if self.revision else ""
        if self.wanted.filenames:
            names = ", ".join(f"`{name}`" for name in self.wanted.filenames)
            return f"{names} of {self.repo_id}{at}"
        quant = f":{self.wanted.quant}" if self.wanted.quant else ""
        patterns = ", ".join(f"`{glob}`" for glob in self.wanted.include)
        return f"{patterns} of {self.repo_id}{at}" if patterns else f"`{self.repo_id}{quant}`{at}"


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
        return Target(ref.repo_id, FileSelector(filenames=(ref.filename,)), ref.revision)
    return Target(ref.repo_id, FileSelector(quant=ref.quant), ref.revision)


def target_of_file(catalog: Catalog, *files: CatalogFile) -> Target:
    """Return the target of files of the catalog; its ``main`` is no particular commit."""
    revision = None if catalog.revision == "main" else catalog.revision
    return Target(catalog.repo_id, FileSelector(tuple(file.filename for file in files)), revision)


def find_verified(target: Target, store: Store) -> list[Path]:
    """Return the wanted files that the record knows to be whole, all of one commit, or nothing.

    A branch or tag may have moved, which only the hub knows: nothing is found for one.
    """
    for listing in _recorded_listings(target, store):
        if chosen := _select(listing, target.wanted):
            entries = store.in_repo(target.repo_id)
            paths = {e.filename: e.path for e in entries if e.commit == listing.commit}
            return [paths[file.path] for file in chosen]
    return []


def find_cached(target: Target, cache_dir: Path) -> tuple[RepoListing, list[RemoteFile]] | None:
    """Return the wanted files that lie in the Hugging Face cache, not yet verified, or None.

    Only files whose SHA-256 the cache tells.

    Args:
        target: What is wanted. Without a revision it is ``main`` as the cache knows it, or else the
            commit that was fetched last and has the files.
        cache_dir: The cache.
    """
    for listing in _cached_listings(target, cache_dir):
        large = tuple(file for file in listing.files if file.sha256)
        if chosen := _select(replace(listing, files=large), target.wanted):
            return listing, chosen
    return None


def find_offline(
    target: Target, place: Destination, store: Store, cache_dir: Path
) -> tuple[RepoListing, list[RemoteFile]] | None:
    """Return the wanted files as far as this machine can know them without a hub, or None.

    Args:
        target: What is wanted.
        place: Where it shall be: what lies there counts first.
        store: The record; its files count too.
        cache_dir: A cache; likewise.
    """
    caches = dict.fromkeys((place.root, cache_dir))
    listings = [found for cache in caches for found in _cached_listings(target, cache)]
    listings += _recorded_listings(target, store)
    for listing in listings:
        if chosen := _select(listing, target.wanted):
            return listing, chosen
    return None


def _cached_listings(target: Target, cache_dir: Path) -> Iterator[RepoListing]:
    """Yield what a cache has of the commits that may be meant, the likeliest first."""
    repo = repo_folder(cache_dir, target.repo_id)
    revision = target.revision or "main"
    commit = commit_of(repo, revision)
    if commit:
        yield RepoListing(target.repo_id, revision, commit, _files_of(repo, commit))
    if target.revision is None:
        for other in commits_of(repo):
            if other != commit:
                yield RepoListing(target.repo_id, other, other, _files_of(repo, other))


def _recorded_listings(target: Target, store: Store) -> Iterator[RepoListing]:
    """Yield what is on record of the commits that may be meant; never for a branch or tag."""
    entries = [entry for entry in store.in_repo(target.repo_id) if entry.commit]
    for commit in dict.fromkeys(str(entry.commit) for entry in entries):
        if target.revision in (None, commit):
            files = {
                entry.filename: RemoteFile(entry.filename, entry.size_bytes, entry.sha256, "")
                for entry in entries
                if entry.commit == commit
            }
            yield RepoListing(target.repo_id, commit, commit, tuple(files.values()))


def _select(listing: RepoListing, wanted: FileSelector) -> list[RemoteFile]:
    try:
        return list(select(listing, wanted))
    except (HubError, UsageError):
        # not here, or not all of it: the hub may have what this machine has not
        return []


def _files_of(repo: Path, commit: str) -> tuple[RemoteFile, ...]:
    """Return the files of a commit that are there, as the names of their blobs tell."""
    found = []
    for file in files_of(repo, commit):
        if file.etag and file.path.is_file():
            blob_id = "" if file.sha256 else file.etag
            size_bytes = file.path.stat().st_size
            found.append(RemoteFile(file.filename, size_bytes, file.sha256, blob_id))
    return tuple(found)
