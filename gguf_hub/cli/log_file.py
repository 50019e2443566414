"""``--log-file``: messages in a file as well.

The file gets what stderr gets, but for progress bars, without colours. One that is there is added
to, if it begins as ours do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import click

_HEAD = "# gguf-hub log\n"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_file: TextIO | None = None


def _begin(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    """Open the file before other options are checked, so that their errors are in it."""
    if value is not None and not ctx.resilient_parsing:
        open_log(value)


log_file_option = click.option(
    "--log-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_begin,
    help="Write messages to this file, too; a log that is there is added to.",
)


def open_log(path: Path) -> None:
    """Write messages to a file from now on.

    Raises:
        GgufHubError: Something else is there, or it cannot be written.
    """
    from gguf_hub.errors import GgufHubError
    from gguf_hub.files import require_ours
    from gguf_hub.oserrors import reason_of

    global _file
    close_log()
    require_ours(path, "a log", lambda head: head.startswith(_HEAD.encode()))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK, 0o666)
    except OSError as exc:
        raise GgufHubError(f"cannot write the log `{path}`: {reason_of(exc)}") from exc
    _file = os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")
    if os.fstat(descriptor).st_size == 0:
        write_log(_HEAD.rstrip())


def write_log(text: str) -> None:
    """Add lines to the log, if there is one."""
    if _file is not None:
        _file.write(f"{text}\n")
        _file.flush()


def add_records(names: Sequence[str]) -> None:
    """Add what these loggers report to the log, if there is one."""
    if _file is not None:
        handler = logging.StreamHandler(_file)
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        for name in names:
            logging.getLogger(name).addHandler(handler)


def close_log(*_: Any) -> None:
    """Write messages to stderr alone again."""
    global _file
    if _file is not None:
        _file.close()
        _file = None
