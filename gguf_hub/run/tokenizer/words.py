"""Cutting a text into words: by the expressions of a pre-tokenizer, and what blanks are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import regex

_NO_BLANKS = frozenset("\x1c\x1d\x1e\x1f")
"""Python counts these controls among the blanks, Unicode does not."""


def is_blank(character: str) -> bool:
    """Tell whether Unicode calls a character a blank."""
    return character.isspace() and character not in _NO_BLANKS


def lowered(text: str) -> str:
    """Return a text in small letters, one for each; what several stand for becomes the first."""
    return "".join(character.lower()[0] for character in text)


class WordSplitter:
    """Cuts texts by each of some expressions in turn; all of a text is in some word.

    Args:
        expressions: In the syntax of ``regex``, none of which matches nothing.
    """

    def __init__(self, expressions: Iterable[str]) -> None:
        self._expressions = [regex.compile(f"({text})") for text in expressions]

    def split(self, text: str) -> Sequence[str]:
        """Return what the expressions match, and what lies between."""
        words = [text]
        for expression in self._expressions:
            words = [part for word in words for part in _cut(expression, word) if part]
        return words


def _cut(expression: regex.Pattern[str], text: str) -> list[str]:
    """Return gaps and matches in turn."""
    parts = expression.split(text)
    return parts[::-1] if expression.flags & regex.REVERSE else parts
