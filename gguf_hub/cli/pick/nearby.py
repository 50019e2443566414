"""Repositories whose name is near to one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf_hub.hub.catalog import Catalog
    from gguf_hub.hub.client import HfHub, RepoListing
    from gguf_hub.hub.survey.repo import Survey

N_NAMES = 3


def survey(hub: HfHub, repo_id: str, revision: str | None, catalog: Catalog) -> Survey:
    """Return the models of a repository.

    Raises:
        HubError: As the hub says; for an unknown repository with near names.
    """
    from gguf_hub.hub.survey.repo import survey_repo

    with near_names(hub, repo_id, catalog):
        return survey_repo(hub, repo_id, revision)


def list_files(hub: HfHub, repo_id: str, revision: str | None, catalog: Catalog) -> RepoListing:
    """Return the files of a repository; raises as ``survey`` does."""
    with near_names(hub, repo_id, catalog):
        return hub.list_files(repo_id, revision or "main")


@contextmanager
def near_names(hub: HfHub, repo_id: str, catalog: Catalog) -> Iterator[None]:
    """Add near names to the error for a repository that does not exist."""
    from gguf_hub.errors import RepoNotFoundError

    try:
        yield
    except RepoNotFoundError as error:
        names = find_near(hub, repo_id, catalog)
        if names:
            listed = " or ".join(f"`{name}`" for name in names)
            error.message += f": did you mean {listed}?"
        raise


def find_near(hub: HfHub, repo_id: str, catalog: Catalog) -> list[str]:
    """Return up to three repositories with a name like that: the catalog's, the owner's, others."""
    from gguf_hub.errors import GgufHubError

    owner, _, name = repo_id.partition("/")
    known = {catalog.repo_id.lower(): catalog.repo_id}
    # the owner's; then by the whole name, and by its first word
    for text, of in (("", owner), (name, None), (name.split("-")[0], None)):
        try:
            known |= {found.lower(): found for found in hub.find_repos(text, owner=of)}
        except GgufHubError:
            break  # the first answer was that it does not exist: no other is owed
    near = difflib.get_close_matches(repo_id.lower(), known, n=N_NAMES, cutoff=0.7)
    return [known[found] for found in near]
