"""Output files: what may be overwritten, and the report of what was written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from gguf_hub.cli import console


def check_output(
    source: Path, target: Path, inputs: Iterable[Path] = (), *, force: bool, or_else: str = ""
) -> Path:
    """Return the file to write: ``target``, or a file of the source's name in that folder.

    Args:
        source: The file to read.
        target: The user's argument.
        inputs: All files that are read; if empty, the source and all its shards.
        force: Overwrite an existing file.
        or_else: Alternative for the hint if the target is an input.

    Raises:
        UsageError: It is an input.
        GgufHubError: It exists, and ``force`` is not given.
    """
    if target.is_dir():
        target = target / source.name
    check_outputs([target], list(inputs) or files_of(source), force=force, or_else=or_else)
    return target


def files_of(source: Path) -> tuple[Path, ...]:
    """Return a file, and all shards of its set if its name is a shard's."""
    from gguf_hub.gguf.shard_names import find_shards, parse_shard

    return (source, *find_shards(source)) if parse_shard(source) else (source,)


def check_new(target: Path | None, *others: Path | None) -> None:
    """Refuse a file that cannot be made, before anything else is done; None is no file.

    Args:
        target: The file.
        others: Files that the command writes, too.

    Raises:
        UsageError: It exists, is one of the others, or has no folder.
    """
    from gguf_hub.errors import UsageError
    from gguf_hub.paths import absolute

    if target is None:
        return
    hint = "name another file"
    if os.path.lexists(target) or absolute(target) in {absolute(o) for o in others if o}:
        raise UsageError(f"`{target}` exists already", hint=f"{hint}, or remove it")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"`{target}`: its folder does not exist", hint=hint)


def check_outputs(
    outputs: Sequence[Path], inputs: Iterable[Path], *, force: bool, or_else: str = ""
) -> None:
    """Refuse to overwrite inputs and existing files, before anything is written.

    Args:
        outputs: Files to write.
        inputs: All files that are read.
        force: Overwrite existing files.
        or_else: See ``check_output``.

    Raises:
        UsageError: One of them is an input, under any name.
        GgufHubError: One exists without ``force``, is not a regular file, or has no folder.
    """
    from gguf_hub.errors import GgufHubError
    from gguf_hub.files import require_distinct

    require_distinct(outputs, inputs, hint=f"name another file to write{or_else}")
    for path in outputs:
        if not path.parent.is_dir():
            raise GgufHubError(
                f"`{path}`: there is no folder `{path.parent}`",
                hint=f"`mkdir -p {quote(str(path.parent))}` makes it",
            )
        if path.exists() and not path.is_file():
            raise GgufHubError(f"`{path}` is not a regular file", hint="name another file to write")
        if os.path.lexists(path) and not force:
            raise GgufHubError(f"`{path}` exists already", hint="--force overwrites it")


def report(data: dict[str, Any], notes: Iterable[str], path: Path | None, *, as_json: bool) -> None:
    """Print what was written: ``data`` as JSON, or notes on stderr and the path on stdout."""
    if as_json:
        console.print_json(data)
        return
    for note in notes:
        console.note(note)
    if path is not None:
        console.say(str(path))
