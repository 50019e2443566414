"""Output: tables and JSON on stdout, notes and progress on stderr.

All output passes through here, so that no text of a file, a hub or a model can control the
terminal: control characters are escaped (``gguf_hub.printable``), except the colours of ``style``.
"""

from __future__ import annotations

import codecs
import difflib
import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from gguf_hub.cli.events import EventProgress
from gguf_hub.cli.log_file import write_log
from gguf_hub.errors import did_you_mean
from gguf_hub.printable import LAYOUT, json_printable, printable, printable_text
from gguf_hub.progress import SILENT, Progress, Task

_SEAL = f";{int.from_bytes(os.urandom(6), 'big')}m"
"""Ends the colour codes of ``style`` until they are printed; no other text can contain it."""
_OWN_CODE = re.compile(rf"\x1b\[([0-9;]*){_SEAL}")
_LOOKALIKES = str.maketrans(
    {"×": "x", "·": "-", "±": "+-", "…": "...", "→": "->", "←": "<-", "Δ": "d",
     "█": "#", "▌": "#", "░": "."}
)  # fmt: skip
"""Our own symbols in letters that every encoding has."""


def _in_plain_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace what an encoding lacks: symbols by lookalikes, other characters by escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_LOOKALIKES)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def escape_unencodable_characters() -> None:
    """Make stdout and stderr escape the characters that their encoding lacks."""
    codecs.register_error("gguf-hub", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="gguf-hub")


def print_json(data: Any, indent: int | None = 2) -> None:
    """Print ``data`` as JSON on stdout, in one line if ``indent`` is None.

    Infinities and NaN become null.
    """
    data = _with_numbers(data)
    document = json_printable(json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False))
    try:
        document.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeError:
        document = json.dumps(data, indent=indent, allow_nan=False)
    click.echo(document)


def _with_numbers(data: Any) -> Any:
    """Return plain data with None for infinities and NaN, which JSON lacks."""
    if isinstance(data, dict):
        return {key: _with_numbers(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_with_numbers(item) for item in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def print_table(
    rows: Iterable[Sequence[Any]],
    headers: Sequence[str],
    *,
    align: Sequence[str] | None = None,
    is_markdown: bool = False,
    expendable: Sequence[str] = (),
) -> None:
    """Print a table on stdout; cells may be coloured.

    On a narrow terminal, expendable columns are dropped, then long texts are wrapped.

    Args:
        rows: Cells as text.
        headers: Column names.
        align: ``"left"`` or ``"right"`` for each column; all left when None.
        is_markdown: Print a Markdown table, never narrowed.
        expendable: Names of columns to drop, the first one first.
    """
    from tabulate import tabulate

    rows = [[_in_cell(cell) for cell in row] for row in rows]
    headers = [_in_cell(header) for header in headers]
    columns = [list(cells) for cells in zip(*rows, strict=True)] or [[] for _ in headers]
    table = list(zip(headers, align or ["left"] * len(headers), columns, strict=True))
    n_columns = None if is_markdown else terminal_columns()
    table, widths = _narrowed(table, n_columns, expendable)
    headers, align = [name for name, _, _ in table], [side for _, side, _ in table]
    text = tabulate(
        list(zip(*(cells for _, _, cells in table), strict=True)),
        headers=headers,
        maxcolwidths=widths,
        tablefmt="pipe" if is_markdown else "simple",
        disable_numparse=True,
        colalign=align,
        missingval="-",
    )
    click.echo(text, color=_colour(sys.stdout))


def _in_cell(cell: Any) -> Any:
    """Return a printable cell, its colours as codes that tabulate can measure."""
    if not isinstance(cell, str):
        return cell
    return _OWN_CODE.sub("\x1b[\\1m", _map_text(cell, printable))


_Column = tuple[str, str, list[Any]]
_GAP = 2  # between columns
_WRAP_WIDTH, _MIN_WIDTH = (
    24,
    12,
)  # characters of a wrapped column, before and after columns are dropped


def terminal_columns() -> int | None:
    """Return the width of the terminal; None for files and pipes."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return None


def _narrowed(
    table: list[_Column], n_columns: int | None, expendable: Sequence[str]
) -> tuple[list[_Column], list[int | None] | None]:
    """Return the remaining columns, and the widths to wrap them to (None: no wrapping)."""
    if n_columns is None:
        return table, None
    for name in expendable:
        if sum(_widths(table, _WRAP_WIDTH)) <= n_columns + _GAP:
            break
        table = [column for column in table if column[0] != name]
    widths = _widths(table)
    texts = [i for i, (_, side, _) in enumerate(table) if side == "left"]
    while texts and (excess := sum(widths) - _GAP - n_columns) > 0:
        widest = max(texts, key=widths.__getitem__)
        if widths[widest] <= _MIN_WIDTH + _GAP:
            break
        widths[widest] = max(_MIN_WIDTH + _GAP, widths[widest] - excess)
    return table, [width - _GAP for width in widths]


def _widths(table: Sequence[_Column], max_width: int | None = None) -> list[int]:
    """Return the widths of columns and the gaps after them; text is wrapped to ``max_width``."""
    widths = []
    for name, side, cells in table:
        width = max([len(name) + 2, *(len(click.unstyle(str(cell))) for cell in cells)])
        widths.append((min(width, max_width) if max_width and side == "left" else width) + _GAP)
    return widths


def style(text: str, colour: str | None = None, *, bold: bool = False) -> str:
    """Return ``text`` in a colour, which is stripped if the stream has none."""
    prefix, _, suffix = click.style("\0", fg=colour, bold=bold or None).partition("\0")
    return f"{prefix.replace('m', _SEAL)}{text}{suffix.replace('m', _SEAL)}"


def _map_text(text: str, change: Callable[[str], str]) -> str:
    """Change the text between the codes of ``style``."""
    if _SEAL not in text:
        return change(text)
    parts = _OWN_CODE.split(text)  # text, code, text, code, ..., text
    parts[::2] = map(change, parts[::2])
    parts[1::2] = [f"\x1b[{code}{_SEAL}" for code in parts[1::2]]
    return "".join(parts)


def _lines(text: str) -> str:
    """Return printable lines, the codes of ``style`` as terminal codes."""
    ready = _map_text(text, lambda part: printable(part, keep=LAYOUT))
    return _OWN_CODE.sub("\x1b[\\1m", ready)


def say(text: str = "") -> None:
    """Print one line of data on stdout."""
    click.echo(_lines(text), color=_colour(sys.stdout))


def say_path(path: str) -> None:
    """Print a path on stdout; its raw bytes if stdout is not a terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    else:
        say(path)


def write(text: str, *, colour: bool | None = None) -> None:
    """Print text of a model or a prompt on stdout, without a newline.

    Control characters are escaped on a terminal only.

    Args:
        text: The text, possibly in colours of ``style``.
        colour: Keep the colours (True), strip them (False), or depend on the stream (None).
    """
    is_terminal = sys.stdout.isatty()
    ready = _map_text(text, printable_text) if is_terminal else text
    keeps = is_terminal and not os.environ.get("NO_COLOR") if colour is None else colour
    click.echo(_OWN_CODE.sub("\x1b[\\1m" if keeps else "", ready), nl=False, color=True)


_events: EventProgress | None = None


def use_events() -> EventProgress:
    """Write events to stderr, until ``use_text``."""
    global _events
    _events = _events or EventProgress()
    return _events


def use_text() -> None:
    """Write text to stderr again."""
    global _events
    _events = None


def note(text: str) -> None:
    """Print one line on stderr."""
    if _events:
        _events.note(_OWN_CODE.sub("", text))
        return
    click.echo(_lines(text), err=True, color=_colour(sys.stderr))
    write_log(printable_text(_OWN_CODE.sub("", text)))


def warn(text: str) -> None:
    """Print a warning on stderr."""
    if _events:
        _events.warning(text)
        return
    note(f"{style('warning:', 'yellow', bold=True)} {text}")


def error(text: str, *, hint: str | None = None) -> None:
    """Print an error on stderr, and its hint as a separate paragraph."""
    if _events:
        _events.error(text, hint)
        return
    note(f"{style('error:', 'red', bold=True)} {text}")
    if hint:
        note(f"\n{style('hint:', 'cyan', bold=True)} {hint}")


def near(word: str, words: Iterable[str] | Mapping[str, Any]) -> str:
    """Return ``": did you mean `x`?"`` for the nearest known word, or nothing."""
    return did_you_mean(difflib.get_close_matches(word, list(words), n=1))


def _colour(stream: Any) -> bool | None:
    """Return click's ``color``: False with NO_COLOR, else None, which depends on the terminal."""
    return False if os.environ.get("NO_COLOR") else None


class _Bar:
    """A tqdm bar as a ``Task``."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, n: int) -> None:
        self._bar.update(n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()


class ConsoleProgress:
    """A ``Progress`` that shows bars on stderr if it is a terminal.

    Args:
        enabled: False for ``--no-progress``, ``--quiet``.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled and sys.stderr.isatty()

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        """Start a bar."""
        from tqdm import tqdm

        bar = tqdm(
            total=total,
            initial=done,
            desc=printable(label),
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            disable=not self._enabled,
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
        )
        return _Bar(bar)

    def note(self, text: str) -> None:
        """Print the line on stderr."""
        note(text)


def progress_for(kind: str, *, is_quiet: bool = False) -> Progress:
    """Return the progress reporter of ``--progress`` and ``--quiet``.

    Args:
        kind: ``auto`` shows bars on a terminal, ``json`` writes events, ``none`` only notes.
        is_quiet: No notes either, unless ``kind`` is ``json``.
    """
    if kind == "json":
        return use_events()
    return SILENT if is_quiet else ConsoleProgress(enabled=kind == "auto")
