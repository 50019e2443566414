"""The prompt of a command: from a flag, a file or stdin."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from gguf_hub.cli.options import together
from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.oserrors import reason_of

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "'": "'", '"': '"', "\\": "\\"}
prompt_options = together(
    click.option("-p", "--prompt", metavar="TEXT", help="Prompt to start from."),
    click.option("-f", "--file", "prompt_file", type=click.Path(path_type=Path), metavar="FILE",
                 help="Read the prompt from a file; `-` is stdin."),
    click.option("-e", "--escape/--no-escape", default=True, show_default=True,
                 help="Process escapes (\\n, \\t, ...) in the prompt."),
    click.option("--no-display-prompt", is_flag=True, help="Print only the generated text."),
)  # fmt: skip
"""Add the options that ``read_prompt`` reads, and --no-display-prompt."""
_STDIN = Path("-")


def read_prompt(options: dict[str, Any], *, may_be_piped: bool) -> str:
    """Return the prompt; empty where none is given.

    Args:
        options: Those of ``prompt_options``, and ``message``, the argument after MODEL.
        may_be_piped: Read stdin if the options have no prompt and it is not a terminal.

    Raises:
        UsageError: The options have two prompts.
        GgufHubError: The file cannot be read.
    """
    sources = {"-p": options["prompt"], "PROMPT": options["message"], "-f": options["prompt_file"]}
    names = [name for name, value in sources.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{names[0]} and {names[1]} both give a prompt", hint="drop one of them")
    text, path = options["prompt"] or options["message"] or "", options["prompt_file"]
    if path is None and not names and may_be_piped and sys.stdin and not sys.stdin.isatty():
        path = _STDIN
    if path is not None:
        text = read_text(path, "prompt")
    return unescape(text) if options["escape"] else text


def is_on_terminal() -> bool:
    """Return whether stdin and stdout are a terminal."""
    return all(stream and stream.isatty() for stream in (sys.stdin, sys.stdout))


def unescape(text: str) -> str:
    r"""Resolve ``\n \r \t \' \" \\ \xNN``; anything else after a backslash stays as it is."""

    def replace(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "x" and len(code) > 1:
            return chr(int(code[1:], 16))
        return _ESCAPES.get(code, match[0])

    return _ESCAPE.sub(replace, text)


def read_text(path: Path, kind: str) -> str:
    """Return the text of a file, or of stdin for ``-``, without one final newline.

    Raises:
        GgufHubError: It cannot be read.
    """
    kind = kind.replace("_", " ")
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as exc:
        raise GgufHubError(f"{kind} file `{path}` is not UTF-8 text: {exc.reason}") from exc
    except OSError as exc:
        raise GgufHubError(f"cannot read {kind} file `{path}`: {reason_of(exc)}") from exc
