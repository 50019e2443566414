"""The prompt of a command: from a flag, a file or stdin; and the options that give it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

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
                 help="Process escapes (\\n, \\t, …) in the prompt."),
    click.option("--no-display-prompt", is_flag=True, help="Print only the generated text."),
)  # fmt: skip
"""Add the options that ``read_prompt`` reads, and what is printed of it."""


def read_prompt(text: str | None, path: Path | None, *, escape: bool) -> str:
    r"""Return the prompt.

    Args:
        text: What ``-p`` says.
        path: What ``-f`` names; ``-`` is stdin. One newline at its end does not count.
        escape: Whether to resolve ``\\n``, ``\\t``, ``\\xNN`` and so on.

    Raises:
        UsageError: Both are given.
        GgufHubError: The file cannot be read.
    """
    if text is not None and path is not None:
        raise UsageError("-p and -f both give a prompt", hint="leave one of them out")
    if path is not None:
        text = read_text(path, "prompt")
    return unescape(text or "") if escape else (text or "")


def unescape(text: str) -> str:
    r"""Resolve ``\n \r \t \' \" \\ \xNN``; anything else after a backslash stays as it is."""

    def replace(match: re.Match[str]) -> str:
        what = match[1]
        if what[0] == "x" and len(what) > 1:
            return chr(int(what[1:], 16))
        return _ESCAPES.get(what, match[0])

    return _ESCAPE.sub(replace, text)


def read_text(path: Path, what: str) -> str:
    """Return the text of a file, or of stdin for ``-``; one newline at its end does not count.

    Raises:
        GgufHubError: It cannot be read.
    """
    what = what.replace("_", " ")
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as exc:
        raise GgufHubError(f"{what} file `{path}` is not UTF-8 text: {exc.reason}") from exc
    except OSError as exc:
        raise GgufHubError(f"cannot read {what} file `{path}`: {reason_of(exc)}") from exc
