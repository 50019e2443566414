"""From a model argument to the headers of its files: local, or by byte ranges from a hub."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.hub.download.selection import Selection
    from gguf_hub.hub.resolve import Resolver

MAX_BYTES = 256 << 20
"""Limit for all headers of a set on a hub, which stay in memory; the first may have 64 MiB."""


def open_sources(argument: str, resolver: Resolver, revision: str | None) -> list[tuple[Any, str]]:
    """Return data and name of all shards of a GGUF, for ``inspect_set``.

    Local files are memory-mapped; on a hub only headers are read, by byte ranges.

    Raises:
        GgufError: A local file cannot be read, or a shard is missing.
        GgufHubError: The argument names nothing, or the hub refuses.
    """
    from gguf_hub.gguf.raw_parts import find_raw_parts, parse_raw_part
    from gguf_hub.gguf.reader import map_file, map_joined
    from gguf_hub.gguf.shard_names import find_shards, parse_shard
    from gguf_hub.hub.download.plan import select_model
    from gguf_hub.hub.download.refs import Target
    from gguf_hub.paths import expand_user

    path = expand_user(argument)
    # both are False for names that no file can have
    if os.path.isfile(path) or os.path.isdir(path):  # noqa: PTH112, PTH113
        if parse_raw_part(path.name):
            return [(map_joined(find_raw_parts(path)), str(path))]
        shards = find_shards(path) if parse_shard(path) else ()
        paths = [shard for shard in shards if shard.is_file()] or [path]
        return [(map_file(path), str(path)) for path in paths]
    target = resolver.target(argument, revision=revision)
    if not isinstance(target, Target):  # another program's model, by its name there
        return [(map_file(path), str(path)) for path in target]
    selection = resolver.choose(target, select_model)
    if selection.unreachable is None:
        return _on_hub(selection, resolver)
    for copy in resolver.locate(target, select_model):
        if parse_raw_part(copy.paths[0].name):
            return [(map_joined(copy.paths), str(copy.paths[0]))]
        return [(map_file(path), str(path)) for path in copy.paths]
    raise selection.unreachable  # all files are local, but not in one folder


def _on_hub(selection: Selection, resolver: Resolver) -> list[tuple[Any, str]]:
    from gguf_hub.gguf.raw_parts import parse_raw_part
    from gguf_hub.gguf.source import JoinedSource
    from gguf_hub.hub.client.ranges import HubRanges, ReadBudget

    hub, listing = resolver.hub, selection.listing
    budget = ReadBudget(MAX_BYTES, hint="`gguf-hub download` fetches the files; then try again")
    files = [
        (
            HubRanges(hub, hub.listed_metadata(listing, file), file.size_bytes, budget),
            f"{listing.repo_id}/{file.path}",
        )
        for file in selection.files
    ]
    if parse_raw_part(selection.files[0].path):
        return [(JoinedSource([ranges for ranges, _ in files]), files[0][1])]
    return files
