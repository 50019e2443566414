"""Grammar trees: putting them together, taking out what can never end, and writing them as GBNF."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gguf_hub.grammar.gbnf import (
    Alt,
    Chars,
    Literal,
    Node,
    Ranges,
    Ref,
    Repeat,
    Seq,
    Token,
    normalise,
)  # fmt: skip

EMPTY = Seq(())
"""Matches the empty text."""
NOTHING = Chars(())
"""Matches no text at all."""


def seq(*items: Node) -> Node:
    """Return one thing after the other; nothing at all if one of them can never be."""
    flat: list[Node] = []
    for item in items:
        flat += item.items if isinstance(item, Seq) else (item,)
    if NOTHING in flat:
        return NOTHING
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def alt(*options: Node) -> Node:
    """Return one of several, without those that can never be."""
    flat: dict[Node, None] = {}
    for option in options:
        for inner in option.options if isinstance(option, Alt) else (option,):
            if inner != NOTHING:
                flat.setdefault(inner)
    if not flat:
        return NOTHING
    return next(iter(flat)) if len(flat) == 1 else Alt(tuple(flat))


def repeat(item: Node, low: int, high: int | None) -> Node:
    """Return a thing ``low`` to ``high`` times."""
    if high == 0 or (item == NOTHING and low == 0):
        return EMPTY
    if item == NOTHING or (high is not None and high < low):
        return NOTHING
    return item if (low, high) == (1, 1) else Repeat(item, low, high)


def optional(item: Node) -> Node:
    """Return a thing or the empty text."""
    return repeat(item, 0, 1)


def chars(text: str) -> Chars:
    """Return one character out of those in ``text``."""
    return Chars(normalise([(ord(c), ord(c)) for c in text]))


def subtract(ranges: Ranges, taken: Ranges) -> Ranges:
    """Return the code points of ``ranges`` that are not in ``taken``; both rise."""
    out: list[tuple[int, int]] = []
    for low, high in ranges:
        for first, last in taken:
            if last < low or first > high:
                continue
            if first > low:
                out.append((low, first - 1))
            low = last + 1
        if low <= high:
            out.append((low, high))
    return tuple(out)


def prune(rules: Mapping[str, Node], root: str) -> dict[str, Node]:
    """Return the rules that ``root`` uses, without branches that could never come to an end.

    The root becomes ``NOTHING`` when nothing can match it.
    """
    ending = growing(rules, _can_end)
    kept: dict[str, Node] = {}
    stack = [root]
    while stack:
        name = stack.pop()
        if name not in kept:
            kept[name] = _without_endless(rules[name], ending)
            stack += references(kept[name])
    return kept


def growing(rules: Mapping[str, Node], holds: Callable[[Node, set[str]], bool]) -> set[str]:
    """Return the names of rules for which something holds because it does for those they use.

    Args:
        rules: Trees by name.
        holds: Tells it of a tree, given the rules of which it is known.
    """
    known: set[str] = set()
    names = list(rules)
    while True:
        before = len(known)
        for name in names:
            if name not in known and holds(rules[name], known):
                known.add(name)
        if len(known) == before:
            return known
        names.reverse()  # chains of rules run either way


def references(tree: Node) -> list[str]:
    """Return the names of the rules that a tree uses."""
    if isinstance(tree, Ref):
        return [tree.name]
    return [name for inner in _children(tree) for name in references(inner)]


def _children(tree: Node) -> tuple[Node, ...]:
    if isinstance(tree, Seq):
        return tree.items
    if isinstance(tree, Alt):
        return tree.options
    return (tree.item,) if isinstance(tree, Repeat) else ()


def _can_end(tree: Node, ending: set[str]) -> bool:
    if isinstance(tree, Ref):
        return tree.name in ending
    if isinstance(tree, Alt):
        return any(_can_end(option, ending) for option in tree.options)
    if isinstance(tree, Repeat):
        return tree.low == 0 or _can_end(tree.item, ending)
    return tree != NOTHING and all(_can_end(inner, ending) for inner in _children(tree))


def _without_endless(tree: Node, ending: set[str]) -> Node:
    if isinstance(tree, Seq):
        return seq(*(_without_endless(item, ending) for item in tree.items))
    if isinstance(tree, Alt):
        return alt(*(_without_endless(option, ending) for option in tree.options))
    if isinstance(tree, Repeat):
        return repeat(_without_endless(tree.item, ending), tree.low, tree.high)
    return NOTHING if isinstance(tree, Ref) and tree.name not in ending else tree


# Writing


def format_gbnf(rules: Mapping[str, Node]) -> str:
    """Return rules as GBNF text, in the order given."""
    return "".join(f"{name} ::= {_format(rule, 0)}\n" for name, rule in rules.items())


def _format(tree: Node, tightness: int) -> str:
    """Return a tree as text; in parentheses where it binds less tightly than is needed."""
    if isinstance(tree, Literal):
        return '"' + "".join(_escape(c, '"\\') for c in tree.text) + '"'
    if isinstance(tree, Chars):
        return f"[{''.join(_format_range(low, high) for low, high in tree.ranges)}]"
    if isinstance(tree, Ref):
        return tree.name
    if isinstance(tree, Token):
        name = f"<[{tree.token}]>" if isinstance(tree.token, int) else tree.token
        return ("!" if tree.negated else "") + name
    if isinstance(tree, Repeat):
        return _format(tree.item, 2) + _format_count(tree)
    if isinstance(tree, Seq):
        inner = " ".join(_format(item, 1) for item in tree.items) or '""'
        return f"({inner})" if tightness > 1 else inner
    inner = " | ".join(_format(option, 0) for option in tree.options)
    return f"({inner})" if tightness else inner


def _format_count(tree: Repeat) -> str:
    signs = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    if (tree.low, tree.high) in signs:
        return signs[tree.low, tree.high]
    if tree.high == tree.low:
        return f"{{{tree.low}}}"
    return f"{{{tree.low},{'' if tree.high is None else tree.high}}}"


def _format_range(low: int, high: int) -> str:
    first, last = (_escape(chr(code), "[]\\-^") for code in (low, high))
    return first if low == high else f"{first}-{last}"


def _escape(char: str, special: str) -> str:
    code = ord(char)
    if char in special and char != "^":
        return "\\" + char
    if char == "^" and char in special:
        return "\\x5E"
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02X}"
    if char.isprintable():
        return char
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
