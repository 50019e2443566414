"""Regular expressions read into trees, without backtracking.

The syntax is what ECMA 262 and Python have in common. What either of them reads in another way, and
back-references, which no automaton can follow, are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from gguf_hub.budget import spend
from gguf_hub.run.grammar.gbnf import Alt, Ranges, Repeat, Seq, normalise

_MAX_DEPTH = 100
_MAX_DIGITS = 10
_NODE_BYTES = 200
_ESCAPES = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "0": 0x00}
_HEX_DIGITS = {"x": 2, "u": 4}
_LETTERS = frozenset("dDwWsS")
_SIGNS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class PatternError(Exception):
    """A regular expression that is wrong or not supported."""


@dataclass(frozen=True, slots=True)
class CharSet:
    r"""One character.

    Attributes:
        ranges: Code points.
        letters: Classes that belong to it as well, by their letters: ``d`` for ``\d``, ``.``.
        is_negated: Whether it is any other character.
    """

    ranges: Ranges
    letters: str = ""
    is_negated: bool = False


@dataclass(frozen=True, slots=True)
class Anchor:
    r"""A position: ``^``, ``$``, ``b`` at a word boundary, ``B`` elsewhere."""

    kind: str


@dataclass(frozen=True, slots=True)
class Look:
    """A lookahead or lookbehind."""

    item: Pattern
    is_ahead: bool
    is_negated: bool


Pattern: TypeAlias = "CharSet | Anchor | Look | Seq[Pattern] | Alt[Pattern] | Repeat[Pattern]"

_GROUPS = {"(?:": None, "(?=": (True, False), "(?!": (True, True), "(?<=": (False, False),
           "(?<!": (False, True)}  # fmt: skip
"""Beginning of a group -> (is ahead, is negated), None for a plain group."""


def read_pattern(text: str) -> Pattern:
    """Return the tree of a regular expression.

    Raises:
        PatternError: It is wrong, or uses what an automaton cannot follow.
    """
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def read(self) -> Pattern:
        tree = self._alternatives()
        if self._at < len(self._text):
            raise PatternError("it is no regular expression: `)` without `(`")
        return tree

    # Small steps

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        is_match = self._text.startswith(text, self._at)
        self._at += len(text) if is_match else 0
        return is_match

    def _digits(self) -> str:
        start = self._at
        while self._peek() in _DIGITS:
            self._at += 1
        return self._text[start : self._at]

    def _refuse(self, text: str) -> NoReturn:
        raise PatternError(f"`{text}` is not supported")

    # Parts

    def _alternatives(self) -> Pattern:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _sequence(self) -> Pattern:
        items = []
        while self._peek() not in ("", "|", ")"):
            spend(_NODE_BYTES)
            items.append(self._repeated(self._atom()))
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def _atom(self) -> Pattern:
        char = self._peek()
        if char == "(":
            return self._group()
        self._at += 1
        if char == "[":
            return self._class()
        if char == ".":
            return CharSet((), ".")
        if char in "^$":
            return Anchor(char)
        if char == "\\":
            return self._escape()
        if char in _SIGNS or (char == "{" and self._peek() in (*_DIGITS, ",")):
            raise PatternError(f"`{char}` is not supported at this place")
        return CharSet(((ord(char), ord(char)),))

    def _group(self) -> Pattern:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise PatternError(f"groups are nested more than {_MAX_DEPTH} deep")
        start = self._at
        opening = next((text for text in _GROUPS if self._take(text)), "(")
        if opening == "(" and self._text.startswith("(?", start):
            raise PatternError("groups that have names or flags are not supported")
        self._at += opening == "("
        item = self._alternatives()
        if not self._take(")"):
            raise PatternError("it is no regular expression: a group does not end")
        self._depth -= 1
        look = _GROUPS.get(opening)
        return Seq((item,)) if look is None else Look(item, *look)

    def _repeated(self, item: Pattern) -> Pattern:
        counts = self._counts()
        if counts is None:
            return item
        if isinstance(item, (Anchor, Look)):
            raise PatternError("a repetition is not supported at this place")
        self._take("?")  # lazy: the same texts
        if self._peek() in _SIGNS or (self._peek() == "{" and self._counts() is not None):
            raise PatternError("a repetition of a repetition is not supported")
        return Repeat(item, *counts)

    def _counts(self) -> tuple[int, int | None] | None:
        """Return how often the item before is repeated, None when it is not."""
        if self._peek() in _SIGNS:
            self._at += 1
            return _SIGNS[self._text[self._at - 1]]
        start = self._at
        if not self._take("{"):
            return None
        low = self._digits()
        is_range = self._take(",")
        high = self._digits() if is_range else low
        if not low or not self._take("}"):
            self._at = start
            return None
        if max(len(low), len(high)) > _MAX_DIGITS:
            raise PatternError("a count is too large")
        counts = int(low), int(high) if high else None
        if counts[1] is not None and counts[1] < counts[0]:
            raise PatternError("it is no regular expression: a count runs backwards")
        return counts

    def _escape(self) -> Pattern:
        if self._peek() in ("b", "B"):
            self._at += 1
            return Anchor(self._text[self._at - 1])
        return self._escaped()

    def _escaped(self) -> CharSet:
        """Return the characters of an escape outside or inside a class."""
        kind = self._peek()
        self._at += 1
        if kind in _LETTERS:
            return CharSet((), kind)
        if kind in _ESCAPES and not (kind == "0" and self._peek() in _DIGITS):
            return CharSet(((_ESCAPES[kind], _ESCAPES[kind]),))
        if kind in _HEX_DIGITS:
            code = self._text[self._at : self._at + _HEX_DIGITS[kind]]
            if len(code) == _HEX_DIGITS[kind] and all(c in _HEX for c in code):
                self._at += len(code)
                return CharSet(((int(code, 16), int(code, 16)),))
        if not kind or kind.isalnum():
            self._refuse(f"\\{kind}")
        return CharSet(((ord(kind), ord(kind)),))

    def _class(self) -> CharSet:
        is_negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        letters: set[str] = set()
        is_first = True
        while is_first or not self._take("]"):
            is_first = False
            spend(_NODE_BYTES)
            low = self._class_char()
            if self._peek() == "-" and not self._text.startswith("-]", self._at):
                self._at += 1
                low = _between(low, self._class_char())
            ranges += low.ranges
            letters.update(low.letters)
        return CharSet(normalise(ranges), "".join(sorted(letters)), is_negated)

    def _class_char(self) -> CharSet:
        char = self._peek()
        self._at += 1
        if char == "\\":
            if self._take("b"):
                return CharSet(((0x08, 0x08),))
            return self._escaped()
        if not char:
            raise PatternError("it is no regular expression: a class does not end")
        return CharSet(((ord(char), ord(char)),))


_DIGITS = tuple("0123456789")
_HEX = frozenset("0123456789abcdefABCDEF")


def _between(low: CharSet, high: CharSet) -> CharSet:
    if low.letters or high.letters:
        raise PatternError("a class in a range is not supported")
    first, last = low.ranges[0][0], high.ranges[0][0]
    if last < first:
        raise PatternError("it is no regular expression: a range runs backwards")
    return CharSet(((first, last),))
