"""Joining raw parts: bytes one after another, proved to be a GGUF before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf_hub.errors import GgufError
from gguf_hub.files import require_distinct
from gguf_hub.gguf.atomic import new_file
from gguf_hub.gguf.copying import FileRange, copy_range
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.issues import Severity
from gguf_hub.gguf.mapping import read_errors
from gguf_hub.gguf.reader import map_file, map_joined
from gguf_hub.gguf.validate import validate_source
from gguf_hub.progress import SILENT, Progress

_HASH_BYTES = 1 << 20


def join_raw_parts(
    parts: Sequence[Path], path: Path, *, compare: bool = False, progress: Progress = SILENT
) -> tuple[int, int]:
    """Write the file that raw parts make; the parts stay.

    Args:
        parts: All of them, in order.
        path: The new file; it appears under its name only when it is whole.
        compare: Read everything again and compare before that.
        progress: Where to report bytes.

    Returns:
        How many tensors the file has, and its bytes.

    Raises:
        GgufError: The parts make no GGUF, as when the last one is missing; one has changed
            meanwhile; or what was written differs.
        UsageError: The new file would replace a part.
        DiskFullError: Not enough space.
        LockedError: Another process writes the same file.
    """
    require_distinct([path], parts)
    source = map_joined(parts)
    _require_gguf(source, parts)
    sizes = [part.stat().st_size for part in parts]
    with (
        new_file(path, source.size_bytes) as new,
        progress.task(f"join {path.name}", source.size_bytes) as task,
    ):
        for part, size_bytes in zip(parts, sizes, strict=True):
            copied = 0
            for n in copy_range(FileRange(part, 0, size_bytes), new.descriptor):
                task.advance(n)
                copied += n
            if copied != size_bytes:
                raise GgufError(f"`{part}` has changed while it was copied", path=part)
        if compare and _digest(parts, progress) != _digest([new.path], progress):
            raise GgufError(f"`{path}` does not hold the bytes of its parts", path=path)
        header = _require_gguf(map_file(new.path), parts)
    return len(header.entries), header.size_bytes


def _require_gguf(source: Any, parts: Sequence[Path]) -> Header:
    """Refuse bytes whose header is wrong, or promises more than is there."""
    report = validate_source(source, parts[0].name, "header")
    errors = [issue for issue in report.issues if issue.severity is Severity.ERROR]
    if errors:
        raise GgufError(
            f"`{parts[0]}` and the parts after it ({len(parts)} in all) make no GGUF: {errors[0]}",
            path=parts[0],
            issues=[str(issue) for issue in errors],
            hint="a part is missing at the end, is cut, or is of another file: compare their "
            "sizes and SHA-256 with the publisher's (`gguf-hub verify`)",
        )
    return report.header


def _digest(paths: Sequence[Path], progress: Progress) -> str:
    sha256 = hashlib.sha256()
    for path in paths:
        with (
            read_errors(path),
            progress.task(f"compare {path.name}", path.stat().st_size) as task,
            path.open("rb") as file,
        ):
            while chunk := file.read(_HASH_BYTES):
                sha256.update(chunk)
                task.advance(len(chunk))
    return sha256.hexdigest()
