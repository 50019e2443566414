"""``Llama.from_pretrained``: from a repository and patterns to a verified local file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from gguf_hub.errors import ModelNotFoundError
from gguf_hub.hub.client import HfHub, RemoteFile, RepoListing
from gguf_hub.hub.download.destinations import Destination, HfCache, LocalFolder
from gguf_hub.hub.download.names import set_key
from gguf_hub.hub.download.plan import FileSelector, select
from gguf_hub.hub.download.refs import Target
from gguf_hub.hub.resolve import Resolver
from gguf_hub.paths import expand_user
from gguf_hub.progress import LoggedNotes


class PretrainedError(ModelNotFoundError, ValueError):
    """A pattern that no file, or more than one, matches: a ValueError as in llama-cpp-python."""


def fetch_pretrained(
    repo_id: str,
    patterns: Sequence[str],
    *,
    local_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """Return the local file of the first pattern; missing files are downloaded and verified.

    Args:
        repo_id: ``org/repo``.
        patterns: Names or globs; each must match exactly one file, or the shards of one.
        local_dir: Where to put them; None for the Hugging Face cache.
        cache_dir: Another Hugging Face cache.
        revision: Branch, tag or commit; ``main`` when None.
        token: Access token for the hub.

    Returns:
        The file; of a set of shards the first one.

    Raises:
        PretrainedError: A pattern matches no file, or more than one.
        GgufHubError: The download failed.
    """
    resolver = Resolver(
        connect=partial(HfHub, token=token),
        custom_destination=_destination(local_dir, cache_dir),
        progress=LoggedNotes(),
    )
    target = Target(repo_id, FileSelector(include=tuple(patterns)), revision)
    selection = resolver.choose(target, _match_patterns)
    return resolver.fetch(selection, resolver.fetcher())[0].path


def _match_patterns(listing: RepoListing, selector: FileSelector) -> Sequence[RemoteFile]:
    """Return the one file that each pattern matches; of a set of shards all."""
    names = [file.path for file in listing.files]
    matches = (_match_one(listing, names, pattern) for pattern in selector.include)
    return list(dict.fromkeys(file for files in matches for file in files))


def _match_one(listing: RepoListing, names: Sequence[str], pattern: str) -> tuple[RemoteFile, ...]:
    matches = sorted(name for name in names if fnmatchcase(name, pattern))
    if len({set_key(name) for name in matches}) == 1:
        return select(listing, FileSelector((matches[0],)))
    raise PretrainedError(
        f"No file found in {listing.repo_id} that match {pattern}"
        if not matches
        else f"Multiple files found in {listing.repo_id} matching {pattern}: {', '.join(matches)}",
        hint=f"the repository has {', '.join(names) or 'no files'}",
    )


def _destination(
    local_dir: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None
) -> Destination | None:
    if local_dir is not None:
        return LocalFolder(expand_user(local_dir).absolute())
    return HfCache(expand_user(cache_dir).absolute()) if cache_dir is not None else None
