"""From a model argument to the bytes of its header: a file, or ranges of a file on a hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    from gguf_hub.gguf.reader import map_file

    path = Path(argument).expanduser()
    # a file that exists needs neither the catalog nor a hub
    if path.exists():
        return Source(str(path), map_file(path), path)
    return _on_hub(argument, revision, token, catalog_path)


def _on_hub(
    argument: str, revision: str | None, token: str | None, catalog_path: Path | None
) -> Source:
    """Find a file on a hub."""
    from gguf_hub.catalog import load_catalog
    from gguf_hub.download.plan import Wanted, select
    from gguf_hub.download.refs import CatalogQuant, LocalFile, RepoFile, parse_ref
    from gguf_hub.errors import HubError
    from gguf_hub.hub import HfHub
    from gguf_hub.hub.ranges import HubRanges

    catalog = load_catalog(catalog_path)
    hub = HfHub(token=token)
    quants = {file.quant: file.filename for file in catalog.files}
    ref = parse_ref(argument, catalog=quants, endpoint=hub.endpoint)
    assert not isinstance(ref, LocalFile), "files on this machine were found above"
    if isinstance(ref, CatalogQuant):
        repo_id, filename = catalog.repo_id, quants[ref.quant]
        revision = revision or catalog.revision
    elif isinstance(ref, RepoFile):
        repo_id, filename = ref.repo_id, ref.filename
        revision = revision or ref.revision or "main"
    else:
        repo_id = ref.repo_id
        listing = hub.list_files(repo_id, revision or ref.revision or "main")
        filename = select(listing, Wanted(quant=ref.quant))[0].path
        revision = listing.commit
    facts = hub.file_facts(repo_id, filename, revision)
    if facts.size_bytes is None:
        raise HubError(f"the hub does not say how long `{filename}` is", repo_id=repo_id)
    return Source(f"{repo_id}/{filename}", HubRanges(hub, facts, facts.size_bytes), None)
