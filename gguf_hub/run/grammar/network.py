"""A grammar as a network: nodes, and edges that read a byte, read a token, or call a rule.

Each rule is a part of the network with a start and an end; repetition is a loop, not recursion, so
that only real recursion (a list in a list) needs a stack.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gguf_hub.budget import spend
from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar.gbnf import Alt, Chars, Literal, Node, Ranges, Ref, Repeat, Seq, Token
from gguf_hub.run.grammar.trees import least_fixpoint
from gguf_hub.run.grammar.utf8 import ByteRanges, byte_sequences
from gguf_hub.run.grammar.words import merge_words

MAX_NODES = 80_000
_NODE_BYTES = 500
_EDGE_BYTES = 100
_NO_EDGES: list[Any] = []  # shared: most nodes have edges of one kind only
Edge = TypeVar("Edge")
FEW = 8  # copies of a repeated part from which counting pays
_COUNTED = 10**12  # nodes of counters are numbered from here on


class Network:
    """The nodes of a grammar; node 0 is the start, the lists are indexed by node.

    Args:
        rules: The grammar.
        root: Its first rule.

    Raises:
        GrammarError: A rule begins with itself, or the network grows too large.
    """

    def __init__(self, rules: Mapping[str, Node], root: str = "root") -> None:
        self.byte_edges: list[list[tuple[int, int, int]]] = []
        """(first byte, last byte, target)."""
        self.token_edges: list[list[tuple[Token, int]]] = []
        self.free_edges: list[list[int]] = []
        self.calls: list[list[tuple[int, int]]] = []
        """(start of the called rule, node to return to)."""
        self.is_end: list[bool] = []
        self._counters: list[_Counter] = []
        self._next_counted = _COUNTED
        self._starts: dict[str, int] = {}
        self._classes: dict[Ranges, int] = {}
        self._empty_names = least_fixpoint(rules, _is_empty_text)
        self._node()  # 0 is the start
        for name in rules:
            self._starts[name] = self._node()
        for name, rule in rules.items():
            self._build(rule, self._starts[name], self._end())
        _add(self.free_edges, 0, self._starts[root])
        self.is_tail = self._tails()
        """Nodes from which their rule only ends: a call there needs no frame to return to."""
        self._check_left_recursion()

    def _node(self) -> int:
        if len(self.is_end) >= MAX_NODES:
            raise GrammarError(
                f"the grammar is too large: over {MAX_NODES:,} nodes when written out",
                hint="repeat less, or move what is repeated into a rule of its own",
            )
        spend(_NODE_BYTES)
        for edges in (self.byte_edges, self.token_edges, self.free_edges, self.calls):
            edges.append(_NO_EDGES)
        self.is_end.append(False)
        return len(self.is_end) - 1

    def _end(self) -> int:
        node = self._node()
        self.is_end[node] = True
        return node

    def _build(self, tree: Node, start: int, end: int) -> None:
        """Add what leads from ``start`` to ``end`` by reading ``tree``."""
        if isinstance(tree, Literal):
            self._build_text(tree.text.encode(), start, end)
        elif isinstance(tree, Chars):
            self._build_class(tree.ranges, start, end)
        elif isinstance(tree, Ref):
            _add(self.calls, start, (self._starts[tree.name], end))
        elif isinstance(tree, Token):
            _add(self.token_edges, start, (tree, end))
        elif isinstance(tree, Seq):
            self._build_chain(list(tree.items), start, end)
        elif isinstance(tree, Alt):
            self._build_options(tree.options, start, end)
        else:
            self._build_repeat(tree, start, end)

    def _build_chain(self, items: list[Node], start: int, end: int) -> None:
        for item in items:
            after = self._node()
            self._build(item, start, after)
            start = after
        _add(self.free_edges, start, end)

    def _build_text(self, data: bytes, start: int, end: int) -> None:
        for byte in data:
            after = self._node()
            _add(self.byte_edges, start, (byte, byte, after))
            start = after
        _add(self.free_edges, start, end)

    def _build_options(self, options: tuple[Node, ...], start: int, end: int) -> None:
        words = [option.text.encode() for option in options if isinstance(option, Literal)]
        if len(words) > 1:
            self._build_words(words, start, end)
            options = tuple(option for option in options if not isinstance(option, Literal))
        for option in options:
            inner = self._node()
            _add(self.free_edges, start, inner)
            self._build(option, inner, end)

    def _build_words(self, words: list[bytes], start: int, end: int) -> None:
        nodes: list[int] = []
        for edges, is_end in merge_words(words):
            nodes.append(self._node())
            for byte, target in edges:
                _add(self.byte_edges, nodes[-1], (byte, byte, nodes[target]))
            if is_end:
                _add(self.free_edges, nodes[-1], end)
        _add(self.free_edges, start, nodes[-1])

    def _build_class(self, ranges: Ranges, start: int, end: int) -> None:
        """Read one character: directly when all are ASCII, else by a call of a shared part."""
        if _is_ascii(ranges):
            for low, high in ranges:
                _add(self.byte_edges, start, (low, high, end))
        else:
            _add(self.calls, start, (self._class_start(ranges), end))

    def _class_start(self, ranges: Ranges) -> int:
        """Return the start of the part that reads one character of a class."""
        if ranges not in self._classes:
            self._classes[ranges] = first = self._node()
            tails: dict[ByteRanges, int] = {(): self._end()}  # byte ranges still to read -> node
            for sequence in byte_sequences(ranges):
                spend(_EDGE_BYTES)
                for i in range(len(sequence) - 1, 0, -1):
                    tail = sequence[i:]
                    if tail not in tails:
                        tails[tail] = self._node()
                        _add(self.byte_edges, tails[tail], (*tail[0], tails[tail[1:]]))
                _add(self.byte_edges, first, (*sequence[0], tails[sequence[1:]]))
        return self._classes[ranges]

    def _build_repeat(self, tree: Repeat[Node], start: int, end: int) -> None:
        """Write out few copies; nodes of a counter stand for many, a loop for any number."""
        item = tree.item
        if max(tree.low, tree.high or 0) >= FEW:
            self._build_counter(tree, start, end)
            return
        if max(tree.low, tree.high or 0) > 1 and isinstance(item, (Seq, Alt, Repeat)):
            item = self._as_rule(item)
        for i in range(max(tree.low, tree.high or 0)):
            after = self._node()
            if i >= tree.low:
                _add(self.free_edges, start, end)
            self._build(item, start, after)
            start = after
        if tree.high is None:
            start = self._loop(item, start)
        _add(self.free_edges, start, end)

    def _loop(self, item: Node, start: int) -> int:
        """Add any number of ``item`` after ``start``; return the node before and after each."""
        loop = self._node()
        _add(self.free_edges, start, loop)
        after = self._node()
        self._build(item, loop, after)
        _add(self.free_edges, after, loop)
        return loop

    def _build_counter(self, tree: Repeat[Node], start: int, end: int) -> None:
        """Count with nodes that are never written down (see ``_Counter``)."""
        item = tree.item if isinstance(tree.item, Ref) else self._as_rule(tree.item)
        can_be_empty = is_empty(item, self._empty_names)
        counter = _Counter(
            first=self._next_counted,
            low=0 if can_be_empty else tree.low,
            high=tree.high,
            item=self._starts[item.name],
            end=end,
        )
        if not can_be_empty:
            unreachable = self._node()
            counter.staying = self._loop(item, unreachable)
            counter.leaving = self._loop(item, unreachable)
            _add(self.free_edges, counter.leaving, end)
        self._counters.append(counter)
        self._next_counted += max(tree.low, tree.high or 0) + 1
        _add(self.free_edges, start, counter.first)

    def _as_rule(self, tree: Node) -> Ref:
        """Give a part a rule of its own, so that its copies are calls."""
        name = f"({len(self._starts)})"  # no name that a grammar could write
        self._starts[name] = self._node()
        if is_empty(tree, self._empty_names):
            self._empty_names.add(name)
        self._build(tree, self._starts[name], self._end())
        return Ref(name)

    # Nodes, written down or counted

    def reads(self, node: int) -> bool:
        """Return whether a byte or a token can be read at a node."""
        return node < _COUNTED and bool(self.byte_edges[node] or self.token_edges[node])

    def byte_edges_of(self, node: int) -> list[tuple[int, int, int]]:
        """Return (first byte, last byte, target) of what reads a byte at a node."""
        return self.byte_edges[node] if node < _COUNTED else _NO_EDGES

    def token_edges_of(self, node: int) -> list[tuple[Token, int]]:
        """Return (token, target) of what reads a token at a node."""
        return self.token_edges[node] if node < _COUNTED else _NO_EDGES

    def free_edges_of(self, node: int) -> list[int]:
        """Return the nodes reached from a node without reading."""
        if node < _COUNTED:
            return self.free_edges[node]
        counter = self._counter(node)
        return [counter.end] if node - counter.first >= counter.low else _NO_EDGES

    def calls_of(self, node: int) -> list[tuple[int, int]]:
        """Return (start of the called rule, node to return to) of what a node calls."""
        if node < _COUNTED:
            return self.calls[node]
        counter = self._counter(node)
        return counter.calls(node - counter.first)

    def ends_at(self, node: int) -> bool:
        """Return whether a rule can end at a node."""
        return node < _COUNTED and self.is_end[node]

    def only_ends_at(self, node: int) -> bool:
        """Return whether a rule only ends from a node: a call there needs no frame to return to."""
        return node < _COUNTED and self.is_tail[node]

    def twin(self, node: int) -> tuple[int, int]:
        """Return (node of a loop, bytes for which it reads the same as this node).

        ``a{0,1000}`` after 3 of them reads the next 997 bytes as ``a*`` does, and ``a{1000}`` as
        an ``a*`` that cannot be left.
        """
        if node < _COUNTED:
            return node, 0
        counter = self._counter(node)
        return counter.twin(node)

    def _counter(self, node: int) -> _Counter:
        return self._counters[bisect_right(self._counters, node, key=_first_of) - 1]

    # Properties of nodes, computed in time linear in their number

    def _tails(self) -> list[bool]:
        """Return for each node whether its rule only ends from there."""
        predecessors: list[list[int]] = [[] for _ in self.is_end]
        for node, targets in enumerate(self.free_edges):
            for target in targets:
                if target < _COUNTED:
                    predecessors[target].append(node)
        ends = {n for n, is_end in enumerate(self.is_end) if is_end}
        dead = {n for n, targets in enumerate(self.free_edges) if not targets} - ends
        reading = {
            n for n in range(len(predecessors))
            if self.byte_edges[n] or self.token_edges[n] or self.calls[n]
            or any(target >= _COUNTED for target in self.free_edges[n])
        }  # fmt: skip
        tails = _spread(ends, predecessors) - _spread(dead | reading, predecessors)
        return [n in tails and not (n in ends and to) for n, to in enumerate(self.free_edges)]

    def _check_left_recursion(self) -> None:
        """Raise if a rule can call itself before it has read anything."""
        empty = {self._starts[name] for name in self._empty_names}
        begins = {start: self._first_calls(start, empty) for start in self._starts.values()}
        at = _find_cycle(begins)
        if at is not None:
            name = next(name for name, start in self._starts.items() if start == at)
            label = name if not name.startswith("(") else "a group in parentheses"
            raise GrammarError(
                f"the grammar's rule `{label}` can begin with itself, without an end",
                hint="write a repetition instead: `a ::= b+`, not `a ::= a b | b`",
            )

    def _first_calls(self, start: int, empty: set[int]) -> set[int]:
        """Return the starts of the rules that a rule can call before it reads."""
        return {target for n in self._skim(start, empty) for target, _ in self.calls_of(n)}

    def _skim(self, start: int, empty: set[int]) -> set[int]:
        """Return the nodes of a rule that are reached without reading."""
        visited, stack = {start}, [start]
        while stack:
            node = stack.pop()
            successors = self.free_edges_of(node)
            if node < _COUNTED:  # the other nodes of a counter call the same rule
                successors = successors + [back for at, back in self.calls[node] if at in empty]
            for target in successors:
                if target not in visited:
                    visited.add(target)
                    stack.append(target)
        return visited


@dataclass(slots=True)
class _Counter:
    """A repetition as nodes that exist by their numbers alone: node ``first + n`` has read n items.

    Attributes:
        first: The node before the first item.
        low: Least number of items.
        high: Most; None for any number.
        item: Start of the rule of an item.
        end: The node after them.
        staying: A loop of items that cannot be left, None where an item may be empty.
        leaving: A loop that leads to ``end``.
    """

    first: int
    low: int
    high: int | None
    item: int
    end: int
    staying: int | None = None
    leaving: int | None = None

    def calls(self, n: int) -> list[tuple[int, int]]:
        """Return the call of one more item after ``n``."""
        if n == self.high:
            return []
        after = n if self.high is None and n == self.low else n + 1
        return [(self.item, self.first + after)]

    def twin(self, node: int) -> tuple[int, int]:
        """See ``Network.twin``; a node may have read an item but for its last byte."""
        n = node - self.first
        if self.staying is None or self.leaving is None:
            return node, 0
        if n < self.low:
            return self.staying, self.low - n - 1
        return (node, 0) if self.high is None else (self.leaving, self.high - n - 1)


def _first_of(counter: _Counter) -> int:
    return counter.first


def _add(edges: list[list[Edge]], node: int, edge: Edge) -> None:
    if edges[node]:
        edges[node].append(edge)
    else:
        edges[node] = [edge]


def _spread(nodes: set[int], edges: list[list[int]]) -> set[int]:
    """Return all nodes that edges lead to from some, these included."""
    visited, stack = set(nodes), list(nodes)
    while stack:
        for target in edges[stack.pop()]:
            if target not in visited:
                visited.add(target)
                stack.append(target)
    return visited


def _find_cycle(edges: Mapping[int, set[int]]) -> int | None:
    """Return a node that leads back to itself, None without one."""
    n_predecessors = dict.fromkeys(edges, 0)
    for target in (t for targets in edges.values() for t in targets):
        if target in n_predecessors:
            n_predecessors[target] += 1
    # 1) remove nodes without predecessors, again and again: cycles and what follows them stay
    free = [node for node, n in n_predecessors.items() if n == 0]
    while free:
        node = free.pop()
        del n_predecessors[node]
        for target in edges[node]:
            if target in n_predecessors:
                n_predecessors[target] -= 1
                if n_predecessors[target] == 0:
                    free.append(target)
    # 2) every remaining node has a predecessor: going back from any of them ends in a cycle
    predecessors = {target: node for node in n_predecessors for target in edges[node]}
    visited: set[int] = set()
    at = next(iter(n_predecessors), None)
    while at is not None and at not in visited:
        visited.add(at)
        at = predecessors[at]
    return at


def _is_empty_text(leaf: Node) -> bool:
    return isinstance(leaf, Literal) and not leaf.text


def is_empty(tree: Node, empty: set[str]) -> bool:
    """Return whether a tree can match the empty text, given the rules that can."""
    spend()
    if isinstance(tree, Seq):
        return all(is_empty(item, empty) for item in tree.items)
    if isinstance(tree, Alt):
        return any(is_empty(option, empty) for option in tree.options)
    if isinstance(tree, Repeat):
        return tree.low == 0 or is_empty(tree.item, empty)
    if isinstance(tree, Ref):
        return tree.name in empty
    return _is_empty_text(tree)


def _is_ascii(ranges: Ranges) -> bool:
    return all(high < 0x80 for _, high in ranges)
