"""Is this GGUF sound? Three levels: its header, its structure, and every block of its data.

All problems are collected; nothing is raised for a damaged file, and nothing is allocated for
bytes that are not there. ``gguf_hub.gguf.issues`` lists the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf_hub.gguf.header import Header, read_header
from gguf_hub.gguf.issues import Issues
from gguf_hub.gguf.journal import is_unfinished, journal_name
from gguf_hub.gguf.layout import TensorTable, read_table
from gguf_hub.gguf.reader import map_file
from gguf_hub.gguf.shard_names import find_shards
from gguf_hub.gguf.validate.deep import check_data
from gguf_hub.gguf.validate.model import check_model
from gguf_hub.gguf.validate.names import check_names
from gguf_hub.gguf.validate.report import Level, Report
from gguf_hub.gguf.validate.shards import check_shard, check_together, is_shard
from gguf_hub.gguf.validate.template import check_templates
from gguf_hub.progress import SILENT, Progress

__all__ = [
    "Level",
    "Report",
    "validate_file",
    "validate_set",
    "validate_source",
    "validate_sources",
]


def validate_file(
    path: Path | str, level: Level = "structure", *, progress: Progress = SILENT
) -> Report:
    """Check a GGUF file.

    Args:
        path: The file.
        level: ``"header"`` (the format), ``"structure"`` (also what the metadata promises) or
            ``"deep"`` (also every block of the data).
        progress: Where the deep level reports bytes.

    Returns:
        Everything that was found.

    Raises:
        GgufError: There is no such file, or it may not be read.
    """
    path = Path(path)
    issues = Issues()
    header, table = _check_header(map_file(path), path, level, issues)
    if is_unfinished(path):
        location = f"`{journal_name(path).name}`"
        issues.add("GGUF-EDIT-UNFINISHED", location, "the journal of an edit lies beside the file")
    if level == "deep" and header.is_whole:
        check_data(path, header, table, issues, progress)
    return Report(path, level, header, issues.collected())


def validate_source(source: Any, name: str, level: Level = "structure") -> Report:
    """Check the header of a GGUF that lies elsewhere.

    Args:
        source: Bytes, a seekable binary file, or a ``RangeSource``.
        name: What to call it.
        level: ``"header"`` or ``"structure"``.
    """
    issues = Issues()
    header, _ = _check_header(source, name, level, issues)
    return Report(name, level, header, issues.collected())


def validate_set(
    path: Path | str, level: Level = "structure", *, progress: Progress = SILENT
) -> tuple[Report, ...]:
    """Check all shards of a model, each by itself and all together.

    Args:
        path: Any shard.
        level: As for ``validate_file``.
        progress: Where the deep level reports bytes.

    Returns:
        A report for each shard that is there, in order; what concerns the whole set, a missing
        shard among them, stands in the first.

    Raises:
        GgufError: The file's name is not that of a shard, or no shard is there.
    """
    paths = find_shards(Path(path))
    there = [shard for shard in paths if shard.is_file()]
    if not there:
        validate_file(path)
    reports = [validate_file(shard, level, progress=progress) for shard in there]
    return _together(reports, [shard.name for shard in paths if shard not in there])


def validate_sources(
    sources: Sequence[tuple[Any, str]], level: Level = "structure"
) -> tuple[Report, ...]:
    """Check the headers of all shards of a model, wherever they lie, as ``validate_set`` does.

    Args:
        sources: Data and name of each shard that is there, in order.
        level: ``"header"`` or ``"structure"``.
    """
    reports = [validate_source(data, name, level) for data, name in sources]
    names = {Path(name).name for _, name in sources}
    shards = find_shards(Path(sources[0][1]))
    return _together(reports, [shard.name for shard in shards if shard.name not in names])


def _together(reports: Sequence[Report], missing: Sequence[str]) -> tuple[Report, ...]:
    """Add to the first report what concerns the whole set."""
    issues = Issues()
    for name in missing:
        issues.add("GGUF-SPLIT-MISSING", f"shard `{name}`", "is not there")
    check_together(reports, is_complete=not missing, issues=issues)
    first = reports[0]
    first_report = Report(first.path, first.level, first.header, first.issues + issues.collected())
    return (first_report, *reports[1:])


def _check_header(
    source: Any, name: Path | str, level: Level, issues: Issues
) -> tuple[Header, TensorTable]:
    """Check everything that needs no data."""
    header = read_header(source)
    table = read_table(header)
    issues.extend(header.issues + table.issues)
    check_names(header, issues)
    if level != "header" and header.is_whole:
        check_shard(name, header, issues)
        check_templates(header, issues)
        # of the rest a shard holds some, and its siblings the others
        if not is_shard(header.fields):
            check_model(header, table.all, issues)
    return header, table
