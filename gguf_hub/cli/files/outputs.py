"""What commands that write a file may write over."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def check_output(
    source: Path, target: Path, inputs: Iterable[Path] = (), *, force: bool, or_else: str = ""
) -> Path:
    """Return the file to write: ``target``, or a file of the source's name in that folder.

    Args:
        source: What is read.
        target: What the user names.
        inputs: All files that are read; when there are none, the source and all its shards.
        force: Whether a file that is there may be replaced.
        or_else: What one may have meant who named the input, for the hint.

    Raises:
        UsageError: It is an input.
        GgufHubError: It exists, and ``force`` is not given.
    """
    if target.is_dir():
        target = target / source.name
    check_outputs([target], list(inputs) or files_of(source), force=force, or_else=or_else)
    return target


def files_of(source: Path) -> tuple[Path, ...]:
    """Return a file, and all shards of the set that its name says it belongs to."""
    from gguf_hub.gguf.shard_names import find_shards, parse_shard

    return (source, *find_shards(source)) if parse_shard(source) else (source,)


def check_outputs(
    outputs: Sequence[Path], inputs: Iterable[Path], *, force: bool, or_else: str = ""
) -> None:
    """Refuse, before anything is written, what must not be written over.

    Args:
        outputs: Files to write.
        inputs: All files that are read.
        force: Whether files that are there may be replaced.
        or_else: See ``check_output``.

    Raises:
        UsageError: One of them is an input, under whatever name.
        GgufHubError: One exists and ``force`` is not given, or is no file.
    """
    from gguf_hub.errors import GgufHubError
    from gguf_hub.files import require_distinct

    require_distinct(outputs, inputs, hint=f"name another file to write{or_else}")
    for path in outputs:
        if path.exists() and not path.is_file():
            raise GgufHubError(f"`{path}` is no regular file", hint="name another file to write")
        if os.path.lexists(path) and not force:
            raise GgufHubError(f"`{path}` exists already", hint="--force overwrites it")
