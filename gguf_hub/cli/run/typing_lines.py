"""Lines that people type: with editing and history where prompt_toolkit is (extra ``chat``)."""

from __future__ import annotations

import sys
from typing import Any

PROMPT = "> "


class PlainLines:
    """Lines of stdin; a prompt is shown on a terminal alone."""

    def read(self) -> str | None:
        """Return the next text: a line, and those after it as long as they end with a backslash."""
        parts: list[str] = []
        while True:
            try:
                line = input(PROMPT if sys.stdin.isatty() else "")
            except EOFError:
                return "\n".join(parts) if parts else None
            if not line.endswith("\\"):
                return "\n".join([*parts, line])
            parts.append(line[:-1])


class EditedLines:
    """Lines with editing and a history that lasts; Alt+Enter is a line break."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory

        from gguf_hub.cli.run.session import COMMANDS
        from gguf_hub.paths import data_dir

        folder = data_dir()
        folder.mkdir(parents=True, exist_ok=True)
        words = [name.split()[0] for name in COMMANDS]
        self._session: Any = PromptSession(
            history=FileHistory(str(folder / "history")),
            completer=WordCompleter(words, sentence=True),
            complete_while_typing=False,
            enable_open_in_editor=True,
        )

    def read(self) -> str | None:
        """Return the next text."""
        parts: list[str] = []
        while True:
            try:
                line: str = self._session.prompt(PROMPT)
            except EOFError:
                return "\n".join(parts) if parts else None
            if not line.endswith("\\"):
                return "\n".join([*parts, line])
            parts.append(line[:-1])


def open_lines(*, is_simple: bool = False) -> PlainLines | EditedLines:
    """Return what reads lines here."""
    if is_simple or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PlainLines()
    try:
        return EditedLines()
    except ImportError:
        from gguf_hub.cli.console import note

        note("for line editing and history: `pip install 'gguf-hub[chat]'`")
        return PlainLines()
