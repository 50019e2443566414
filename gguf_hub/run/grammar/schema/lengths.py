"""Texts of a pattern that have a certain length.

A pattern is turned into the places where it reads a character, and what can follow each; counting
the characters along gives rules for exactly the texts of the wanted length.

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

_MOST_PLACES = 400
_MOST_RULES = 4_000


def length_range(tree: Node) -> tuple[int, int | None]:
    """Return the least and the most characters of a tree's texts; None: no limit."""
    spend()
    if isinstance(tree, Literal):
        return len(tree.text), len(tree.text)
    if isinstance(tree, Chars):
        return 1, 1
    if isinstance(tree, Alt):
        ranges = [length_range(option) for option in tree.options]
        most = [high for _, high in ranges if high is not None]
        return min(low for low, _ in ranges), max(most) if len(most) == len(ranges) else None
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
    least, most = length_range(tree)
    if least >= low and (high is None or (most is not None and most <= high)):
        return in_json(tree)
    if (high is not None and (least > high or low > high)) or (most is not None and most < low):
        return NOTHING
    narrowed = _narrowed(tree, low, high)
    return in_json(narrowed) if narrowed else _counted(conversion, tree, low, high, name)


def _narrowed(tree: Node, low: int, high: int | None) -> Node | None:
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
class _Places:
    """The places of a pattern where a character is read: 0, 1, ... in ``chars``."""

    chars: list[Chars] = field(default_factory=list)
    follow: list[set[int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """A part of a pattern: where it can begin and end, and whether it can be empty."""

    first: frozenset[int]
    last: frozenset[int]
    is_empty: bool


def _counted(conversion: Conversion, tree: Node, low: int, high: int | None, name: str) -> Node:
    places = _Places()
    whole = _add(tree, places)
    most = low if high is None else high  # without a limit, counts over the least do not differ
    if len(places.chars) * (most + 1) > _MOST_RULES:
        raise PatternError("it has too many places for minLength and maxLength")
    own = conversion.fresh(f"{name}-pattern")
    written = [in_json(c) for c in places.chars]

    def reading(following: frozenset[int] | set[int], count: int) -> list[Node]:
        if high is not None and count >= high:
            return []
        after = min(count + 1, most)
        return [seq(written[p], Ref(f"{own}-{p}-{after}")) for p in sorted(following)]

    for count in range(most + 1):
        for p in range(len(places.chars)):
            is_end = p in whole.last and count >= low
            options = reading(places.follow[p], count)
            conversion.rules[f"{own}-{p}-{count}"] = alt(*options, *([EMPTY] if is_end else []))
    return alt(*reading(whole.first, 0), *([EMPTY] if whole.is_empty and low == 0 else []))


def _add(tree: Node, places: _Places) -> _Part:
    """Add a tree's places; return where it begins and ends."""
    if isinstance(tree, Chars):
        if len(places.chars) >= _MOST_PLACES:
            raise PatternError("it is too long for minLength and maxLength")
        places.chars.append(tree)
        places.follow.append(set())
        only = frozenset({len(places.chars) - 1})
        return _Part(only, only, False)
    if isinstance(tree, Literal):
        return _chain([Chars(((ord(c), ord(c)),)) for c in tree.text], places)
    if isinstance(tree, Seq):
        return _chain(list(tree.items), places)
    if isinstance(tree, Repeat):
        return _add_repeat(tree, places)
    assert isinstance(tree, Alt)
    parts = [_add(option, places) for option in tree.options]
    return _Part(
        frozenset().union(*(part.first for part in parts)),
        frozenset().union(*(part.last for part in parts)),
        any(part.is_empty for part in parts),
    )


def _chain(items: list[Node], places: _Places) -> _Part:
    whole = _Part(frozenset(), frozenset(), True)
    for item in items:
        spend(8 * len(whole.last))
        part = _add(item, places)
        for p in whole.last:
            places.follow[p] |= part.first
        whole = _Part(
            whole.first | part.first if whole.is_empty else whole.first,
            whole.last | part.last if part.is_empty else part.last,
            whole.is_empty and part.is_empty,
        )
    return whole


def _add_repeat(tree: Repeat, places: _Places) -> _Part:
    """Write out counted copies; an end that leads back to its beginning stands for the others."""
    if max(tree.low, tree.high or 0) > _MOST_PLACES:
        raise PatternError("it is too long for minLength and maxLength")
    copies: list[Node] = [tree.item] * tree.low
    if tree.high is not None:
        optional: Node = EMPTY
        for _ in range(tree.high - tree.low):
            optional = repeat(seq(tree.item, optional), 0, 1)
        if tree.low == 0 and tree.high == 1:
            part = _add(tree.item, places)
            return _Part(part.first, part.last, True)
        return _chain([*copies, optional], places)
    before = _chain(copies, places)
    loop = _add(tree.item, places)
    for p in loop.last:
        places.follow[p] |= loop.first
    for p in before.last:
        places.follow[p] |= loop.first
    return _Part(
        before.first | loop.first if before.is_empty else before.first,
        before.last | loop.last,
        before.is_empty,
    )
