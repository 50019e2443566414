"""API keys: reading them at startup, and checking requests for them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from gguf_hub.errors import UsageError
from gguf_hub.oserrors import reason_of

VARIABLE, LLAMA_VARIABLE = "GGUF_HUB_API_KEY", "LLAMA_API_KEY"
"""Ours, and llama-server's."""
_HINT = "to serve without a key, leave it out"


class ApiKeys:
    """API keys, one of which each request must have; without any, the server is open.

    Args:
        keys: The keys.

    Raises:
        UsageError: A key is empty, or contains whitespace or control characters.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        checked_keys = _check("API key", list(keys))
        self._digests = [hashlib.sha256(key.encode()).digest() for key in checked_keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def has(self, authorization: str, x_api_key: str) -> bool:
        """Return whether one of two headers, decoded as Latin-1, holds a key."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            key = x_api_key
        digest = hashlib.sha256(key.strip(" \t").encode("latin-1", errors="replace")).digest()
        # constant time: every key is compared, and all digests have the same length
        matches = [hmac.compare_digest(digest, expected) for expected in self._digests]
        return any(matches)


def read_keys(
    options: Iterable[str], file: Path | None, environment: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the API keys of a server; the environment counts only without options.

    Args:
        options: Values of ``--api-key``: comma-separated lists.
        file: Value of ``--api-key-file``: one key per line, or a comment that begins with ``#``.
        environment: May hold ``GGUF_HUB_API_KEY`` or ``LLAMA_API_KEY``, a comma-separated list.

    Raises:
        UsageError: A key is empty, or contains whitespace or control characters; or the file
            holds no key.
    """
    keys = [key for value in options for key in _split("--api-key", value)]
    if file is not None:
        keys += _read_lines(file)
    for variable in (VARIABLE, LLAMA_VARIABLE):
        if not keys and variable in environment:
            keys = _split(variable, environment[variable])
    return tuple(keys)


def _split(source: str, value: str) -> list[str]:
    return _check(source, [key.strip() for key in value.split(",")])


def _read_lines(file: Path) -> list[str]:
    source = f"--api-key-file {file}"
    try:
        text = file.read_text("utf-8")
    except OSError as exc:
        raise UsageError(f"`{source}`: cannot be read: {reason_of(exc)}") from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"`{source}`: cannot be read: not UTF-8") from exc
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"`{source}`: expected one key per line, found none", hint=_HINT)
    return _check(source, keys)


def _check(source: str, keys: list[str]) -> list[str]:
    for i, key in enumerate(keys, 1):
        label = f"`{source}`" if len(keys) == 1 else f"`{source}`, key {i} of {len(keys)}"
        if not key:
            raise UsageError(f"{label}: the key is empty", hint=_HINT)
        if not key.isprintable() or any(map(str.isspace, key)):
            raise UsageError(
                f"{label}: the key contains whitespace or a control character",
                hint="separate several keys with commas",
            )
    return keys
