"""Texts searched from their end, in time that grows with their lengths.

CPython's ``rfind`` and its kin take the product of the lengths (``find`` does not), a minute for a
text that a template makes of two short ones. Here the mirror of a text is searched from its start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def rfind(text: str, part: str, start: Any = None, end: Any = None) -> int:
    """Return what ``str.rfind`` returns."""
    first, last, _ = slice(start, end).indices(len(text))
    if (start is not None and start > len(text)) or last - first < len(part):
        return -1
    inside = text[first:last]
    at = inside[::-1].find(part[::-1])
    return -1 if at < 0 else first + len(inside) - at - len(part)


def rindex(text: str, part: str, start: Any = None, end: Any = None) -> int:
    """Return what ``str.rindex`` returns."""
    at = rfind(text, part, start, end)
    if at < 0:
        raise ValueError("substring not found")
    return at


def rpartition(text: str, separator: str) -> tuple[str, str, str]:
    """Return what ``str.rpartition`` returns."""
    tail, match, head = text[::-1].partition(separator[::-1])
    return (head[::-1], separator, tail[::-1]) if match else ("", "", text)


def rsplit(text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    """Return what ``str.rsplit`` returns."""
    if sep is None:
        return text.rsplit(None, maxsplit)
    parts = text[::-1].split(sep[::-1], maxsplit)
    return [part[::-1] for part in reversed(parts)]


FROM_THE_END: dict[str, Callable[..., Any]] = {
    "rfind": rfind, "rindex": rindex, "rpartition": rpartition, "rsplit": rsplit,
}  # fmt: skip
"""Method of ``str`` -> what to call instead."""
