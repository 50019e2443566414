"""Regular expressions read into trees, without backtracking.

The syntax and the meaning are ECMAScript's with the flag ``u``, as JSON Schema recommends; what
it would refuse there and tolerate without the flag (``]``, escapes of punctuation) is tolerated.
Back-references, which no automaton can follow, and flags are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from gguf_hub.budget import look, spend
from gguf_hub.run.grammar.charclasses import LETTERS, unicode_property
from gguf_hub.run.grammar.gbnf import Alt, Chars, Repeat, Seq, complement, normalise

_MAX_DEPTH = 100
_MAX_DIGITS = 10
_NODE_BYTES = 200
_ESCAPES = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "0": 0x00}
_HEX_DIGITS = {"x": 2, "u": 4}
_SIGNS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class PatternError(Exception):
    """A regular expression that is not supported."""


class InvalidPatternError(PatternError):
    """What is no regular expression to anybody."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"it is no regular expression: {problem}")


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


Pattern: TypeAlias = "Chars | Anchor | Look | Seq[Pattern] | Alt[Pattern] | Repeat[Pattern]"

_GROUPS = {"(?:": None, "(?=": (True, False), "(?!": (True, True), "(?<=": (False, False),
           "(?<!": (False, True)}  # fmt: skip
"""Beginning of a group -> (is ahead, is negated), None for a plain group."""


def read_pattern(text: str) -> Pattern:
    """Return the tree of a regular expression.

    Raises:
        InvalidPatternError: It is none.
        PatternError: It uses what an automaton cannot follow.
    """
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._names: set[str] = set()

    def read(self) -> Pattern:
        tree = self._alternatives()
        if self._at < len(self._text):
            raise InvalidPatternError("`)` without `(`")
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
            return Chars(LETTERS["."])
        if char in "^$":
            return Anchor(char)
        if char == "\\":
            return self._escape()
        if char in _SIGNS:
            raise InvalidPatternError(f"`{char}` repeats nothing")
        if char == "{" and self._peek() in (*_DIGITS, ","):
            raise PatternError(f"`{char}` is not supported at this place")
        return _char(ord(char))

    def _group(self) -> Pattern:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise PatternError(f"groups are nested more than {_MAX_DEPTH} deep")
        start = self._at
        opening = next((text for text in _GROUPS if self._take(text)), "(")
        self._at += opening == "("
        if opening == "(" and self._take("?"):
            self._take_name(start)
        item = self._alternatives()
        if not self._take(")"):
            raise InvalidPatternError("a group does not end")
        self._depth -= 1
        look = _GROUPS.get(opening)
        return Seq((item,)) if look is None else Look(item, *look)

    def _take_name(self, start: int) -> None:
        """Take ``<name>`` of a group."""
        end = self._text.find(">", self._at)
        if not self._take("<") or end < 0:
            raise PatternError(f"`{self._text[start : start + 4]}` (flags of a group)")
        name = self._text[self._at : end]
        if not name.replace("$", "_").isidentifier():
            raise InvalidPatternError(f"`{name[:40]}` is no name of a group")
        if name in self._names:
            raise InvalidPatternError(f"two groups are called `{name}`")
        self._names.add(name)
        self._at = end + 1

    def _repeated(self, item: Pattern) -> Pattern:
        counts = self._counts()
        if counts is None:
            return item
        if isinstance(item, (Anchor, Look)):
            raise InvalidPatternError("a repetition of a position, not of a character")
        self._take("?")  # lazy: the same texts
        if self._peek() in _SIGNS or (self._peek() == "{" and self._counts() is not None):
            raise InvalidPatternError("a repetition of a repetition")
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
            raise InvalidPatternError("a count runs backwards")
        return counts

    def _escape(self) -> Pattern:
        if self._peek() in ("b", "B"):
            self._at += 1
            return Anchor(self._text[self._at - 1])
        return self._escaped()

    def _escaped(self) -> Chars:
        """Return the characters of an escape outside or inside a class."""
        kind = self._peek()
        if not kind:
            raise InvalidPatternError(r"nothing after the last `\`")
        self._at += 1
        if kind in LETTERS and kind != ".":
            return Chars(LETTERS[kind])
        if kind in "pP":
            return self._property(is_negated=kind == "P")
        if kind in _ESCAPES and not (kind == "0" and self._peek() in _DIGITS):
            return _char(_ESCAPES[kind])
        if kind == "c" and self._peek() in _ALPHABET:
            self._at += 1
            return _char(ord(self._text[self._at - 1]) % 32)
        if kind in _HEX_DIGITS:
            return _char(self._code_point(kind))
        if kind.isalnum():
            self._refuse(f"\\{kind}")
        return _char(ord(kind))

    def _code_point(self, kind: str) -> int:
        r"""Return the number of ``\xHH``, ``\uHHHH`` (or two that make a pair) or ``\u{H...}``."""
        if kind == "u" and self._take("{"):
            digits, closing, _ = self._text[self._at :][:10].partition("}")
            if not closing or not digits or any(c not in _HEX for c in digits):
                raise InvalidPatternError(r"expected hex digits in `\u{...}`")
            self._at += len(digits) + 1
            if int(digits, 16) > 0x10FFFF:
                raise InvalidPatternError(f"no character has the number {digits}")
            return int(digits, 16)
        code = self._hex(_HEX_DIGITS[kind])
        if code is None:
            self._refuse(f"\\{kind}")
        if kind == "u" and 0xD800 <= code < 0xDC00 and self._take("\\u"):
            low = self._hex(4)
            if low is not None and 0xDC00 <= low < 0xE000:
                return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            raise PatternError("half of a surrogate pair")
        return code

    def _hex(self, n_digits: int) -> int | None:
        digits = self._text[self._at : self._at + n_digits]
        if len(digits) < n_digits or any(c not in _HEX for c in digits):
            return None
        self._at += n_digits
        return int(digits, 16)

    def _property(self, *, is_negated: bool) -> Chars:
        end = self._text.find("}", self._at)
        if not self._take("{") or end < 0:
            raise InvalidPatternError(r"expected `{...}` after `\p`")
        name, self._at = self._text[self._at : end], end + 1
        ranges = unicode_property(name)
        look()
        if ranges is None:
            self._refuse(f"\\p{{{name[:40]}}}")
        return Chars(complement(ranges) if is_negated else ranges)

    def _class(self) -> Chars:
        is_negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            spend(_NODE_BYTES)
            low = self._class_char()
            if self._peek() == "-" and not self._text.startswith("-]", self._at):
                self._at += 1
                low = _between(low, self._class_char())
            ranges += low.ranges
        known = normalise(ranges)
        return Chars(complement(known) if is_negated else known)

    def _class_char(self) -> Chars:
        char = self._peek()
        self._at += 1
        if char == "\\":
            return _char(0x08) if self._take("b") else self._escaped()
        if not char:
            raise InvalidPatternError("a class does not end")
        return _char(ord(char))


_DIGITS = tuple("0123456789")
_HEX = frozenset("0123456789abcdefABCDEF")
_ALPHABET = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _char(code: int) -> Chars:
    return Chars(((code, code),))


def _between(low: Chars, high: Chars) -> Chars:
    if not (_is_single(low) and _is_single(high)):
        raise PatternError("a class in a range is not supported")
    first, last = low.ranges[0][0], high.ranges[0][0]
    if last < first:
        raise InvalidPatternError("a range runs backwards")
    return Chars(((first, last),))


def _is_single(chars: Chars) -> bool:
    return len(chars.ranges) == 1 and chars.ranges[0][0] == chars.ranges[0][1]
