"""Repositories whose name is near to one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from gguf_hub.errors import GgufHubError, RepoNotFoundError, did_you_mean
from gguf_hub.hub.client.client import HfHub

N_NAMES = 3


@contextmanager
def near_names(hub: HfHub, repo_id: str, known: Iterable[str]) -> Iterator[None]:
    """Add near names to the error for a repository that does not exist.

    Args:
        hub: Asked for names.
        repo_id: The repository that is asked for inside.
        known: Names that need no asking.
    """
    try:
        yield
    except RepoNotFoundError as error:
        error.message += did_you_mean(find_near(hub, repo_id, known))
        raise


def find_near(hub: HfHub, repo_id: str, known: Iterable[str]) -> list[str]:
    """Return up to three repositories with a name like that: known ones, the owner's, others."""
    owner, _, name = repo_id.partition("/")
    names = {each.lower(): each for each in known}
    # the owner's; then by the whole name, and by its first word
    for text, of in (("", owner), (name, None), (name.split("-")[0], None)):
        try:
            names |= {repo.lower(): repo for repo in hub.find_repos(text, owner=of)}
        except GgufHubError:
            break  # the first answer was that it does not exist: no other is owed
    near = difflib.get_close_matches(repo_id.lower(), names, n=N_NAMES, cutoff=0.7)
    return [names[key] for key in near if names[key] != repo_id]
