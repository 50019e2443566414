r"""Regular expressions as grammar trees.

What is written must match as ECMA 262 reads the expression and as Python does: ``\d`` and ``\w``
mean ASCII, and their opposites other ASCII characters.
"""

from __future__ import annotations

from typing import NoReturn

from gguf_hub.run.grammar.gbnf import Alt, Chars, Literal, Node, Ranges, Seq, complement, normalise
from gguf_hub.run.grammar.pattern import (
    Anchor,
    CharSet,
    Look,
    Pattern,
    PatternError,
    read_pattern,
)
from gguf_hub.run.grammar.trees import EMPTY, alt, repeat, seq, subtract

_ASCII: Ranges = ((0x00, 0x7F),)
_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
_CLASSES = {
    "d": _DIGITS, "w": _WORD, "s": _SPACE, "D": subtract(_ASCII, _DIGITS),
    "W": subtract(_ASCII, _WORD), "S": subtract(_ASCII, _SPACE),
    ".": complement(((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))),
}  # fmt: skip
_ANY = repeat(Chars(complement(())), 0, None)


def parse_pattern(pattern: str) -> Node:
    """Return the tree of the texts in which a pattern is found (searched, not matched whole).

    Raises:
        PatternError: The pattern uses what a grammar cannot follow.
    """
    tree = read_pattern(pattern)
    options = tree.options if isinstance(tree, Alt) else (tree,)
    return alt(*map(_anchored, options))


def _anchored(tree: Pattern) -> Node:
    """Return one alternative of the whole, with any text where no anchor stands."""
    items = tree.items if isinstance(tree, Seq) else (tree,)
    before = after = _ANY
    if items and items[0] == Anchor("^"):
        before, items = EMPTY, items[1:]
    if items and items[-1] == Anchor("$"):
        after, items = EMPTY, items[:-1]
    return seq(before, *map(_node, items), after)


def _node(tree: Pattern) -> Node:
    if isinstance(tree, CharSet):
        return _chars(tree)
    if isinstance(tree, Anchor):
        _refuse(tree)
    if isinstance(tree, Look):
        raise PatternError("groups that look ahead or behind are not supported")
    if isinstance(tree, Seq):
        return seq(*map(_node, tree.items))
    if isinstance(tree, Alt):
        return alt(*map(_node, tree.options))
    return repeat(_node(tree.item), tree.low, tree.high)


def _refuse(anchor: Anchor) -> NoReturn:
    if anchor.kind in "bB":
        raise PatternError(f"`\\{anchor.kind}` is not supported")
    raise PatternError(
        f"`{anchor.kind}` is not supported at this place: an anchor inside a group or in the middle"
    )


def _chars(chars: CharSet) -> Node:
    ranges = _ranges(chars)
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1] and not _is_surrogate(ranges[0][0]):
        return Literal(chr(ranges[0][0]))
    return Chars(ranges)


def _is_surrogate(code: int) -> bool:
    return 0xD800 <= code <= 0xDFFF


def _ranges(chars: CharSet) -> Ranges:
    """Return the characters that surely belong to a set; beyond ASCII, classes differ."""
    ranges = list(chars.ranges)
    for letter in chars.letters:
        ranges += _CLASSES[letter]
    known = normalise(ranges)
    if not chars.is_negated:
        return known
    return subtract(_ASCII, known) if chars.letters else complement(known)
