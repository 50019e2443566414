"""Texts of a pattern that have a certain length.

A pattern is turned into the positions where it reads a character, and what can follow each;
counting the characters along gives rules for exactly the texts of that length.

Source: Glushkov 1961 (the position automaton of a regular expression).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gguf_hub.budget import spend
from gguf_hub.run.grammar.gbnf import Alt, Chars, Literal, Node, Ref, Repeat, Seq
from gguf_hub.run.grammar.pattern import PatternError
from gguf_hub.run.grammar.schema.conversion import Conversion
from gguf_hub.run.grammar.schema.strings import in_json
from gguf_hub.run.grammar.trees import EMPTY, NOTHING, alt, repeat, seq

_MAX_POSITIONS = 400
_MAX_RULES = 4_000


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


def json_of_length(
    conversion: Conversion, tree: Node, low: int, high: int | None, name: str
) -> Node:
    """Return what stands in JSON for the texts of a tree with ``low`` to ``high`` characters.

    Args:
        conversion: Where rules are added.
        tree: A pattern.
        low: Least number of characters.
        high: Most; None: no limit.
        name: For the rules.

    Raises:
        PatternError: It would take too many rules.
    """
    shortest, longest = length_range(tree)
    if shortest >= low and (high is None or (longest is not None and longest <= high)):
        return in_json(tree)
    if (high is not None and (shortest > high or low > high)) or (
        longest is not None and longest < low
    ):
        return NOTHING
    narrowed = _narrow(tree, low, high)
    return in_json(narrowed) if narrowed else _count_along(conversion, tree, low, high, name)


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


@dataclass
class _Positions:
    """The positions of a pattern where a character is read: 0, 1, ... in ``chars``."""

    chars: list[Chars] = field(default_factory=list)
    follow: list[set[int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """A part of a pattern: where it can begin and end, and whether it can be empty."""

    first: frozenset[int]
    last: frozenset[int]
    is_empty: bool


def _count_along(conversion: Conversion, tree: Node, low: int, high: int | None, name: str) -> Node:
    positions = _Positions()
    total = _add(tree, positions)
    max_count = low if high is None else high  # without a limit, counts over ``low`` do not differ
    if len(positions.chars) * (max_count + 1) > _MAX_RULES:
        raise PatternError("it has too many places for minLength and maxLength")
    prefix = conversion.fresh(f"{name}-pattern")
    char_nodes = [in_json(c) for c in positions.chars]

    def reading(following: frozenset[int] | set[int], count: int) -> list[Node]:
        if high is not None and count >= high:
            return []
        after = min(count + 1, max_count)
        return [seq(char_nodes[p], Ref(f"{prefix}-{p}-{after}")) for p in sorted(following)]

    for count in range(max_count + 1):
        for p in range(len(positions.chars)):
            is_end = p in total.last and count >= low
            options = reading(positions.follow[p], count)
            conversion.rules[f"{prefix}-{p}-{count}"] = alt(*options, *([EMPTY] if is_end else []))
    return alt(*reading(total.first, 0), *([EMPTY] if total.is_empty and low == 0 else []))


def _add(tree: Node, positions: _Positions) -> _Part:
    if isinstance(tree, Chars):
        if len(positions.chars) >= _MAX_POSITIONS:
            raise PatternError("it is too long for minLength and maxLength")
        positions.chars.append(tree)
        positions.follow.append(set())
        only = frozenset({len(positions.chars) - 1})
        return _Part(only, only, False)
    if isinstance(tree, Literal):
        return _chain([Chars(((ord(c), ord(c)),)) for c in tree.text], positions)
    if isinstance(tree, Seq):
        return _chain(list(tree.items), positions)
    if isinstance(tree, Repeat):
        return _add_repeat(tree, positions)
    assert isinstance(tree, Alt)
    parts = [_add(option, positions) for option in tree.options]
    return _Part(
        frozenset().union(*(part.first for part in parts)),
        frozenset().union(*(part.last for part in parts)),
        any(part.is_empty for part in parts),
    )


def _chain(items: list[Node], positions: _Positions) -> _Part:
    total = _Part(frozenset(), frozenset(), True)
    for item in items:
        spend(8 * len(total.last))
        part = _add(item, positions)
        for p in total.last:
            positions.follow[p] |= part.first
        total = _Part(
            total.first | part.first if total.is_empty else total.first,
            total.last | part.last if part.is_empty else part.last,
            total.is_empty and part.is_empty,
        )
    return total


def _add_repeat(tree: Repeat[Node], positions: _Positions) -> _Part:
    """Write out counted copies; an end that leads back to its beginning stands for the others."""
    if max(tree.low, tree.high or 0) > _MAX_POSITIONS:
        raise PatternError("it is too long for minLength and maxLength")
    copies: list[Node] = [tree.item] * tree.low
    if tree.high is not None:
        optional: Node = EMPTY
        for _ in range(tree.high - tree.low):
            optional = repeat(seq(tree.item, optional), 0, 1)
        if tree.low == 0 and tree.high == 1:
            part = _add(tree.item, positions)
            return _Part(part.first, part.last, True)
        return _chain([*copies, optional], positions)
    head = _chain(copies, positions)
    loop = _add(tree.item, positions)
    for p in loop.last:
        positions.follow[p] |= loop.first
    for p in head.last:
        positions.follow[p] |= loop.first
    return _Part(
        head.first | loop.first if head.is_empty else head.first,
        head.last | loop.last,
        head.is_empty,
    )
