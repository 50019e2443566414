"""Sets of texts as deterministic automata: what several patterns, names and lengths leave over.

Characters are sorted into a few classes that a set never tells apart; a state has one next state
for each class. Sets can be intersected, subtracted and compared with nothing.

Source: Rabin and Scott 1959 (subsets, products); Moore 1956 (merging equal states).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gguf_hub.budget import look, spend
from gguf_hub.run.grammar.charclasses import ANY
from gguf_hub.run.grammar.gbnf import Alt, Chars, Ranges, Repeat, Seq, complement, normalise
from gguf_hub.run.grammar.pattern import Anchor, Look, Pattern, PatternError, read_pattern

MAX_STATES = 3_000
_MAX_CLASSES = 500
_MAX_MERGED, _MAX_ROUNDS = 500, 40  # beyond, merging takes longer than it saves
_STATE_BYTES = 300
_EVERY = complement(())


@dataclass(frozen=True)
class Language:
    """A set of texts.

    Attributes:
        classes: Code points by class; each belongs to one.
        rows: Next state of each state for each class; state 0 is the start.
        accepting: Whether a text may end in a state.
    """

    classes: tuple[Ranges, ...]
    rows: tuple[tuple[int, ...], ...]
    accepting: tuple[bool, ...]

    @classmethod
    def everything(cls) -> Language:
        """Return all texts."""
        return cls((_EVERY,), ((0,),), (True,))

    @classmethod
    def of_pattern(cls, pattern: str) -> Language:
        """Return the texts in which a regular expression is found.

        Raises:
            PatternError: It is wrong, or has what no automaton of this size follows.
        """
        return cls.of_tree(read_pattern(pattern))

    @classmethod
    def of_tree(cls, tree: Pattern) -> Language:
        """Return the texts in which a pattern is found (see ``of_pattern``)."""
        options = tree.options if isinstance(tree, Alt) else (tree,)
        plain = [option for option in options if not _leading_looks(option)[0]]
        parts = [_found(Alt(tuple(plain)))] if plain else []
        for option in options:
            looks, rest = _leading_looks(option)
            if looks:
                parts.append(_with_looks(looks, rest))
        whole = parts[0]
        for part in parts[1:]:
            whole = whole | part
        return whole

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Language:
        """Return a set of some texts."""
        options = tuple(Seq(tuple(Chars(((ord(c), ord(c)),)) for c in text)) for text in texts)
        return _determinise(_Nfa(Alt(options)))

    @classmethod
    def of_length(cls, low: int, high: int | None) -> Language:
        """Return the texts of ``low`` to ``high`` characters.

        Raises:
            PatternError: They are too many to count.
        """
        last = low if high is None else high + 1  # from here on, counts do not differ
        _check_size(last)
        rows = tuple((min(n + 1, last),) for n in range(last + 1))
        accepting = tuple(low <= n and (high is None or n <= high) for n in range(last + 1))
        return cls((_EVERY,), rows, accepting)

    @cached_property
    def is_empty(self) -> bool:
        """Whether there is no text at all."""
        return not any(self.accepting)  # all states can be reached

    def __and__(self, other: Language) -> Language:
        """Return the texts of both."""
        return _product(self, other, lambda a, b: a and b)

    def __or__(self, other: Language) -> Language:
        """Return the texts of either."""
        return _product(self, other, lambda a, b: a or b)

    def __sub__(self, other: Language) -> Language:
        """Return the texts of this set that are not in the other."""
        return _product(self, other, lambda a, b: a and not b)

    def contains(self, text: str) -> bool:
        """Return whether a text belongs to the set."""
        state = 0
        for char in text:
            code = ord(char)
            among = (any(a <= code <= b for a, b in ranges) for ranges in self.classes)
            at = next((i for i, is_in in enumerate(among) if is_in), None)
            if at is None:
                return False
            state = self.rows[state][at]
        return self.accepting[state]

    def edges(self) -> list[dict[int, Ranges]]:
        """Return for each state: next state -> its characters, without ways that never end."""
        alive = self._alive()
        out: list[dict[int, Ranges]] = []
        for row in self.rows:
            ranges: dict[int, list[tuple[int, int]]] = {}
            for target, chars in zip(row, self.classes, strict=True):
                if target in alive:
                    ranges.setdefault(target, []).extend(chars)
            spend(_STATE_BYTES)
            out.append({target: normalise(chars) for target, chars in ranges.items()})
        return out

    def _alive(self) -> set[int]:
        """Return the states from which a text can end."""
        before: list[list[int]] = [[] for _ in self.rows]
        for state, row in enumerate(self.rows):
            for target in set(row):
                before[target].append(state)
        stack = [state for state, ends in enumerate(self.accepting) if ends]
        alive = set(stack)
        while stack:
            for state in before[stack.pop()]:
                if state not in alive:
                    alive.add(state)
                    stack.append(state)
        return alive


def _check_size(n_states: int) -> None:
    if n_states > MAX_STATES:
        raise PatternError(f"together with its neighbours it takes over {MAX_STATES:,} states")


# Patterns


def _leading_looks(tree: Pattern) -> tuple[list[Look], Pattern]:
    """Return the lookaheads that stand behind a leading ``^``, and the pattern without them."""
    items = tree.items if isinstance(tree, Seq) else (tree,)
    if not items or items[0] != Anchor("^"):
        return [], tree
    n = 1
    while n < len(items) and isinstance(items[n], Look):
        n += 1
    looks = [item for item in items[1:n] if isinstance(item, Look) and item.is_ahead]
    return (looks, Seq((items[0], *items[n:]))) if len(looks) == n - 1 else ([], tree)


def _with_looks(looks: list[Look], rest: Pattern) -> Language:
    whole = _found(rest)
    for condition in looks:
        ahead = _found(Seq((Anchor("^"), condition.item)))
        whole = whole - ahead if condition.is_negated else whole & ahead
    return whole


def _found(tree: Pattern) -> Language:
    """Return the texts in which a pattern is found."""
    anything: Pattern = Repeat(Chars(_EVERY), 0, None)
    return _determinise(_Nfa(Seq((anything, tree, anything))))


class _Nfa:
    """States of a pattern; 0 is the end. Ways through ``^`` and ``$`` are open at the ends only."""

    def __init__(self, tree: Pattern) -> None:
        self.reads: list[tuple[Ranges, int] | None] = [None]
        self.free: list[list[tuple[str, int]]] = [[]]  # (anchor or "", target)
        self.start = self._build(tree, 0)

    def _add(self, free: list[tuple[str, int]], read: tuple[Ranges, int] | None = None) -> int:
        _check_size(len(self.reads))
        spend(_STATE_BYTES)
        self.reads.append(read)
        self.free.append(free)
        return len(self.reads) - 1

    def _build(self, tree: Pattern, after: int) -> int:
        """Return the state from which reading ``tree`` leads to ``after``."""
        if isinstance(tree, Chars):
            return self._add([], (tree.ranges, after))
        if isinstance(tree, Anchor):
            if tree.kind in "bB":
                raise PatternError(f"`\\{tree.kind}` is not supported")
            return self._add([(tree.kind, after)])
        if isinstance(tree, Look):
            raise PatternError("groups that look ahead or behind are supported after a leading `^`")
        if isinstance(tree, Seq):
            for item in reversed(tree.items):
                after = self._build(item, after)
            return after
        if isinstance(tree, Alt):
            return self._add([("", self._build(option, after)) for option in tree.options])
        return self._build_repeat(tree, after)

    def _build_repeat(self, tree: Repeat[Pattern], after: int) -> int:
        _check_size(max(tree.low, tree.high or 0))
        start = after
        if tree.high is None:
            start = self._add([])
            self.free[start] += [("", self._build(tree.item, start)), ("", after)]
        for _ in range((tree.high or tree.low) - tree.low):
            start = self._add([("", self._build(tree.item, start)), ("", after)])
        for _ in range(tree.low):
            start = self._build(tree.item, start)
        return start

    def closure(self, states: frozenset[int], anchors: str) -> frozenset[int]:
        """Return the states that are reached without reading, through anchors that hold."""
        visited, stack = set(states), list(states)
        while stack:
            for anchor, target in self.free[stack.pop()]:
                if target not in visited and anchor in ("", *anchors):
                    visited.add(target)
                    stack.append(target)
        spend(8 * len(visited))
        return frozenset(visited)


def _determinise(nfa: _Nfa) -> Language:
    classes, members = _classes([read[0] for read in nfa.reads if read is not None])
    targets: list[tuple[frozenset[int], int]] = []  # by state of the NFA: (classes, next state)
    readers = iter(members)
    targets = [(frozenset(), 0) if r is None else (next(readers), r[1]) for r in nfa.reads]
    start = frozenset((nfa.start,))
    numbers: dict[tuple[frozenset[int], str], int] = {(start, "^"): 0}
    queue = [(start, "^")]
    rows, accepting = [], []
    for kernel, anchors in queue:  # which grows
        accepting.append(0 in nfa.closure(kernel, anchors + "$"))
        reached: list[set[int]] = [set() for _ in classes]
        for state in nfa.closure(kernel, anchors):
            indexes, target = targets[state]
            for i in indexes:
                reached[i].add(target)
        row = []
        for following in reached:
            key = (frozenset(following), "")
            if key not in numbers:
                _check_size(len(numbers))
                spend(_STATE_BYTES)
                numbers[key] = len(queue)
                queue.append(key)
            row.append(numbers[key])
        spend(_STATE_BYTES)
        rows.append(tuple(row))
    return _merged(classes, rows, accepting)


def _classes(sets: Sequence[Ranges]) -> tuple[tuple[Ranges, ...], list[frozenset[int]]]:
    """Return the coarsest classes of characters that no set divides, and those of each set."""
    different = {ranges: i for i, ranges in enumerate(dict.fromkeys(sets))}
    events: dict[int, list[int]] = {0: []}  # code point -> sets that begin or end there
    for ranges, i in different.items():
        for low, high in ranges:
            events.setdefault(low, []).append(i)
            events.setdefault(high + 1, []).append(i)
    spend(_STATE_BYTES * len(events))
    cuts = sorted(events)
    inside: set[int] = set()
    by_sets: dict[frozenset[int], list[tuple[int, int]]] = {}
    for low, after in zip(cuts, [*cuts[1:], ANY[0][1] + 1], strict=True):
        for i in events[low]:
            inside ^= {i}
        if low < after:
            by_sets.setdefault(frozenset(inside), []).append((low, after - 1))
    look()
    if len(by_sets) > _MAX_CLASSES:
        raise PatternError(f"it tells over {_MAX_CLASSES} classes of characters apart")
    classes = tuple(normalise(ranges) for ranges in by_sets.values())
    of_set: list[set[int]] = [set() for _ in different]
    for n, indexes in enumerate(by_sets):
        for i in indexes:
            of_set[i].add(n)
    return classes, [frozenset(of_set[different[ranges]]) for ranges in sets]


# Operations


def _product(a: Language, b: Language, accepts: Callable[[bool, bool], bool]) -> Language:
    classes, members = _classes([*a.classes, *b.classes])
    pairs: dict[int, list[int]] = {}  # common class -> [class of a, class of b]
    for i, indexes in enumerate(members):
        for n in indexes:
            pairs.setdefault(n, []).append(i if i < len(a.classes) else i - len(a.classes))
    both = [(n, *pair) for n, pair in sorted(pairs.items()) if len(pair) == 2]
    numbers, queue = {(0, 0): 0}, [(0, 0)]
    rows, accepting = [], []
    for x, y in queue:  # which grows
        accepting.append(accepts(a.accepting[x], b.accepting[y]))
        row = []
        for _, i, j in both:
            key = (a.rows[x][i], b.rows[y][j])
            if key not in numbers:
                _check_size(len(numbers))
                spend(_STATE_BYTES)
                numbers[key] = len(queue)
                queue.append(key)
            row.append(numbers[key])
        rows.append(tuple(row))
    look()
    return _merged(tuple(classes[n] for n, *_ in both), rows, accepting)


def _merged(
    classes: tuple[Ranges, ...], rows: list[tuple[int, ...]], accepting: list[bool]
) -> Language:
    """Return an automaton in which equal states, and then equal classes, are one where it pays."""
    if len(rows) > _MAX_MERGED:
        return Language(classes, tuple(rows), tuple(accepting))
    groups = [int(ends) for ends in accepting]
    n_groups = 0
    for _ in range(_MAX_ROUNDS):
        look()
        numbers: dict[tuple[int, ...], int] = {}
        groups = [
            numbers.setdefault((group, *(groups[t] for t in row)), len(numbers))
            for group, row in zip(groups, rows, strict=True)
        ]
        if len(numbers) == n_groups:
            break
        n_groups = len(numbers)
    else:
        return Language(classes, tuple(rows), tuple(accepting))
    first = {group: state for state, group in reversed(list(enumerate(groups)))}
    small = [tuple(groups[t] for t in rows[first[group]]) for group in range(n_groups)]
    columns: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for i, ranges in enumerate(classes):
        columns.setdefault(tuple(row[i] for row in small), []).extend(ranges)
    return Language(
        tuple(normalise(ranges) for ranges in columns.values()),
        tuple(zip(*columns, strict=True)) if columns else ((),) * n_groups,
        tuple(accepting[first[group]] for group in range(n_groups)),
    )
