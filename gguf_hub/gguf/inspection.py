"""One look at a GGUF: its header, what it adds up to, what is wrong, and who loads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gguf_hub.gguf.compat import Compatibility, compatibility
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.layout import TensorTable, read_table
from gguf_hub.gguf.reader import raise_unreadable
from gguf_hub.gguf.summary import Summary, summarize
from gguf_hub.gguf.validate import Report, validate_source


@dataclass(frozen=True)
class Inspection:
    """All that a header tells."""

    name: str
    header: Header
    table: TensorTable
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
    return Inspection(name, header, table, summary, report, compatibility(summary, report.issues))
