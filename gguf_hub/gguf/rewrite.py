"""Writing a GGUF anew from ranges of others: the plan, the copy, and the proof that it is right."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.errors import GgufError
from gguf_hub.files import require_distinct
from gguf_hub.gguf.copying import BLOCK_BYTES, FileRange
from gguf_hub.gguf.format import Field, TensorInfo, TensorSpec
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.strings import StringArray, shown
from gguf_hub.gguf.swap import swap_ranges
from gguf_hub.gguf.writer import Plan, plan_file, write_gguf
from gguf_hub.progress import SILENT, Progress

COMPARE_BYTES = 1 << 20
PADDING_KEY = "gguf_hub.padding"
LEAST_IN_STEP_BYTES = 64 << 20
"""Smaller files are copied before anybody notices."""


@dataclass(frozen=True)
class Part:
    """A tensor of the new file and where its data lies.

    Attributes:
        spec: Name, shape and type.
        ranges: The bytes, one range after another.
        swaps: Whether their words must be turned round.
    """

    spec: TensorSpec
    ranges: tuple[FileRange, ...]
    swaps: bool = False


@dataclass(frozen=True)
class Rewrite:
    """A file that is to be written from others.

    Attributes:
        fields: Its metadata.
        parts: Its tensors, in order.
        changes: What differs from the old file, one sentence each; empty when nothing does.
    """

    fields: dict[str, Field]
    parts: tuple[Part, ...]
    changes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Length of the new file."""
        return plan_file(self.fields, [part.spec for part in self.parts]).size_bytes

    @property
    def sources(self) -> set[Path]:
        """The files that data is copied from."""
        return {file_range.path for part in self.parts for file_range in part.ranges}

    def write(self, path: Path, *, compare: bool = False, progress: Progress = SILENT) -> None:
        """Write the file; it appears under its name only when it is whole.

        Args:
            path: The new file, or the old one that it replaces at the very end.
            compare: Compare every byte with its source before that.
            progress: Where to report bytes.

        Raises:
            UsageError: It would replace one of several files that data is copied from.
            GgufError: What was written differs from its source.
            DiskFullError: Not enough space.
            LockedError: Another process writes the same file.
        """
        if len(self.sources) > 1:
            require_distinct([path], self.sources)
        write_gguf(
            path,
            self.fields,
            [(part.spec, _data(part)) for part in self.parts],
            progress=progress,
            prove=(lambda part: self.compare(part, progress)) if compare else None,
        )

    def compare(self, path: Path, progress: Progress = SILENT) -> None:
        """Compare every byte of a written file with what it was made from.

        Raises:
            GgufError: They differ, or the file cannot be read.
        """
        file = GgufFile.open(path)
        total = sum(info.size_bytes for info in file.tensors.values())
        if list(file.tensors) != [part.spec.name for part in self.parts]:
            raise GgufError(f"`{path}` does not hold the tensors that it should", path=path)
        with progress.task(f"compare {path.name}", total) as task:
            for part in self.parts:
                info = file.tensors[part.spec.name]
                for n in _compare(path, file.data_offset, info, part):
                    task.advance(n)


def align_to_source(rewrite: Rewrite) -> Rewrite:
    """Give data the same offsets modulo the block size as in the old file, with a key of zeros.

    Copying whole blocks is faster than copying across their borders, and file systems that share
    blocks (btrfs, xfs) then copy nothing at all. Small files stay without it.

    Returns:
        The same, with the key ``PADDING_KEY`` where it helps.
    """
    fields = {key: field for key, field in rewrite.fields.items() if key != PADDING_KEY}
    plain = dataclasses.replace(rewrite, fields=fields)
    plan = plan_file(fields, [part.spec for part in rewrite.parts])
    start = _best_start(plan, rewrite.parts)
    if start is None or plan.size_bytes < LEAST_IN_STEP_BYTES:
        return plain
    if plan.data_offset % BLOCK_BYTES == start or start % plan.alignment:
        return plain
    # key with its length, type, element type and count stand before the zeros
    least = len(plan.header) + 8 + len(PADDING_KEY) + 4 + 4 + 8
    zeros = np.zeros((start - least) % BLOCK_BYTES, np.uint8)
    change = f"`{PADDING_KEY}` is added, so that blocks can be shared with the old file"
    return dataclasses.replace(
        plain,
        fields={**fields, PADDING_KEY: Field.of(zeros)},
        changes=(*rewrite.changes, change),
    )


def _best_start(plan: Plan, parts: Sequence[Part]) -> int | None:
    """Return where in a block the data section should start, for most of the bytes."""
    votes: Counter[int] = Counter()
    for info, part in zip(plan.tensors, parts, strict=True):
        at = info.offset
        for file_range in () if part.swaps else part.ranges:
            votes[(file_range.offset - at) % BLOCK_BYTES] += file_range.size_bytes
            at += file_range.size_bytes
    return votes.most_common(1)[0][0] if votes else None


def detached(fields: Mapping[str, Field]) -> dict[str, Field]:
    """Return metadata that does not hold its file open: some systems then refuse to replace it."""
    return {
        key: Field(field.type, _copy_value(field.value), field.element_type)
        for key, field in fields.items()
    }


def _copy_value(value: Any) -> Any:
    if isinstance(value, StringArray):
        return value.copy()
    return value.copy() if isinstance(value, np.ndarray) else value


def range_of(file: GgufFile, info: TensorInfo) -> FileRange:
    """Return where a tensor's data lies in its file."""
    return FileRange(file.path, file.data_offset + info.offset, info.size_bytes)


def joined(ranges: Iterable[FileRange]) -> tuple[FileRange, ...]:
    """Put ranges together that lie side by side."""
    merged: list[FileRange] = []
    for file_range in ranges:
        last = merged[-1] if merged else None
        if last and (last.path, last.end) == (file_range.path, file_range.offset):
            merged[-1] = FileRange(last.path, last.offset, last.size_bytes + file_range.size_bytes)
        else:
            merged.append(file_range)
    return tuple(merged)


def _data(part: Part) -> Any:
    if part.swaps:
        return lambda: swap_ranges(part.ranges, part.spec.type)
    return part.ranges


def _compare(path: Path, data_offset: int, info: TensorInfo, part: Part) -> Iterator[int]:
    """Compare one tensor with its source; yield bytes as they are found equal."""
    with path.open("rb") as file:
        file.seek(data_offset + info.offset)
        n_left = info.size_bytes
        for chunk in swap_ranges(part.ranges, info.type) if part.swaps else _chunks(part.ranges):
            if file.read(len(chunk)) != bytes(chunk):
                break
            n_left -= len(chunk)
            yield len(chunk)
        if n_left:
            where = data_offset + info.offset + info.size_bytes - n_left
            raise GgufError(
                f"`{path}`: tensor `{shown(info.name)}` differs from its source at offset {where}",
                path=path,
                hint="the disk or its memory is failing; the old file is untouched",
            )


def _chunks(ranges: tuple[FileRange, ...]) -> Iterator[bytes | np.ndarray[Any, Any]]:
    for file_range in ranges:
        with file_range.path.open("rb") as file:
            file.seek(file_range.offset)
            for at in range(0, file_range.size_bytes, COMPARE_BYTES):
                chunk = file.read(min(COMPARE_BYTES, file_range.size_bytes - at))
                yield chunk
