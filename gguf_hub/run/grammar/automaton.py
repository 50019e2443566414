"""Reading bytes by a grammar: a deterministic automaton, built as far as it is used.

A *place* is a node of the network and the place to return to after its rule: a stack, shared as far
as stacks agree. A *state* is the set of places where reading can be; equal sets are one state, so
what was learned about a state (its row of 256 next states, its token mask) serves again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from gguf_hub.budget import look, spend
from gguf_hub.run.grammar.gbnf import Token
from gguf_hub.run.grammar.network import Network

DEAD = 0
"""The state from which nothing can be read."""

_DONE = 0  # the place after the whole grammar

_PLACE_BYTES = 200
_SET_BYTES = 250
_MEMBER_BYTES = 50
_STATE_BYTES = 1_200  # its row included
_MANY = 1_000  # edges or places from which on going through them takes long


class Automaton:
    """States of one grammar; ``rows[state, byte]`` is the next state once ``expand`` was called.

    Args:
        network: The grammar.
        reach: Bytes after which ``coarse`` states may differ: those of the longest token.
    """

    def __init__(self, network: Network, reach: int = 0) -> None:
        self.network = network
        self._reach = reach
        self._coarse_places: dict[int, int] = {_DONE: _DONE}
        self._places: dict[tuple[int, int], int] = {}
        self._stacks: list[tuple[int, int]] = [(-1, -1)]  # place -> (node, place to return to)
        self._closures: dict[int, frozenset[int]] = {_DONE: frozenset((_DONE,))}
        self._states: dict[frozenset[int], int] = {frozenset(): DEAD}
        self._members: list[frozenset[int]] = [frozenset()]
        self.size_bytes = 0
        """What has been learned, about."""
        self.rows = np.zeros((64, 256), dtype=np.int32)
        self.is_expanded = np.zeros(64, dtype=np.bool_)
        self.is_expanded[DEAD] = True
        self.start = self._state(self._closure(self._place(0, _DONE)))

    def _keep(self, n_bytes: int) -> None:
        """Count what is learned."""
        self.size_bytes += n_bytes
        spend(n_bytes)

    @property
    def n_states(self) -> int:
        """How many states are known."""
        return len(self._members)

    def is_accepting(self, state: int) -> bool:
        """Whether what was read is complete."""
        return _DONE in self._members[state]

    def next_state(self, state: int, byte: int) -> int:
        """Return the state after one more byte."""
        if not self.is_expanded[state]:
            self.expand(state)
        return int(self.rows[state, byte])

    def expand(self, state: int) -> None:
        """Fill a state's row: one next state for each stretch of bytes that no edge divides."""
        edges = [
            (low, high, target, self._stacks[place][1])
            for place in self._members[state]
            for low, high, target in self.network.byte_edges[self._stacks[place][0]]
        ]
        cuts = sorted({low for low, *_ in edges} | {high + 1 for _, high, *_ in edges})
        row = np.zeros(256, dtype=np.int32)
        known: dict[frozenset[tuple[int, int]], int] = {frozenset(): DEAD}
        for first, after in itertools.pairwise(cuts):
            if len(edges) > _MANY:
                look()
            reached = frozenset((t, back) for low, high, t, back in edges if low <= first <= high)
            if reached not in known:
                known[reached] = self._union(reached)
            row[first:after] = known[reached]
        self.rows[state] = row
        self.is_expanded[state] = True

    def token_edges(self, state: int) -> list[tuple[Token, int]]:
        """Return (token, next state) of the edges that read whole tokens."""
        return [
            (token, self._union([(target, self._stacks[place][1])]))
            for place in self._members[state]
            for token, target in self.network.token_edges[self._stacks[place][0]]
        ]

    def coarse(self, state: int) -> int:
        """Return a state that reads the same for ``reach`` bytes, with far counts left out.

        In the middle of ``[a-z]{0,1000}`` the count does not matter yet: one mask serves.
        """
        places = frozenset(self._coarse_place(place) for place in self._members[state])
        return state if places == self._members[state] else self._state(places)

    def _coarse_place(self, place: int) -> int:
        way = []  # from the place outwards, up to one whose coarse place is known
        while place not in self._coarse_places:
            way.append(place)
            place = self._stacks[place][1]
        coarse = self._coarse_places[place]
        for place in reversed(way):
            node = self._stacks[place][0]
            twin, same_bytes = self.network.twins.get(node, (node, 0))
            coarse = self._place(twin if same_bytes >= self._reach else node, coarse)
            self._coarse_places[place] = coarse
        return coarse

    def union(self, states: Iterable[int]) -> int:
        """Return the state that is at all places of these."""
        return self._state(frozenset().union(*(self._members[s] for s in states)))

    def stacks(self, state: int) -> list[tuple[int, ...]]:
        """Return the places of a state as plain stacks of nodes, the innermost first."""
        out = []
        for place in self._members[state]:
            nodes = []
            while place != _DONE:
                node, place = self._stacks[place]
                nodes.append(node)
            spend(8 * len(nodes))
            out.append(tuple(nodes))
        return out

    def state_of(self, stacks: Iterable[tuple[int, ...]]) -> int:
        """Return the state at these stacks, which may come from another automaton."""
        places = set()
        for nodes in stacks:
            place = _DONE
            for node in reversed(nodes):
                place = self._place(node, place)
            places.add(place)
        return self._state(frozenset(places))

    def _union(self, reached: Iterable[tuple[int, int]]) -> int:
        closures = [self._closure(self._place(target, back)) for target, back in reached]
        return self._state(closures[0] if len(closures) == 1 else frozenset().union(*closures))

    def _state(self, members: frozenset[int]) -> int:
        state = self._states.get(members)
        if state is None:
            self._keep(_STATE_BYTES + _SET_BYTES + _MEMBER_BYTES * len(members))
            state = self._states[members] = len(self._members)
            self._members.append(members)
            if state >= len(self.rows):
                self._grow()
        return state

    def _grow(self) -> None:
        """Double the room for rows."""
        size = len(self.rows)
        self.rows = np.concatenate([self.rows, np.zeros((size, 256), dtype=np.int32)])
        self.is_expanded = np.concatenate([self.is_expanded, np.zeros(size, dtype=np.bool_)])

    def _place(self, node: int, back: int) -> int:
        key = (node, back)
        place = self._places.get(key)
        if place is None:
            self._keep(_PLACE_BYTES)
            place = self._places[key] = len(self._stacks)
            self._stacks.append(key)
        return place

    def _closure(self, place: int) -> frozenset[int]:
        """Return the places reached without reading that read something, or are the end."""
        known = self._closures.get(place)
        if known is not None:
            return known
        net = self.network
        seen, stack, found = {place}, [place], []
        while stack:
            at = stack.pop()
            if at == _DONE:
                found.append(at)
                continue
            node, back = self._stacks[at]
            if net.byte_edges[node] or net.token_edges[node]:
                found.append(at)
            following = [self._place(target, back) for target in net.free_edges[node]]
            for target, after in net.calls[node]:
                way_back = back if net.is_tail[after] else self._place(after, back)
                following.append(self._place(target, way_back))
            if net.is_end[node]:
                following.append(back)
            for reached in following:
                if reached not in seen:
                    seen.add(reached)
                    stack.append(reached)
        self._keep(_SET_BYTES + _MEMBER_BYTES * len(found))
        if len(seen) > _MANY:
            look()
        self._closures[place] = result = frozenset(found)
        return result
