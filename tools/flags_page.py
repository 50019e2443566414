"""Write docs/flags.md from the commands: ``python tools/flags_page.py > docs/flags.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module

import click

from gguf_hub.cli.compatibility import IGNORED_OF, REFUSED_OF
from gguf_hub.cli.main import module_of

_HEAD = """# Flags

This page is made from the commands (`python tools/flags_page.py > docs/flags.md`). A flag

- **works** as in llama.cpp, or as described;
- is **ignored**: accepted, with a note, as it changes nothing here;
- is **refused**: an error that says what to do instead.

A dash means that the command does not know the flag, which is an error too. Underscores and dashes
are alike (`--repeat_penalty`). One dash and several letters are one flag (`-ngl`, `-fa`), never
several flags; a number may follow a letter (`-n8`).

## run and serve

A sampling flag of `serve` is the default of requests that do not name the setting. `-c` is the
context of each request, not of all slots together.

| Flag | run | serve | Meaning |
|---|---|---|---|
"""
_EMBED = """
## embed

It takes the arguments of llama-embedding.

| Flag | embed | Meaning |
|---|---|---|
"""
_DOWNLOAD = """
## download

It takes the arguments of `hf download` and `huggingface-cli download`.

| Flag | download | Meaning |
|---|---|---|
"""
_OLD = "of older versions of huggingface_hub: downloads are files, and always resume"

Names = tuple[str, ...]


def page() -> str:
    """Return the text of docs/flags.md."""
    tables = {_HEAD: ("run", "serve"), _EMBED: ("embed",), _DOWNLOAD: ("download",)}
    return "".join(head + "".join(_rows(*commands)) for head, commands in tables.items())


def _rows(*commands: str) -> Iterable[str]:
    """Yield a row for each flag that one of the commands has or refuses."""
    tables = [_table(command) for command in commands]
    seen: set[str] = set()
    for names in sorted({names: None for table in tables for names in table}, key=_order(tables)):
        if seen.isdisjoint(names):
            seen.update(names)
            found = [_find(names, table) for table in tables]
            states = [state for state, _ in found]
            yield f"| {_flags(names)} | {' | '.join(states)} | {_meaning(commands, found)} |\n"


def _order(tables: list[dict[Names, tuple[str, str]]]) -> Callable[[Names], int]:
    """Return the key that puts what works in front, then what is ignored, then what is refused."""
    states = ["works", "ignored", "refused"]
    return lambda names: min(states.index(table[names][0]) for table in tables if names in table)


def _table(command: str) -> dict[Names, tuple[str, str]]:
    """Return the flags of a command, each with its state and what it means."""
    found: click.Command = import_module(module_of(command)).command
    options = [each for each in found.params if isinstance(each, click.Option)]
    shown = [each for each in options if not each.hidden]
    table = {(*each.opts, *each.secondary_opts): ("works", each.help or "") for each in shown}
    for flag in IGNORED_OF.get(command, ()):
        table[flag.names] = "ignored", f"changes nothing: {flag.reason}"
    if command not in IGNORED_OF:
        table |= {tuple(each.opts): ("ignored", _OLD) for each in options if each.hidden}
    return table | {names: ("refused", hint) for names, hint in REFUSED_OF[command].items()}


def _find(names: Names, table: dict[Names, tuple[str, str]]) -> tuple[str, str]:
    """Return the state of a flag in a command, which may group it with others."""
    matches = [value for others, value in table.items() if set(names) & set(others)]
    return matches[0] if matches else ("-", "")


def _meaning(commands: Sequence[str], found: list[tuple[str, str]]) -> str:
    texts = [text.replace("|", "\\|") for _, text in found]
    texts = [text.replace("  [default: ", " Default: ").rstrip("].") for text in texts]
    known = [(command, text) for command, text in zip(commands, texts, strict=True) if text]
    if len({text for _, text in known}) == 1:
        return f"{known[0][1][0].upper()}{known[0][1][1:]}."
    return " ".join(f"`{command}`: {_lowered(text)}." for command, text in known)


def _lowered(text: str) -> str:
    """Return text that goes on in a sentence; abbreviations keep their capitals."""
    return text if text[1:2].isupper() else text[0].lower() + text[1:]


def _flags(names: Names) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(page(), end="")
