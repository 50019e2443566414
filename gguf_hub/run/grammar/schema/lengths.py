"""How many characters the texts of a pattern have."""

from __future__ import annotations

from gguf_hub.budget import spend
from gguf_hub.run.grammar.gbnf import Alt, Chars, Literal, Node, Repeat, Seq
from gguf_hub.run.grammar.trees import NOTHING, repeat, seq


def length_range(tree: Node) -> tuple[int, int | None]:
    """Return the least and the most characters of a tree's texts; None: no limit."""
    spend()
    if isinstance(tree, Literal):
        return len(tree.text), len(tree.text)
    if isinstance(tree, Chars):
        return 1, 1
    if isinstance(tree, Alt):
        ranges = [length_range(option) for option in tree.options]
        highs = [high for _, high in ranges if high is not None]
        return min(low for low, _ in ranges), max(highs) if len(highs) == len(ranges) else None
    if isinstance(tree, Repeat):
        low, high = length_range(tree.item)
        if tree.high is None:
            return low * tree.low, 0 if high == 0 else None
        return low * tree.low, None if high is None else high * tree.high
    assert isinstance(tree, Seq)
    ranges = [length_range(item) for item in tree.items]
    highs = [high for _, high in ranges if high is not None]
    return sum(low for low, _ in ranges), sum(highs) if len(highs) == len(ranges) else None


def with_length(tree: Node, low: int, high: int | None) -> Node | None:
    """Return the tree of the texts with ``low`` to ``high`` characters, None where none shows it.

    Args:
        tree: A pattern.
        low: Least number of characters.
        high: Most; None: no limit.
    """
    shortest, longest = length_range(tree)
    if shortest >= low and (high is None or (longest is not None and longest <= high)):
        return tree
    if (high is not None and (shortest > high or low > high)) or (
        longest is not None and longest < low
    ):
        return NOTHING
    return _narrow(tree, low, high)


def _narrow(tree: Node, low: int, high: int | None) -> Node | None:
    """Return the tree with its one repetition narrowed, where nothing else varies in length."""
    items = tree.items if isinstance(tree, Seq) else (tree,)
    varying = [i for i, item in enumerate(items) if len(set(length_range(item))) > 1]
    item = items[varying[0]]
    if len(varying) > 1 or not isinstance(item, Repeat) or length_range(item.item) != (1, 1):
        return None
    fixed = sum(length_range(other)[0] for other in items if other is not item)
    limits = [n for n in (item.high, None if high is None else high - fixed) if n is not None]
    some = repeat(item.item, max(item.low, low - fixed), min(limits, default=None))
    return seq(*items[: varying[0]], some, *items[varying[0] + 1 :])
