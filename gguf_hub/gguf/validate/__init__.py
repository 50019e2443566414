"""Is this GGUF sound? Three levels: its header, its structure, and every block of its data.

All problems are collected; nothing is raised for a damaged file, and nothing is allocated for
bytes that are not there. ``gguf_hub.gguf.issues`` lists the rules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf_hub.gguf.header import Header, read_header
from gguf_hub.gguf.issues import Issues
from gguf_hub.gguf.keys import architecture
from gguf_hub.gguf.layout import TensorTable, read_table
from gguf_hub.gguf.reader import map_file
from gguf_hub.gguf.validate.deep import check_data
from gguf_hub.gguf.validate.llama import check_llama
from gguf_hub.gguf.validate.names import check_names
from gguf_hub.gguf.validate.report import Level, Report
from gguf_hub.gguf.validate.template import check_templates
from gguf_hub.gguf.validate.tokenizer import check_tokenizer
from gguf_hub.progress import SILENT, Progress

__all__ = ["Level", "Report", "validate_file", "validate_source"]


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
    header, table = _check_header(map_file(path), level, issues)
    if level == "deep" and header.is_whole:
        check_data(path, header, table, issues, progress)
    return Report(path, level, header, issues.found())


def validate_source(source: Any, name: str, level: Level = "structure") -> Report:
    """Check the header of a GGUF that lies elsewhere.

    Args:
        source: Bytes, a seekable binary file, or a ``RangeSource``.
        name: What to call it.
        level: ``"header"`` or ``"structure"``.
    """
    issues = Issues()
    header, _ = _check_header(source, level, issues)
    return Report(name, level, header, issues.found())


def _check_header(source: Any, level: Level, issues: Issues) -> tuple[Header, TensorTable]:
    """Check everything that needs no data."""
    header = read_header(source)
    table = read_table(header)
    issues.extend(header.issues + table.issues)
    check_names(header, issues)
    if level != "header" and header.is_whole:
        check_tokenizer(header, issues)
        check_templates(header, issues)
        _check_architecture(header, table, issues)
    return header, table


def _check_architecture(header: Header, table: TensorTable, issues: Issues) -> None:
    """Apply the rules of the architecture, if the file names one that there are rules for."""
    arch = architecture(header.fields)
    if not arch:
        if header.entries:
            issues.add("GGUF-ARCH-MISSING", "key `general.architecture`", "missing")
    elif arch == "llama":
        check_llama(header, table.tensors, issues)
    elif header.entries:
        message = f"`{arch}`: tensors and numbers are not checked"
        issues.add("GGUF-ARCH-UNKNOWN", "key `general.architecture`", message)
