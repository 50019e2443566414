"""``--cluster``: which cluster is meant."""

from __future__ import annotations

import re

from gguf_hub.errors import UsageError

_LOCAL = re.compile(r"local:([1-9]\d?)")
_ADDRESS = re.compile(r"(?P<host>[\w.-]+|\[[\da-fA-F:]+\]):(?P<port>\d{1,5})")


def parse_address(text: str) -> tuple[str, int]:
    """Return the host and the port of ``HOST:PORT``.

    Raises:
        UsageError: It is none.
    """
    match = _ADDRESS.fullmatch(text)
    if not match or not 0 < int(match["port"]) < 65536:
        raise UsageError(
            f"cluster `{text}`: expected HOST:PORT, `auto` or `local:N`",
            hint="`gguf-hub cluster up` prints the address",
        )
    return match["host"].strip("[]"), int(match["port"])


def is_local(text: str) -> bool:
    """Return whether processes of this machine are meant."""
    return _LOCAL.fullmatch(text) is not None


def check_address(text: str) -> None:
    """Refuse what names no cluster, before anything is opened.

    Raises:
        UsageError: It is none.
    """
    if text != "auto" and not is_local(text):
        parse_address(text)
