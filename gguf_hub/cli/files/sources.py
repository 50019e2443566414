"""From a model argument to the bytes of its header: a file, or ranges of a file on a hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.hub.download.local import Target


@dataclass(frozen=True)
class Source:
    """Where a GGUF lies.

    Attributes:
        name: What to call it: the path, or the file on the hub.
        data: For ``read_header``: a memory map or ranges.
        path: The local file; None for one on a hub.
    """

    name: str
    data: Any
    path: Path | None


def open_source(
    argument: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    catalog_path: Path | None = None,
) -> Source:
    """Find the GGUF that an argument names; of one on a hub nothing but the header is read.

    Args:
        argument: A path, a quant of the catalog, ``org/repo:QUANT``, ``org/repo/file.gguf``,
            ``hf://...`` or a link.
        revision: Branch, tag or commit, for a file on a hub.
        token: Hugging Face token.
        catalog_path: A catalog of the user's own.

    Raises:
        GgufError: The local file cannot be read.
        GgufHubError: The argument names nothing, or the hub says no.
    """
    from gguf_hub.cli.models import missing_offline, target_for
    from gguf_hub.gguf.reader import map_file
    from gguf_hub.hub.catalog import load_catalog
    from gguf_hub.hub.client import is_offline

    path = Path(argument).expanduser()
    # a file that exists needs neither the catalog nor a hub
    if path.exists():
        return Source(str(path), map_file(path), path)
    catalog = load_catalog(catalog_path)
    found = target_for(argument, catalog)
    assert not isinstance(found, Path), "files on this machine were found above"
    target = replace(found, revision=revision or found.revision)
    if is_offline():
        if here := _here(target):
            return Source(str(here), map_file(here), here)
        raise missing_offline(target.text)
    return _on_hub(target, token)


def _here(target: Target) -> Path | None:
    """Return the first wanted file as this machine has it, verified or not."""
    from gguf_hub.cli.models import find_here
    from gguf_hub.hub.store import Store

    return next(iter(find_here(target, Store())), None)


def _on_hub(target: Target, token: str | None) -> Source:
    """Find a file on a hub."""
    from gguf_hub.cli.models import open_hub
    from gguf_hub.errors import HubError
    from gguf_hub.hub.client.ranges import HubRanges
    from gguf_hub.hub.download.plan import select

    hub = open_hub(token)
    repo_id, revision = target.repo_id, target.revision or "main"
    if target.wanted.filenames:
        filename = target.wanted.filenames[0]
    else:
        listing = hub.list_files(repo_id, revision)
        filename, revision = select(listing, target.wanted)[0].path, listing.commit
    facts = hub.file_facts(repo_id, filename, revision)
    if facts.size_bytes is None:
        raise HubError(f"the hub does not say how long `{filename}` is", repo_id=repo_id)
    return Source(f"{repo_id}/{filename}", HubRanges(hub, facts, facts.size_bytes), None)
