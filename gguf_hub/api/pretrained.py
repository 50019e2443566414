"""Where the towers meet for programs: a repository's file, downloaded and verified, for ``Llama``.

The command line has its own way (``cli.models``), which asks and tells; a program wants a path.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from gguf_hub.errors import HubUnreachableError, ModelNotFoundError
from gguf_hub.hub.client import HfHub, default_cache_dir
from gguf_hub.hub.download.destinations import Destination, HfCache, LocalFolder
from gguf_hub.hub.download.fetch import Fetcher
from gguf_hub.hub.download.names import shard_of
from gguf_hub.hub.download.plan import FileSelector, select
from gguf_hub.hub.store import Store
from gguf_hub.progress import SILENT


class PretrainedError(ModelNotFoundError, ValueError):
    """A pattern that no file, or more than one, matches: a ValueError as in llama-cpp-python."""


def fetch_pretrained(
    repo_id: str,
    patterns: Sequence[str],
    *,
    local_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str = "main",
    token: str | None = None,
) -> Path:
    """Return the file of a repository that the first pattern names, verified; fetch it if needed.

    Args:
        repo_id: ``org/repo``.
        patterns: Names or globs; each must match exactly one file, or the shards of one.
        local_dir: Where to put them; None for the Hugging Face cache.
        cache_dir: The cache, where it is not the usual one.
        revision: Branch, tag or commit.
        token: Access token for the hub.

    Raises:
        PretrainedError: A pattern matches no file, or more than one.
        GgufHubError: Whatever stands in the way of getting it.
    """
    hub = HfHub(token=token)
    try:
        listing = hub.list_files(repo_id, revision)
    except HubUnreachableError:
        known = [entry for entry in Store().in_repo(repo_id) if entry.is_unchanged()]
        here = {entry.filename: entry.path for entry in known}
        if not all(any(fnmatchcase(name, pattern) for name in here) for pattern in patterns):
            raise
        return here[_only(repo_id, list(here), patterns[0])[0]]
    names = [file.path for file in listing.files]
    groups = [_only(repo_id, names, pattern) for pattern in patterns]
    wanted = FileSelector(filenames=tuple(name for group in groups for name in group))
    fetcher = Fetcher(hub, _place(local_dir, cache_dir), Store(), SILENT)
    fetched = {
        done.file.path: done.path for done in fetcher.fetch(listing, select(listing, wanted))
    }
    return fetched[groups[0][0]]


def _only(repo_id: str, names: Sequence[str], pattern: str) -> list[str]:
    """Return the one file that a pattern matches; of a set of shards all, in order."""
    found = sorted(name for name in names if fnmatchcase(name, pattern))
    sets = {shard.key if (shard := shard_of(name)) else name for name in found}
    if len(sets) == 1:
        key = shard_of(found[0])
        return found if key is None else sorted(n for n in names if _key(n) == key.key)
    raise PretrainedError(
        f"No file found in {repo_id} that match {pattern}"
        if not found
        else f"Multiple files found in {repo_id} matching {pattern}: {', '.join(found)}",
        hint=f"the repository has {', '.join(names) or 'no files'}",
    )


def _key(name: str) -> str | None:
    shard = shard_of(name)
    return None if shard is None else shard.key


def _place(
    local_dir: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None
) -> Destination:
    if local_dir is not None:
        return LocalFolder(Path(local_dir).expanduser().absolute())
    return HfCache(Path(cache_dir or default_cache_dir()).expanduser().absolute())
