"""The keys of a server: where they come from, what they may be, whether a request has one."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from gguf_hub.errors import UsageError

VARIABLE = "GGUF_HUB_API_KEY"
_HINT = "leave the option out for a server without a key"


class ApiKeys:
    """Keys of which a request must have one; without any, the server is open.

    Args:
        keys: The keys as they are.

    Raises:
        UsageError: A key is empty, or has blanks or control characters.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        found = _checked("API key", list(keys))
        self._digests = [hashlib.sha256(key.encode()).digest() for key in found]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def has(self, authorization: str, x_api_key: str) -> bool:
        """Tell whether one of two headers, decoded as Latin-1, has a key."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            given = x_api_key
        digest = hashlib.sha256(given.strip(" \t").encode("latin-1", errors="replace")).digest()
        # every key is compared, and digests are of one length, so that the time tells nothing
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


def read_keys(
    options: Iterable[str], file: Path | None, environment: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the keys that a server was started with; the environment counts without options.

    Args:
        options: Values of ``--api-key``, each one key or several with commas between them.
        file: Value of ``--api-key-file``: one key a line.
        environment: Where ``GGUF_HUB_API_KEY`` is one key or several, too.

    Raises:
        UsageError: A key is empty, or has blanks or control characters; or there is none in a
            place that was named for them.
    """
    keys = [key for value in options for key in _split("--api-key", value)]
    if file is not None:
        keys += _lines(file)
    if not keys and VARIABLE in environment:
        keys = _split(VARIABLE, environment[VARIABLE])
    return tuple(keys)


def _split(source: str, value: str) -> list[str]:
    return _checked(source, [key.strip() for key in value.split(",")])


def _lines(file: Path) -> list[str]:
    source = f"--api-key-file {file}"
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "not UTF-8"
        raise UsageError(f"`{source}`: cannot be read: {reason.lower()}") from exc
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys:
        raise UsageError(f"`{source}`: expected one key per line, found none", hint=_HINT)
    return _checked(source, keys)


def _checked(source: str, keys: list[str]) -> list[str]:
    for i, key in enumerate(keys, 1):
        which = f"`{source}`" if len(keys) == 1 else f"`{source}`, key {i} of {len(keys)}"
        if not key:
            raise UsageError(f"{which}: expected a key, found an empty text", hint=_HINT)
        if not key.isprintable() or any(map(str.isspace, key)):
            raise UsageError(
                f"{which}: the key has a blank or a control character",
                hint="several keys have commas between them",
            )
    return keys
