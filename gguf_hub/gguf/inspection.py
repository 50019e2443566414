"""One look at a GGUF: its header, what it adds up to, what is wrong, and who loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf_hub.gguf.compat import Compatibility, compatibility
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.layout import TensorTable, read_table
from gguf_hub.gguf.raw_parts import parse_raw_part
from gguf_hub.gguf.reader import raise_unreadable
from gguf_hub.gguf.runnable import find_obstacles
from gguf_hub.gguf.shard_names import parse_shard
from gguf_hub.gguf.summary import Summary, summarize, summarize_set
from gguf_hub.gguf.validate import Report, validate_source, validate_sources


@dataclass(frozen=True)
class Inspection:
    """Everything that follows from a header.

    Attributes:
        name: What the file is called.
        header: Of the file, or of the first shard.
        table: Tensors of the file, or of all shards.
        starts: Where the data of each tensor starts in its file, in bytes.
    """

    name: str
    header: Header
    table: TensorTable
    starts: Mapping[str, int]
    summary: Summary
    report: Report
    compatibility: Compatibility


def inspect(source: Any, name: str) -> Inspection:
    """Look at a GGUF.

    Args:
        source: Bytes, a memory map, a seekable binary file, or a ``RangeSource``.
        name: What to call it.

    Raises:
        GgufError: The header itself cannot be read to its end.
    """
    report = validate_source(source, name)
    header = report.header
    if not header.is_whole:
        raise_unreadable(name, header.issues)
    table = read_table(header)
    summary = summarize(header, table)
    starts = _starts(header, table)
    is_cut = parse_raw_part(name) is not None
    obstacles = find_obstacles(header, table.all)
    programs = compatibility(summary, report.issues, obstacles, is_cut=is_cut)
    return Inspection(name, header, table, starts, summary, report, programs)


def _starts(header: Header, table: TensorTable) -> dict[str, int]:
    return {name: header.data_offset + info.offset for name, info in table.all.items()}


def inspect_set(sources: Sequence[tuple[Any, str]]) -> Inspection:
    """Look at all files of a model together.

    Args:
        sources: Bytes and name of each, as ``inspect`` takes them, the first shard first.

    Raises:
        GgufError: The header of a file cannot be read to its end.
    """
    if len(sources) == 1 and not _is_shard(alone := inspect(*sources[0])):
        return alone
    reports = validate_sources(sources)
    for report in reports:
        if not report.header.is_whole:
            raise_unreadable(report.path, report.header.issues)
    tables = [read_table(report.header) for report in reports]
    tensors = {name: info for table in tables for name, info in table.tensors.items()}
    starts = {
        name: start
        for report, table in zip(reports, tables, strict=True)
        for name, start in _starts(report.header, table).items()
    }
    opaque = {name: info for table in tables for name, info in table.opaque.items()}
    table = TensorTable(tensors, (), opaque)
    first = reports[0]
    summary = summarize_set([report.header for report in reports], table)
    issues = tuple(issue for report in reports for issue in report.issues)
    report = replace(first, issues=issues)
    programs = compatibility(summary, issues, find_obstacles(first.header, table.all))
    return Inspection(str(first.path), first.header, table, starts, summary, report, programs)


def _is_shard(inspection: Inspection) -> bool:
    """Return whether a file is one of several, by its keys and its name."""
    return inspection.summary.shard is not None and parse_shard(Path(inspection.name)) is not None
