"""From a model argument to the headers of its files: here, or by ranges on a hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.hub.resolve import Resolver, Selection

MAX_BYTES = 256 << 20
"""Of the headers of a set on a hub, which stay in memory together; the first may have 64 MiB."""


@dataclass(frozen=True)
class Source:
    """Where a GGUF lies.

    Attributes:
        name: What to call it: the path, or the file on the hub.
        data: For ``read_header``: a memory map or ranges.
    """

    name: str
    data: Any


def open_sources(argument: str, resolver: Resolver, revision: str | None) -> list[Source]:
    """Find the GGUF that an argument names, all its shards; on a hub nothing else is read.

    Raises:
        GgufError: A local file cannot be read, or a shard is missing.
        GgufHubError: The argument names nothing, or the hub says no.
    """
    from gguf_hub.gguf.reader import map_file
    from gguf_hub.gguf.shard_names import find_shards, parse_shard
    from gguf_hub.hub.download.refs import Target
    from gguf_hub.paths import expand_user

    path = expand_user(argument)
    if os.path.exists(path):  # noqa: PTH110 - False for names that no file can have
        shards = find_shards(path) if parse_shard(path) else ()
        there = [shard for shard in shards if shard.is_file()] or [path]
        return [Source(str(each), map_file(each)) for each in there]
    target = resolver.target(argument, revision=revision)
    assert isinstance(target, Target), "files on this machine were found above"
    selection = resolver.choose(target)
    if selection.unreachable is None:
        return _on_hub(selection, resolver)
    for copy in resolver.locate(target):
        return [Source(str(path), map_file(path)) for path in copy.paths]
    raise selection.unreachable  # all is here, but not in one folder


def _on_hub(selection: Selection, resolver: Resolver) -> list[Source]:
    from gguf_hub.hub.client.ranges import HubRanges, ReadBudget

    hub, listing = resolver.hub, selection.listing
    budget = ReadBudget(MAX_BYTES, hint="`gguf-hub download` fetches the files; then ask again")
    return [
        Source(
            f"{listing.repo_id}/{file.path}",
            HubRanges(hub, hub.listed_metadata(listing, file), file.size_bytes, budget),
        )
        for file in selection.files
    ]
