"""Grammar trees: building them, removing what can never end, and writing them as GBNF."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from gguf_hub.budget import spend
from gguf_hub.run.grammar.gbnf import (
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

EMPTY: Node = Seq(())
"""Matches the empty text."""
NOTHING = Chars(())
"""Matches no text at all."""

_NODE_BYTES = 200
_ENTRY_BYTES = 8


def seq(*items: Node) -> Node:
    """Return a sequence; ``NOTHING`` if one of the items can match no text."""
    flat: list[Node] = []
    for item in items:
        flat += item.items if isinstance(item, Seq) else (item,)
    spend(_NODE_BYTES + _ENTRY_BYTES * len(flat))
    if NOTHING in flat:
        return NOTHING
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def alt(*options: Node) -> Node:
    """Return one of several, without those that can match no text."""
    flat: dict[Node, None] = {}
    for option in options:
        for inner in option.options if isinstance(option, Alt) else (option,):
            spend(_ENTRY_BYTES)  # to find twins takes as long as they are large
            if inner != NOTHING:
                flat.setdefault(inner)
    spend(_NODE_BYTES)
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


def subtract(ranges: Ranges, removed: Ranges) -> Ranges:
    """Return the code points of ``ranges`` that are not in ``removed``; both rise."""
    out: list[tuple[int, int]] = []
    for low, high in ranges:
        spend(_ENTRY_BYTES)
        for first, last in removed:
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
    ending = least_fixpoint(rules, _is_possible)
    used: dict[str, Node] = {}
    stack = [root]
    while stack:
        name = stack.pop()
        if name not in used:
            used[name] = _remove_endless(rules[name], ending)
            stack += references(used[name])
    return used


def _is_possible(leaf: Node) -> bool:
    return leaf != NOTHING


def least_fixpoint(rules: Mapping[str, Node], holds: Callable[[Node], bool]) -> set[str]:
    """Return the names of rules for which a property holds, because it does for those they use.

    It holds for a sequence where it does for all items, for alternatives where it does for one, and
    for optional items always.

    Args:
        rules: Trees by name.
        holds: The property of a leaf, which reads characters or tokens.
    """
    clauses = _HornClauses(holds)
    for name, rule in rules.items():
        clauses.add_rule(name, rule)
    return clauses.true_names


class _HornClauses:
    """A property of trees as Horn clauses: it holds for a tree if it does for enough parts.

    Source: Dowling and Gallier 1984, linear-time algorithms for propositional Horn formulae.
    """

    def __init__(self, holds: Callable[[Node], bool]) -> None:
        self.true_names: set[str] = set()
        self._holds = holds
        self._n_missing: list[int] = []  # parts for which it must still hold
        self._dependents: list[list[int]] = []  # the trees that a tree is part of
        self._names: dict[int, str] = {}
        self._trees: defaultdict[str, int] = defaultdict(self._new)  # a tree for each rule

    def add_rule(self, name: str, rule: Node) -> None:
        self._names[self._trees[name]] = name
        self._add(rule, self._trees[name])

    def _new(self, n_missing: int = 1) -> int:
        spend(_NODE_BYTES)
        self._n_missing.append(n_missing)
        self._dependents.append([])
        return len(self._n_missing) - 1

    def _add(self, tree: Node, parent: int) -> None:
        if isinstance(tree, Ref):
            self._wait(self._trees[tree.name], parent)
        elif isinstance(tree, Repeat) and tree.low > 0:
            self._add(tree.item, parent)
        elif isinstance(tree, Seq) and tree.items:
            self._add_parts(tree.items, self._new(len(tree.items)), parent)
        elif isinstance(tree, Alt):
            self._add_parts(tree.options, self._new(1), parent)
        elif isinstance(tree, (Seq, Repeat)) or self._holds(tree):
            self._satisfy(parent)

    def _add_parts(self, parts: tuple[Node, ...], node: int, parent: int) -> None:
        self._dependents[node].append(parent)
        for part in parts:
            self._add(part, node)

    def _wait(self, part: int, parent: int) -> None:
        if self._n_missing[part] <= 0:
            self._satisfy(parent)
        else:
            self._dependents[part].append(parent)

    def _satisfy(self, tree: int) -> None:
        """Note that the property holds for one more part of a tree, and what follows."""
        stack = [tree]
        while stack:
            spend()
            at = stack.pop()
            self._n_missing[at] -= 1
            if self._n_missing[at] == 0:
                stack += self._dependents[at]
                if at in self._names:
                    self.true_names.add(self._names[at])


def references(tree: Node) -> list[str]:
    """Return the names of the rules that a tree uses."""
    names, stack = [], [tree]
    while stack:
        at = stack.pop()
        if isinstance(at, Ref):
            names.append(at.name)
        stack += reversed(_children(at))
    return names


def _children(tree: Node) -> tuple[Node, ...]:
    if isinstance(tree, Seq):
        return tree.items
    if isinstance(tree, Alt):
        return tree.options
    return (tree.item,) if isinstance(tree, Repeat) else ()


def _remove_endless(tree: Node, ending: set[str]) -> Node:
    if isinstance(tree, Seq):
        return seq(*(_remove_endless(item, ending) for item in tree.items))
    if isinstance(tree, Alt):
        return alt(*(_remove_endless(option, ending) for option in tree.options))
    if isinstance(tree, Repeat):
        return repeat(_remove_endless(tree.item, ending), tree.low, tree.high)
    return NOTHING if isinstance(tree, Ref) and tree.name not in ending else tree


# Writing


def format_gbnf(rules: Mapping[str, Node]) -> str:
    """Return rules as GBNF text, in the order given."""
    return "".join(f"{name} ::= {_format(rule, 0)}\n" for name, rule in rules.items())


def _format(tree: Node, tightness: int) -> str:
    """Return a tree as text; in parentheses where it binds less tightly than is needed."""
    spend()
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


def _format_count(tree: Repeat[Node]) -> str:
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
