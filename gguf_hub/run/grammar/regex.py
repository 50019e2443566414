"""Regular expressions as grammar trees, where their anchors stand at the ends only.

Trees keep counted repetitions as such; what has anchors elsewhere, or must hold together with
something else, goes through ``language``.
"""

from __future__ import annotations

from gguf_hub.run.grammar.gbnf import Alt, Chars, Literal, Node, Seq, complement
from gguf_hub.run.grammar.pattern import Anchor, Look, Pattern, PatternError, read_pattern
from gguf_hub.run.grammar.trees import EMPTY, alt, repeat, seq

_ANY = repeat(Chars(complement(())), 0, None)


def parse_pattern(pattern: str) -> Node:
    """Return the tree of the texts in which a pattern is found (searched, not matched whole).

    Raises:
        PatternError: The pattern is wrong, or no tree follows it.
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
    if isinstance(tree, Chars):
        return _chars(tree)
    if isinstance(tree, (Anchor, Look)):
        raise PatternError("anchors and lookarounds are not supported at this place")
    if isinstance(tree, Seq):
        return seq(*map(_node, tree.items))
    if isinstance(tree, Alt):
        return alt(*map(_node, tree.options))
    return repeat(_node(tree.item), tree.low, tree.high)


def _chars(chars: Chars) -> Node:
    ranges = chars.ranges
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1] and not 0xD800 <= ranges[0][0] <= 0xDFFF:
        return Literal(chr(ranges[0][0]))
    return chars
