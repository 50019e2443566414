"""What the files of a model in several files are called: NAME-0000i-of-0000n.gguf, i from 1.

Source: llama_split_path in src/llama.cpp of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TypeVar

from gguf_hub.errors import GgufError

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_MOST_NAMED = 8
_P = TypeVar("_P", bound=PurePath)


def shard_path(prefix: Path | str, no: int, count: int) -> Path:
    """Return the name of shard ``no`` (from 0) of ``count``."""
    return Path(f"{prefix}-{no + 1:05d}-of-{count:05d}.gguf")


def parse_shard(path: _P) -> tuple[_P, int, int] | None:
    """Return prefix, number (from 0) and count as a file's name has them, or None."""
    match = _NAME.fullmatch(path.name)
    return (path.with_name(match[1]), int(match[2]) - 1, int(match[3])) if match else None


def find_shards(path: Path) -> tuple[Path, ...]:
    """Return all shards of the set that a file belongs to, in order, whether they exist or not.

    Raises:
        GgufError: The name is not that of a shard.
    """
    shard = parse_shard(path)
    if shard is None:
        raise GgufError(
            f"`{path}` is a shard, but its name does not say which",
            path=path,
            hint="shards are named NAME-00001-of-00003.gguf: rename it to what it was",
        )
    prefix, _, count = shard
    return tuple(shard_path(prefix, no, count) for no in range(count))


def model_name(path: PurePath) -> str:
    """Return what to call a model: its file's name without the suffix and the shard's number."""
    shard = parse_shard(path)
    return shard[0].name if shard else path.stem


def model_files(path: Path) -> tuple[Path, ...]:
    """Return the file, or all shards of the set that its name says it belongs to.

    Raises:
        GgufError: A shard is missing.
    """
    return require_shards(path) if parse_shard(path) else (path,)


def require_shards(path: Path) -> tuple[Path, ...]:
    """Return all shards of a set, in order.

    Args:
        path: Any of them.

    Raises:
        GgufError: Some are missing; all of these are named.
    """
    shards = find_shards(path)
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        names = missing_text([shard.name for shard in missing])
        raise GgufError(
            f"of the {len(shards)} shards of `{path}`, {names}",
            path=missing[0],
            hint=f"all shards must lie in `{path.parent}`",
        )
    return shards


def missing_text(names: Sequence[str]) -> str:
    """Return which files of a set are missing, the first few by name."""
    listed = ", ".join(f"`{name}`" for name in names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{listed}{more} {'is' if len(names) == 1 else 'are'} missing"
