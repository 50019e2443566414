r"""Whether a regular expression matches somewhere in a text, in time linear in their product.

All ways to read the text are followed at once, as states of an automaton, so that nothing
makes it backtrack. Unlike an automaton of all texts (``language``) it can look ahead and behind.

Source: Thompson 1968; Russ Cox, "Regular Expression Matching Can Be Simple And Fast", 2007.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from gguf_hub.budget import look, spend
from gguf_hub.run.grammar.charclasses import WORD
from gguf_hub.run.grammar.gbnf import MAX_CODE_POINT, Alt, Chars, Ranges, Repeat, Seq
from gguf_hub.run.grammar.pattern import Anchor, Look, Pattern, PatternError, read_pattern

_MAX_STATES = 10_000
_STATE_BYTES = 200
_MANY = 500  # states at once, whose step takes about as long as a look at the clock is worth


def has_match(pattern: str, text: str) -> bool:
    """Return whether ``pattern`` matches somewhere in ``text``.

    Raises:
        PatternError: It is wrong, or has back-references or flags.
    """
    # counts beyond the length of the text do not differ
    program = _program(pattern, 1 << (len(text) + 1).bit_length())
    return _Search(program, text).has_match()


@dataclass(frozen=True, slots=True)
class _Read:
    chars: Chars
    after: int


@dataclass(frozen=True, slots=True)
class _Fork:
    """A state that is at several others."""

    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Check:
    """A state that goes on where an assertion holds; ``start``: of a lookaround's pattern."""

    condition: Anchor | Look
    start: int
    after: int


_State = _Read | _Fork | _Check
_END = 0


@lru_cache(maxsize=8)
def _program(pattern: str, max_repeats: int) -> _Program:
    return _Program(read_pattern(pattern), max_repeats)


class _Program:
    """The states of a pattern; ``_END`` is where it has been read.

    Args:
        tree: The pattern.
        max_repeats: Repetitions beyond which more make no difference.
    """

    def __init__(self, tree: Pattern, max_repeats: int) -> None:
        self._max_repeats = max_repeats
        self.states: list[_State] = [_Fork(())]
        self.start = self._build(tree, _END)

    def _add(self, state: _State) -> int:
        if len(self.states) >= _MAX_STATES:
            raise PatternError(f"it is too large: over {_MAX_STATES:,} states")
        spend(_STATE_BYTES)
        self.states.append(state)
        return len(self.states) - 1

    def _build(self, tree: Pattern, after: int) -> int:
        """Return the state from which reading ``tree`` leads to ``after``."""
        if isinstance(tree, Chars):
            return self._add(_Read(tree, after))
        if isinstance(tree, Anchor):
            return self._add(_Check(tree, _END, after))
        if isinstance(tree, Look):
            return self._add(_Check(tree, self._build(tree.item, _END), after))
        if isinstance(tree, Seq):
            for item in reversed(tree.items):
                after = self._build(item, after)
            return after
        if isinstance(tree, Alt):
            return self._add(_Fork(tuple(self._build(option, after) for option in tree.options)))
        return self._build_repeat(tree, after)

    def _build_repeat(self, tree: Repeat[Pattern], after: int) -> int:
        low = min(tree.low, self._max_repeats)
        if tree.high is None or tree.high >= self._max_repeats:
            start = self._add(_Fork(()))
            self.states[start] = _Fork((self._build(tree.item, start), after))
        else:
            start = after
            for _ in range(tree.high - low):
                start = self._add(_Fork((self._build(tree.item, start), after)))
        for _ in range(low):
            start = self._build(tree.item, start)
        return start


class _Search:
    def __init__(self, program: _Program, text: str) -> None:
        self._program, self._text = program, text
        self._classes: dict[tuple[Chars, str], bool] = {}
        self._ahead: dict[tuple[int, int], bool] = {}
        self._behind: dict[int, frozenset[int]] = {}

    def has_match(self) -> bool:
        return any(True for _ in self._ends(self._program.start, 0, is_anywhere=True))

    def _ends(self, start: int, at: int, *, is_anywhere: bool) -> Iterable[int]:
        """Yield the positions where a match from ``start``, begun at ``at`` or anywhere, ends."""
        reached: set[int] = {start}
        for position in range(at, len(self._text) + 1):
            if is_anywhere:
                reached.add(start)
            elif not reached:
                return
            states = self._closure(reached, position)
            if _END in states:
                yield position
            if position < len(self._text):
                reached = self._step(states, self._text[position])

    def _closure(self, reached: set[int], position: int) -> set[int]:
        """Return the states that are reached at a position without reading."""
        visited, stack = set(reached), list(reached)
        while stack:
            state = self._program.states[stack.pop()]
            successors: tuple[int, ...] = ()
            if isinstance(state, _Fork):
                successors = state.targets
            elif isinstance(state, _Check) and self._holds(state, position):
                successors = (state.after,)
            for target in successors:
                if target not in visited:
                    visited.add(target)
                    stack.append(target)
        if len(visited) > _MANY:
            look()
        spend()
        return visited

    def _step(self, states: set[int], char: str) -> set[int]:
        current = (self._program.states[state] for state in states)
        return {s.after for s in current if isinstance(s, _Read) and self._is_in(s.chars, char)}

    def _is_in(self, chars: Chars, char: str) -> bool:
        key = (chars, char)
        cached = self._classes.get(key)
        if cached is None:
            cached = self._classes[key] = _contains(chars.ranges, ord(char))
        return cached

    def _holds(self, check: _Check, position: int) -> bool:
        condition = check.condition
        if isinstance(condition, Anchor):
            return self._is_at(condition.kind, position)
        if condition.is_ahead:
            key = (check.start, position)
            if key not in self._ahead:
                ends = self._ends(check.start, position, is_anywhere=False)
                self._ahead[key] = any(True for _ in ends)
            return self._ahead[key] != condition.is_negated
        if check.start not in self._behind:
            ends = self._ends(check.start, 0, is_anywhere=True)
            self._behind[check.start] = frozenset(ends)
        return (position in self._behind[check.start]) != condition.is_negated

    def _is_at(self, kind: str, position: int) -> bool:
        text = self._text
        if kind == "^":
            return position == 0
        if kind == "$":
            return position == len(text)
        before = position > 0 and _contains(WORD, ord(text[position - 1]))
        after = position < len(text) and _contains(WORD, ord(text[position]))
        return (before != after) == (kind == "b")


def _contains(ranges: Ranges, code: int) -> bool:
    at = bisect_right(ranges, (code, MAX_CODE_POINT)) - 1
    return at >= 0 and code <= ranges[at][1]
