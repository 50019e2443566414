"""GBNF, llama.cpp's notation for grammars, as a tree.

Source: llama.cpp, grammars/README.md and src/llama-grammar.cpp ``llama_grammar_parser``. Two things
are more lenient than there: names may hold ``_``, and a line may begin with ``|``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeAlias, TypeVar

from gguf_hub.budget import spend
from gguf_hub.errors import GrammarError

MAX_CODE_POINT = 0x10FFFF
MAX_REPEAT = 999_999_999

Ranges = tuple[tuple[int, int], ...]
"""Code points from-to, both included, rising and apart."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A text, character by character."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of ranges."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Ref:
    """Another rule."""

    name: str


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the vocabulary, or any other one."""

    token: int | str
    negated: bool


Item = TypeVar("Item", covariant=True)


@dataclass(frozen=True, slots=True)
class Seq(Generic[Item]):
    """One thing after the other."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Alt(Generic[Item]):
    """One of several."""

    options: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Repeat(Generic[Item]):
    """A thing ``low`` to ``high`` times; None: any number of times."""

    item: Item
    low: int
    high: int | None


Node: TypeAlias = "Literal | Chars | Ref | Token | Seq[Node] | Alt[Node] | Repeat[Node]"


def parse_gbnf(text: str, root: str = "root") -> dict[str, Node]:
    """Return the rules of a grammar.

    Args:
        text: GBNF.
        root: Name of the rule that the whole output must match.

    Raises:
        GrammarError: With line and column of what is wrong.
    """
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise GrammarError(
            f"grammar, character {exc.start + 1}: expected text, found half of a surrogate pair"
        ) from exc
    parser = _Parser(text)
    rules = parser.rules()
    if root not in rules:
        raise GrammarError(
            f"the grammar has no rule `{root}`, found {len(rules)} others",
            hint="the rule `root` says what the whole output looks like",
        )
    for name, position in parser.references.items():
        if name not in rules:
            parser.fail(f"no rule `{name}`", position, _nearest(name, rules))
    return rules


def _nearest(name: str, rules: dict[str, Node]) -> str | None:
    """Return a hint with the most similar rule name; comparing takes long for long names."""
    if len(name) > _MAX_COMPARED or len(rules) > 10 * _MAX_COMPARED:
        return None
    known = [rule for rule in rules if len(rule) <= _MAX_COMPARED]
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else None


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


_MAX_DEPTH = 200
_MAX_COMPARED = 80
_MAX_DIGITS = 9
_NODE_BYTES = 250

# Each of these is read without going back, whatever the text.
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACES = re.compile(r"[ \t]*")
_SPACES_AND_LINES = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"#[^\r\n]*")
_DIGITS = re.compile(r"[0-9]*")
_PLAIN_TEXT = re.compile(r'[^"\\]+')
_TOKEN = re.compile(r"<(?:\[([0-9]{1,9})\]|([^>\r\n]+))>")
_HEX = {2: re.compile(r"[0-9A-Fa-f]{2}"), 4: re.compile(r"[0-9A-Fa-f]{4}"),
        8: re.compile(r"[0-9A-Fa-f]{8}")}  # fmt: skip
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self.references: dict[str, int] = {}

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        self._skip(lines=True)
        while self._at < len(self._text):
            name = self._match(_NAME, "a rule name").group()
            self._skip(lines=False)
            if not self._take("::="):
                self.fail("expected `::=` after the rule name")
            self._skip(lines=True)
            rules[name] = self._alternatives()
            if self._at < len(self._text) and self._peek() not in "\r\n":
                self.fail("expected the end of the line")
            self._skip(lines=True)
            spend(_NODE_BYTES)
        return rules

    def fail(self, problem: str, at: int | None = None, hint: str | None = None) -> NoReturn:
        """Raise with line and column."""
        at = self._at if at is None else at
        line = self._text.count("\n", 0, at) + 1
        column = at - (self._text.rfind("\n", 0, at) + 1) + 1
        excerpt = self._text[at : at + 20].split("\n")[0]
        raise GrammarError(
            f"grammar, line {line}, column {column}: {problem}, found `{excerpt}`", hint=hint
        )

    # Small steps

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        is_match = self._text.startswith(text, self._at)
        self._at += len(text) if is_match else 0
        return is_match

    def _skip(self, *, lines: bool) -> None:
        """Skip blanks and comments, over line breaks where ``lines`` says so."""
        blanks = _SPACES_AND_LINES if lines else _SPACES
        while True:
            self._at = _end(blanks, self._text, self._at)
            if self._peek() != "#":
                break
            spend()
            self._at = _end(_COMMENT, self._text, self._at)

    def _skip_blank(self) -> None:
        """Skip blanks; inside parentheses line breaks too."""
        self._skip(lines=self._depth > 0)

    def _match(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            self.fail(f"expected {what}")
        self._at = match.end()
        return match

    # Parts of a rule

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while self._take_bar():
            self._skip(lines=True)
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _take_bar(self) -> bool:
        """Take a ``|``, which may stand in a later line."""
        start = self._at
        self._skip(lines=True)
        if self._take("|"):
            return True
        self._at = start
        return False

    def _sequence(self) -> Node:
        items: list[Node] = []
        while True:
            self._skip_blank()
            item = self._item()
            if item is None:
                break
            spend(_NODE_BYTES)
            items.append(self._with_repetitions(item))
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def _with_repetitions(self, item: Node) -> Node:
        """Return an item with the repetitions behind it."""
        depth = 0
        self._skip_blank()
        while (counts := self._repetition()) is not None:
            merged = _merge_counts(item, counts)
            depth += merged is None
            if depth > _MAX_DEPTH:
                self.fail(f"more than {_MAX_DEPTH} repetitions of one item")
            item = merged or Repeat(item, *counts)
            self._skip_blank()
        return item

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
        if self._depth > _MAX_DEPTH:
            self.fail(f"parentheses are nested more than {_MAX_DEPTH} deep", start)
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
            plain = _PLAIN_TEXT.match(self._text, self._at)
            self._at = plain.end() if plain else self._at
            out.append(plain.group() if plain else self._char())
            spend(len(out[-1]))
        return Literal("".join(out))

    def _class(self) -> Node:
        start, self._at = self._at, self._at + 1
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            if self._at >= len(self._text):
                self.fail("a character class does not end: expected `]`", start)
            spend(_NODE_BYTES)
            range_start = self._at
            low = high = ord(self._char())
            if self._peek() == "-" and not self._text.startswith("-]", self._at):
                self._at += 1
                high = ord(self._char())
            if high < low:
                self.fail("a character range runs backwards", range_start)
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
        code = int(self._match(_HEX[digits], f"{digits} hex digits")[0], 16)
        if code > MAX_CODE_POINT or 0xD800 <= code <= 0xDFFF:
            self.fail("no such character", self._at - digits - 2)
        return chr(code)

    def _token(self) -> Node:
        negated = self._take("!")
        match = self._match(_TOKEN, "`<[id]>` or `<token>`")
        return Token(int(match[1]) if match[1] else match[0], negated)

    def _repetition(self) -> tuple[int, int | None] | None:
        """Return how often the item before is repeated, None when it is not."""
        start = self._at
        for sign, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return counts
        return self._counts(start) if self._take("{") else None

    def _counts(self, start: int) -> tuple[int, int | None]:
        """Return the numbers of a count, after its opening brace."""
        self._skip_spaces()
        first = self._digits()
        is_range = self._take(",")
        self._skip_spaces()
        second = self._digits()
        if not self._take("}") or (second and not is_range):
            self.fail("expected a count such as `{2}`, `{2,}` or `{2,5}`", start)
        if not first and not second:
            self.fail("expected a number in the count", start)
        if max(len(first), len(second)) > _MAX_DIGITS:
            self.fail(f"a count is over {MAX_REPEAT:,}", start)
        low = int(first or 0)
        high = (int(second) if second else None) if is_range else low
        if high is not None and high < low:
            self.fail("a count runs backwards", start)
        if max(low, high or 0) > MAX_REPEAT:
            self.fail(f"a count is over {MAX_REPEAT:,}", start)
        return low, high

    def _digits(self) -> str:
        """Return the digits that come next, and skip the blanks behind them."""
        start = self._at
        self._at = _end(_DIGITS, self._text, start)
        digits = self._text[start : self._at]
        self._skip_spaces()
        return digits.lstrip("0") or digits[:1]

    def _skip_spaces(self) -> None:
        self._at = _end(_SPACES_AND_LINES, self._text, self._at)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _merge_counts(item: Node, counts: tuple[int, int | None]) -> Node | None:
    """Return one repetition for a repetition of a repetition, where both are ``*``, ``+`` or ``?``.

    None where there is none: ``(a{2})*`` skips odd numbers.
    """
    if not isinstance(item, Repeat) or not _is_sign(item.low, item.high) or not _is_sign(*counts):
        return None
    high = None if None in (item.high, counts[1]) else 1
    return Repeat(item.item, item.low * counts[0], high)


def _is_sign(low: int, high: int | None) -> bool:
    return low in (0, 1) and high in (1, None)
