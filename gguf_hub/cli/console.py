"""How results and talk reach people: tables and JSON on stdout, notes and progress on stderr."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import click

from gguf_hub.cli.events import EventProgress
from gguf_hub.progress import SILENT, Progress, Task


def print_json(data: Any) -> None:
    """Print ``data`` as indented JSON on stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(
    rows: Iterable[Sequence[Any]],
    headers: Sequence[str],
    *,
    align: Sequence[str] | None = None,
    is_markdown: bool = False,
) -> None:
    """Print a table on stdout; cells may carry colour.

    Args:
        rows: Cells as text.
        headers: Column names.
        align: ``"left"`` or ``"right"`` for each column; all left when None.
        is_markdown: Draw it as Markdown does, for issues and READMEs.
    """
    from tabulate import tabulate

    text = tabulate(
        list(rows),
        headers=headers,
        tablefmt="pipe" if is_markdown else "simple",
        disable_numparse=True,
        colalign=align,
        missingval="-",
    )
    click.echo(text, color=_colour(sys.stdout))


def style(text: str, colour: str | None = None, *, bold: bool = False) -> str:
    """Return ``text`` in a colour; click strips it where the stream takes none."""
    return click.style(text, fg=colour, bold=bold or None)


def say(text: str = "") -> None:
    """Print one line of data on stdout."""
    click.echo(text, color=_colour(sys.stdout))


_events: EventProgress | None = None


def use_events() -> EventProgress:
    """Have everything that goes to stderr be events, until ``use_text``."""
    global _events
    _events = _events or EventProgress()
    return _events


def use_text() -> None:
    """Have what goes to stderr be text for people again."""
    global _events
    _events = None


def note(text: str) -> None:
    """Print one line of talk on stderr."""
    if _events:
        _events.note(click.unstyle(text))
        return
    click.echo(text, err=True, color=_colour(sys.stderr))


def warn(text: str) -> None:
    """Print a warning on stderr."""
    if _events:
        _events.warning(text)
        return
    note(f"{style('warning:', 'yellow', bold=True)} {text}")


def error(text: str, *, hint: str | None = None) -> None:
    """Print an error on stderr, and its hint as a paragraph of its own."""
    if _events:
        _events.error(text, hint)
        return
    note(f"{style('error:', 'red', bold=True)} {text}")
    if hint:
        note(f"\n{style('hint:', 'cyan', bold=True)} {hint}")


def near(word: str, known: Iterable[str] | Mapping[str, Any]) -> str:
    """Return ``": did you mean `x`?"`` for the nearest known word, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean `{found[0]}`?" if found else ""


def _colour(stream: Any) -> bool | None:
    """Tell click whether to colour: NO_COLOR wins, then whether it is a terminal (None)."""
    return False if os.environ.get("NO_COLOR") else None


class _Bar:
    """A tqdm bar as a ``Task``."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, n: int) -> None:
        self._bar.update(n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()


class ConsoleProgress:
    """A ``Progress`` that draws bars on stderr; without a terminal it draws nothing.

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
            desc=label,
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
    """Return who is told of progress.

    Args:
        kind: ``auto`` draws bars on a terminal, ``json`` writes events, ``none`` only notes.
        is_quiet: Not even notes, unless events are asked for.
    """
    if kind == "json":
        return use_events()
    return SILENT if is_quiet else ConsoleProgress(enabled=kind == "auto")
