r"""Regular expressions as grammar trees.

They are read as ECMA 262 and Python agree on them: ``\d`` and ``\w`` mean ASCII, and their
opposites other ASCII characters, so that what is written matches in either.
"""

from __future__ import annotations

import re

from gguf_hub.grammar.gbnf import Chars, Literal, Node, Ranges, complement, normalise
from gguf_hub.grammar.trees import EMPTY, alt, repeat, seq, subtract

_ASCII: Ranges = ((0x00, 0x7F),)
_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
_CLASSES = {
    "d": _DIGITS, "w": _WORD, "s": _SPACE, "D": subtract(_ASCII, _DIGITS),
    "W": subtract(_ASCII, _WORD), "S": subtract(_ASCII, _SPACE),
}  # fmt: skip
_ESCAPES = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "0": 0x00}
_ANY = complement(())
_DOT = complement(((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)))


class PatternError(Exception):
    """A regular expression that a grammar cannot follow."""


def parse_pattern(pattern: str) -> Node:
    """Return the tree of the texts in which a pattern is found (searched, not matched whole).

    Raises:
        PatternError: The pattern uses what a grammar cannot follow.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as exc:
        raise PatternError(f"it is no regular expression: {exc}") from exc
    return _Pattern(pattern).whole()


class _Pattern:
    """Reads a regular expression, position by position."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0

    def whole(self) -> Node:
        options = [self._anchored()]
        while self._take("|"):
            options.append(self._anchored())
        if self._at < len(self._text):
            raise PatternError(f"`{self._text[self._at :][:20]}` is not supported")
        return alt(*options)

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _anchored(self) -> Node:
        """Return one alternative of the whole, with any text where no anchor stands."""
        anything = repeat(Chars(_ANY), 0, None)
        before = EMPTY if self._take("^") else anything
        inner = self._sequence()
        after = EMPTY if self._take("$") else anything
        return seq(before, inner, after)

    def _sequence(self) -> Node:
        items = []
        while self._at < len(self._text) and self._text[self._at] not in "|)$":
            items.append(self._repeated(self._atom()))
        return seq(*items)

    def _atom(self) -> Node:
        char = self._text[self._at]
        self._at += 1
        if char == "(":
            return self._group()
        if char == "[":
            return Chars(self._class())
        if char == ".":
            return Chars(_DOT)
        if char == "\\":
            return Chars(self._escape())
        if char in "^*+?{":
            raise PatternError(f"`{char}` is not supported at this place")
        return Literal(char)

    def _group(self) -> Node:
        if self._take("?") and not self._take(":"):
            raise PatternError("groups that look ahead or behind, or have names or flags, are "
                               "not supported")  # fmt: skip
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        if not self._take(")"):
            raise PatternError("an anchor inside a group is not supported")
        return alt(*options)

    def _repeated(self, item: Node) -> Node:
        counts: tuple[int, int | None]
        if self._take("*"):
            counts = (0, None)
        elif self._take("+"):
            counts = (1, None)
        elif self._take("?"):
            counts = (0, 1)
        else:
            match = re.compile(r"\{(\d+)(,?)(\d*)\}").match(self._text, self._at)
            if match is None:
                return item
            self._at = match.end()
            low = int(match[1])
            counts = (low, (int(match[3]) if match[3] else None) if match[2] else low)
        self._take("?")  # lazy: the same texts
        if self._text[self._at : self._at + 1] in ("*", "+", "{"):
            raise PatternError("a repetition of a repetition is not supported")
        return repeat(item, *counts)

    def _escape(self) -> Ranges:
        """Return the characters of an escape outside or inside a class."""
        kind = self._text[self._at : self._at + 1]
        self._at += 1
        if kind in _CLASSES:
            return _CLASSES[kind]
        if kind in _ESCAPES:
            return ((_ESCAPES[kind], _ESCAPES[kind]),)
        for letter, digits in (("x", 2), ("u", 4)):
            code = self._text[self._at : self._at + digits]
            if kind == letter and re.fullmatch(rf"[0-9A-Fa-f]{{{digits}}}", code):
                self._at += digits
                return ((int(code, 16), int(code, 16)),)
        if not kind or kind.isalnum():
            raise PatternError(f"`\\{kind}` is not supported")
        return ((ord(kind), ord(kind)),)

    def _class(self) -> Ranges:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        is_set = False  # holds \d, \w or \s, whose meaning beyond ASCII differs
        first = True
        while first or not self._take("]"):
            first = False
            low = self._class_char()
            is_set = is_set or low in _CLASSES.values()
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = self._class_char()
                if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1]:
                    raise PatternError("a class in a range is not supported")
                low = ((low[0][0], high[0][1]),)
            ranges += low
        known = normalise(ranges)
        if not negated:
            return known
        return subtract(_ASCII, known) if is_set else complement(known)

    def _class_char(self) -> Ranges:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        if char == "\\":
            if self._take("b"):
                return ((0x08, 0x08),)
            return self._escape()
        if not char:
            raise PatternError("a class does not end")
        return ((ord(char), ord(char)),)
