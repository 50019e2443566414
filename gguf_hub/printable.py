r"""Text from files, hubs and users as a terminal may see it.

Names, keys and messages of a downloaded file can hold escape sequences that move the cursor, set
the window's title or hide what follows, and bytes that are no text at all. Here they become
visible escapes: ``\x1b``, ``\u202e``, ``\xff``.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

LAYOUT = "\n\t"
"""What lays out a text of several lines and does nothing else."""
_CONTROLS = "\x00-\x1f\x7f-\x9f"
# what is not seen and may reorder or hide its neighbours, without the joiners that scripts need;
# line and paragraph separators; ends of pairs that no encoding has
_MARKS = "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_TAGS = "\U000e0000-\U000e007f"
_SURROGATES = "\ud800-\udfff"
_UNSAFE = f"{_CONTROLS}{_MARKS}{_TAGS}{_SURROGATES}"
_UNSAFE_IN_JSON = f"\x7f-\x9f{_MARKS}{_TAGS}{_SURROGATES}"
_unsafe = re.compile(f"[{_UNSAFE}]")
_unsafe_in_json = re.compile(f"[{_UNSAFE_IN_JSON}]")


def printable(text: str, keep: str = "") -> str:
    """Return text with everything escaped that steers a terminal or that no encoding holds.

    Args:
        text: Text; surrogates stand for bytes that are not UTF-8.
        keep: Characters to leave as they are, ``LAYOUT`` for a text of several lines.
    """
    if text.isprintable() or not _unsafe.search(text):
        return text
    return text.translate(_table(keep))


def printable_text(text: str) -> str:
    """Return text of a model with its control characters escaped, the marks of scripts kept."""
    return printable(text, keep=LAYOUT + _all_of(_MARKS))


def json_printable(document: str) -> str:
    """Return JSON with those characters escaped, as JSON does, that ``json.dumps`` leaves."""
    if document.isascii() and "\x7f" not in document:
        return document
    return document.translate(_json_table()) if _unsafe_in_json.search(document) else document


@lru_cache
def _json_table() -> dict[int, str]:
    chars = _all_of(_UNSAFE_IN_JSON)
    return {ord(char): json.dumps(char)[1:-1] for char in chars}


@lru_cache
def _table(keep: str) -> dict[int, str]:
    return {ord(char): _escape(char) for char in _all_of(_UNSAFE) if char not in keep}


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return repr(char)[1:-1]


def _all_of(ranges: str) -> str:
    """Return every character of a regular expression's class."""

    def span(match: re.Match[str]) -> str:
        """Write out all characters of a range."""
        return "".join(map(chr, range(ord(match[1]), ord(match[2]) + 1)))

    return re.sub("(.)-(.)", span, ranges, flags=re.DOTALL)
