"""GBNF, llama.cpp's notation for grammars, as a tree.

Source: llama.cpp, grammars/README.md and src/llama-grammar.cpp ``llama_grammar_parser``. Two things
are taken more kindly than there: names may hold ``_``, and a line may begin with ``|``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import NoReturn

from gguf_hub.errors import GrammarError

MAX_CODE_POINT = 0x10FFFF
MAX_REPEAT = 20_000

Ranges = tuple[tuple[int, int], ...]
"""Code points from-to, both included, rising and apart."""


@dataclass(frozen=True)
class Literal:
    """A text, character by character."""

    text: str


@dataclass(frozen=True)
class Chars:
    """One character out of ranges."""

    ranges: Ranges


@dataclass(frozen=True)
class Ref:
    """Another rule."""

    name: str


@dataclass(frozen=True)
class Token:
    """One token of the vocabulary, or any other one."""

    token: int | str
    negated: bool


@dataclass(frozen=True)
class Seq:
    """One thing after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Alt:
    """One of several."""

    options: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """A thing ``low`` to ``high`` times; None: any number of times."""

    item: Node
    low: int
    high: int | None


Node = Literal | Chars | Ref | Token | Seq | Alt | Repeat


def parse_gbnf(text: str, root: str = "root") -> dict[str, Node]:
    """Return the rules of a grammar.

    Args:
        text: GBNF.
        root: Name of the rule that the whole output must match.

    Raises:
        GrammarError: With line and column of what is wrong.
    """
    parser = _Parser(text)
    rules = parser.rules()
    if root not in rules:
        raise GrammarError(
            f"the grammar has no rule `{root}`, found {len(rules)} others",
            hint="the rule `root` says what the whole output looks like",
        )
    for name, position in parser.references.items():
        if name not in rules:
            near = difflib.get_close_matches(name, rules, n=1)
            parser.fail(
                f"no rule `{name}`", position, f"did you mean `{near[0]}`?" if near else None
            )
    return rules


def complement(ranges: Ranges) -> Ranges:
    """Return all code points outside ``ranges``; surrogates belong to neither."""
    out, at = [], 0
    for low, high in normalise([*ranges, (0xD800, 0xDFFF)]):
        if at < low:
            out.append((at, low - 1))
        at = high + 1
    if at <= MAX_CODE_POINT:
        out.append((at, MAX_CODE_POINT))
    return tuple(out)


def normalise(ranges: list[tuple[int, int]]) -> Ranges:
    """Return ranges sorted, with those that touch joined."""
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return tuple(out)


_NAME = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_BEFORE_BAR = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*(?=\|)")
_COUNT = re.compile(r"\{\s*(\d*)\s*(,?)\s*(\d*)\s*\}")
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}


class _Parser:
    """Reads rules from a text, position by position."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self.references: dict[str, int] = {}

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        self._skip(_BLANK_LINES)
        while self._at < len(self._text):
            name = self._match(_NAME, "a rule name").group()
            self._skip(_BLANK)
            if not self._take("::="):
                self.fail("expected `::=` after the rule name")
            self._skip(_BLANK_LINES)
            rules[name] = self._alternatives()
            if self._at < len(self._text) and self._peek() not in "\r\n":
                self.fail("expected the end of the line")
            self._skip(_BLANK_LINES)
        return rules

    def fail(self, problem: str, at: int | None = None, hint: str | None = None) -> NoReturn:
        """Raise with the place."""
        at = self._at if at is None else at
        line = self._text.count("\n", 0, at) + 1
        column = at - (self._text.rfind("\n", 0, at) + 1) + 1
        found = self._text[at : at + 20].split("\n")[0]
        raise GrammarError(
            f"grammar, line {line}, column {column}: {problem}, found `{found}`", hint=hint
        )

    # Small steps

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _skip_blank(self) -> None:
        """Skip blanks; inside parentheses line breaks too."""
        self._skip(_BLANK_LINES if self._depth else _BLANK)

    def _match(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            self.fail(f"expected {what}")
        self._at = match.end()
        return match

    # Parts of a rule

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while True:
            self._skip(_BEFORE_BAR)
            if not self._take("|"):
                break
            self._skip(_BLANK_LINES)
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while True:
            self._skip_blank()
            item = self._item()
            if item is None:
                break
            self._skip_blank()
            while (counts := self._repetition()) is not None:
                item = Repeat(item, *counts)
                self._skip_blank()
            items.append(item)
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def _item(self) -> Node | None:
        """Return the next item of a sequence, None at its end."""
        char, start = self._peek(), self._at
        if char == '"':
            return self._literal()
        if char == "[":
            return self._class()
        if char == ".":
            self._at += 1
            return Chars(complement(()))
        if char == "(":
            return self._group()
        if char in ("<", "!"):
            return self._token()
        match = _NAME.match(self._text, self._at)
        if match is None:
            if char and char in "*+?{":
                self.fail("expected something to repeat before this")
            return None
        self._at = match.end()
        self.references.setdefault(match.group(), start)
        return Ref(match.group())

    def _group(self) -> Node:
        start, self._at = self._at, self._at + 1
        self._depth += 1
        if self._depth > 200:
            self.fail("parentheses are nested more than 200 deep", start)
        inner = self._alternatives()
        self._skip_blank()
        if not self._take(")"):
            self.fail("expected `)`")
        self._depth -= 1
        return inner

    def _literal(self) -> Node:
        start, self._at = self._at, self._at + 1
        out = []
        while not self._take('"'):
            if self._at >= len(self._text):
                self.fail('a text in quotes does not end: expected `"`', start)
            out.append(self._char())
        return Literal("".join(out))

    def _class(self) -> Node:
        start, self._at = self._at, self._at + 1
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            if self._at >= len(self._text):
                self.fail("a character class does not end: expected `]`", start)
            place = self._at
            low = high = ord(self._char())
            if self._peek() == "-" and not self._text.startswith("-]", self._at):
                self._at += 1
                high = ord(self._char())
            if high < low:
                self.fail("a character range runs backwards", place)
            ranges.append((low, high))
        return Chars(complement(normalise(ranges)) if negated else normalise(ranges))

    def _char(self) -> str:
        """Return the next character of a literal or class, its escape resolved."""
        if not self._take("\\"):
            char = self._peek()
            if not char:
                self.fail("expected a character, found the end")
            self._at += 1
            return char
        kind = self._peek()
        if kind in _ESCAPES:
            self._at += 1
            return _ESCAPES[kind]
        digits = _HEX_DIGITS.get(kind)
        if digits is None:
            self.fail("unknown escape", self._at - 1)
        self._at += 1
        code = int(
            self._match(re.compile(rf"[0-9A-Fa-f]{{{digits}}}"), f"{digits} hex digits")[0], 16
        )
        if code > MAX_CODE_POINT or 0xD800 <= code <= 0xDFFF:
            self.fail("no such character", self._at - digits - 2)
        return chr(code)

    def _token(self) -> Node:
        negated = self._take("!")
        match = self._match(re.compile(r"<(?:\[(\d+)\]|([^>\r\n]+))>"), "`<[id]>` or `<token>`")
        return Token(int(match[1]) if match[1] else match[0], negated)

    def _repetition(self) -> tuple[int, int | None] | None:
        """Return how often the item before is repeated, None when it is not."""
        start = self._at
        for sign, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return counts
        if self._peek() != "{":
            return None
        match = self._match(_COUNT, "a count such as `{2}`, `{2,}` or `{2,5}`")
        low = int(match[1] or 0)
        high = (int(match[3]) if match[3] else None) if match[2] else low
        if not match[1] and not match[3]:
            self.fail("expected a number in the count", start)
        if high is not None and high < low:
            self.fail("a count runs backwards", start)
        if max(low, high or 0) > MAX_REPEAT:
            self.fail(f"a count is over {MAX_REPEAT:,}", start)
        return low, high
