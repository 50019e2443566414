"""``gguf-hub rm``: remove model files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import catalog_option, json_option

if TYPE_CHECKING:
    from gguf_hub.hub.download.inventory import LocalFile
    from gguf_hub.hub.resolve import Resolver


@click.command("rm")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("-y", "--yes", is_flag=True, help="Skip the confirmation prompt.")
@catalog_option
@json_option
def command(models: tuple[str, ...], yes: bool, catalog_path: Path | None, as_json: bool) -> None:
    """Remove model files; asks first.

    MODEL is a path, a quant of the catalog (Q4_K_M), org/repo:QUANT, org/repo/file.gguf, or
    org/repo for all its files on this machine; a shard stands for its set. Also removes the files
    stored with them: download metadata and records. In the Hugging Face cache, the data stays as
    long as another commit uses it.
    """
    from gguf_hub.cli.models import make_resolver
    from gguf_hub.hub.download.removal import (
        freed_bytes,
        left_in_caches,
        remaining_file,
        remove,
    )
    from gguf_hub.units import format_size

    resolver = make_resolver(catalog_path)
    files, edited = _files_of(models, resolver)
    free_bytes = freed_bytes(list(files))
    link_targets = {path: target for path in files if (target := remaining_file(path))}
    if not yes:
        _confirm(list(files.values()), free_bytes, link_targets)
    unfinished = list(_unfinished(models, resolver))
    _note_shares(files)
    for path in files:
        remove(path, resolver.store)
    for target in link_targets.values():
        console.note(f"`{target}` stays: only the link to it was removed")
    for path in edited:
        console.note(f"`{path}` stays, as `gguf-hub edit` changed it: name it to remove it")
    for repo_id, size_bytes in unfinished:
        console.note(f"{format_size(size_bytes)} of unfinished downloads of `{repo_id}` stay")
        console.note("hint: `gguf-hub gc` shows them, `gguf-hub gc -y` removes them")
    for repo_id, names in left_in_caches(files):
        listed = ", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)
        console.note(f"`{repo_id}` keeps in the cache what is no model: {listed}")
        console.note(f"hint: `hf cache rm model/{repo_id}` removes that too")
    if as_json:
        console.print_json({"removed": [str(path) for path in files], "freed_bytes": free_bytes})
        return
    for path in files:
        console.say(str(path))
    console.note(f"removed; {format_size(free_bytes)} freed")


def _note_shares(paths: Iterable[Path]) -> None:
    """Say which programs were lent a file by a symbolic link, which leads to nothing afterwards."""
    from gguf_hub.errors import GgufHubError
    from gguf_hub.hub.programs.folders import find_program
    from gguf_hub.hub.programs.record import ShareRecord, links_to

    try:
        shares = ShareRecord().shares()
    except GgufHubError as error:  # removing needs no record of what is shared
        console.warn(error.message)
        return
    for path in paths:
        for share in links_to(shares, path):
            title = find_program(share.program).title
            console.warn(f"{title} loses `{share.name}`, which is a link to `{path}`")
            undo = f"gguf-hub share {quote(share.name)} --with {share.program} --remove"
            console.note(f"hint: `{undo}` removes the link")


def _files_of(
    models: Sequence[str], resolver: Resolver
) -> tuple[dict[Path, LocalFile], list[Path]]:
    """Return the files to remove, and those that were edited and are not named themselves."""
    from gguf_hub.hub.download.inventory import Condition
    from gguf_hub.paths import expand_user

    files: dict[Path, LocalFile] = {}
    edited: list[Path] = []
    for name in models:
        is_path = os.path.lexists(expand_user(name))
        for file in resolver.local_files(name):
            if file.condition is Condition.EDITED and not is_path:
                edited.append(file.path)
            else:
                files[file.path] = file
    return files, [path for path in edited if path not in files]


def _unfinished(models: Sequence[str], resolver: Resolver) -> Iterator[tuple[str, int]]:
    """Yield the repositories that were named as a whole, and what was begun of them in caches."""
    from gguf_hub.hub.download.cachedir import repo_folder
    from gguf_hub.hub.download.leftovers import Kind, find_leftovers
    from gguf_hub.hub.download.plan import FileSelector
    from gguf_hub.hub.download.refs import Target
    from gguf_hub.paths import expand_user

    kinds = (Kind.PART, Kind.JOURNAL, Kind.INCOMPLETE)
    for name in models:
        if os.path.lexists(expand_user(name)):
            continue
        target = resolver.target(name, is_remote=True)
        if not isinstance(target, Target) or target.selector != FileSelector():
            continue
        folders = [Path(os.path.realpath(repo_folder(cache, target.repo_id)))
                   for cache in resolver.roots.caches]  # fmt: skip
        begun = [left.size_bytes for left in find_leftovers(resolver.store, resolver.roots)
                 if left.kind in kinds and left.path.parent.parent in folders]  # fmt: skip
        if begun:
            yield target.repo_id, sum(begun)


def _confirm(
    files: Sequence[LocalFile], free_bytes: int, link_targets: Mapping[Path, Path]
) -> None:
    """Show the files and ask for confirmation.

    Raises:
        GgufHubError: The answer is no, or stdin is not a terminal.
    """
    from gguf_hub.errors import GgufHubError
    from gguf_hub.units import format_size

    for file in files:
        target = link_targets.get(file.path)
        size = "a link" if target else format_size(file.size_bytes)
        console.note(f"{size:>10}  {file.path}{f' to {target}, which stays' if target else ''}")
    if not sys.stdin.isatty():
        raise GgufHubError(
            "nothing was removed: not a terminal, so cannot ask", hint="`-y` skips the question"
        )
    count = "this file" if len(files) == 1 else f"these {len(files)} files"
    if not click.confirm(f"Remove {count} ({format_size(free_bytes)} freed)?", err=True):
        raise GgufHubError("nothing was removed")
