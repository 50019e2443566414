"""Input lines: with editing and history if prompt_toolkit is installed (extra ``chat``)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

PROMPT, MORE = "> ", ". "
QUOTES = '"""'


def read_turn(read_line: Callable[[str], str]) -> str | None:
    """Return the next text, None at the end.

    It is a line, or several that end with a backslash but the last, or the lines between three
    quotes at the beginning of a line and three at the end of one.

    Args:
        read_line: Returns the next line; its argument is the prompt to show.
    """
    parts: list[str] = []
    while True:
        try:
            line = read_line(MORE if parts else PROMPT)
        except EOFError:
            return "\n".join(parts) if parts else None
        if not parts and line.startswith(QUOTES):
            return _quoted(line[len(QUOTES) :], read_line)
        if not line.endswith("\\"):
            return "\n".join([*parts, line])
        parts.append(line[:-1])


def _quoted(line: str, read_line: Callable[[str], str]) -> str:
    """Return the text up to three quotes at the end of a line, without an empty last line."""
    parts: list[str] = []
    while True:
        text = line.rstrip()
        is_last = text.endswith(QUOTES)
        text = text.removesuffix(QUOTES) if is_last else line
        if text or (parts and not is_last):
            parts.append(text)
        if is_last:
            return "\n".join(parts)
        try:
            line = read_line(MORE)
        except EOFError:
            return "\n".join(parts)


class PlainLines:
    """Lines of stdin; shows a prompt on a terminal only."""

    def read(self) -> str | None:
        """Return the next text."""
        return read_turn(lambda prompt: input(prompt if sys.stdin.isatty() else ""))


class EditedLines:
    """Lines with editing and a persistent history; Alt+Enter inserts a line break."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory

        from gguf_hub.cli.run.session import ALIASES, COMMANDS
        from gguf_hub.paths import data_dir

        folder = data_dir()
        folder.mkdir(parents=True, exist_ok=True)
        words = [*(name.split()[0] for name in COMMANDS), *ALIASES]
        self._session: Any = PromptSession(
            history=FileHistory(str(folder / "history")),
            completer=WordCompleter(words, sentence=True),
            complete_while_typing=False,
            enable_open_in_editor=True,
        )

    def read(self) -> str | None:
        """Return the next text."""
        return read_turn(self._session.prompt)


def open_lines(*, is_simple: bool = False) -> PlainLines | EditedLines:
    """Return the reader of input lines."""
    if is_simple or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PlainLines()
    try:
        return EditedLines()
    except ImportError:
        from gguf_hub.cli.console import note

        note("for line editing and history: `pip install 'gguf-hub[chat]'`")
        return PlainLines()
