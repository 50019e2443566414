"""Reading bytes by a grammar: a deterministic automaton, built as far as it is used.

A *frame* is a node of the network and the frame to return to after its rule: a stack, shared as far
as stacks agree. A *state* is the set of frames where reading can be; equal sets are one state, so
what is computed for a state (its row of 256 next states, its token mask) serves again.
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

_END = 0  # the frame after the root rule

_FRAME_BYTES = 200
_SET_BYTES = 250
_MEMBER_BYTES = 50
_STATE_BYTES = 1_200  # its row included
_MANY = 1_000  # edges or frames from which on going through them takes long


class Automaton:
    """States of one grammar; ``rows[state, byte]`` is the next state once ``expand`` was called.

    Args:
        network: The grammar.
        reach: Bytes after which ``coarse`` states may differ: those of the longest token.
    """

    def __init__(self, network: Network, reach: int = 0) -> None:
        self.network = network
        self._reach = reach
        self._coarse_frames: dict[int, int] = {_END: _END}
        self._frames: dict[tuple[int, int], int] = {}
        self._stacks: list[tuple[int, int]] = [(-1, -1)]  # frame -> (node, frame to return to)
        self._closures: dict[int, frozenset[int]] = {_END: frozenset((_END,))}
        self._states: dict[frozenset[int], int] = {frozenset(): DEAD}
        self._members: list[frozenset[int]] = [frozenset()]
        self.size_bytes = 0
        """Estimated memory of all states."""
        self.rows = np.zeros((64, 256), dtype=np.int32)
        self.is_expanded = np.zeros(64, dtype=np.bool_)
        self.is_expanded[DEAD] = True
        self.start = self._state(self._closure(self._frame(0, _END)))

    def _account(self, n_bytes: int) -> None:
        self.size_bytes += n_bytes
        spend(n_bytes)

    @property
    def n_states(self) -> int:
        """Number of states so far."""
        return len(self._members)

    def is_accepting(self, state: int) -> bool:
        """Whether what was read is complete."""
        return _END in self._members[state]

    def next_state(self, state: int, byte: int) -> int:
        """Return the state after one more byte."""
        if not self.is_expanded[state]:
            self.expand(state)
        return int(self.rows[state, byte])

    def expand(self, state: int) -> None:
        """Fill a state's row: one next state for each stretch of bytes that no edge divides."""
        edges = [
            (low, high, target, back)
            for node, back in self._readers(state)
            for low, high, target in self.network.byte_edges_of(node)
        ]
        cuts = sorted({low for low, *_ in edges} | {high + 1 for _, high, *_ in edges})
        row = np.zeros(256, dtype=np.int32)
        cached: dict[frozenset[tuple[int, int]], int] = {frozenset(): DEAD}
        for first, after in itertools.pairwise(cuts):
            if len(edges) > _MANY:
                look()
            reached = frozenset((t, back) for low, high, t, back in edges if low <= first <= high)
            if reached not in cached:
                cached[reached] = self._union(reached)
            row[first:after] = cached[reached]
        self.rows[state] = row
        self.is_expanded[state] = True

    def token_edges(self, state: int) -> list[tuple[Token, int]]:
        """Return (token, next state) of the edges that read whole tokens."""
        return [
            (token, self._union([(target, back)]))
            for node, back in self._readers(state)
            for token, target in self.network.token_edges_of(node)
        ]

    def _readers(self, state: int) -> list[tuple[int, int]]:
        """Return (node, frame to return to) of a state's frames; after the root rule is no node."""
        return [self._stacks[frame] for frame in self._members[state] if frame != _END]

    def coarse(self, state: int) -> int:
        """Return a state that reads the same for ``reach`` bytes, with far counts left out.

        In the middle of ``[a-z]{0,1000}`` the count does not matter yet: one mask serves.
        """
        frames = frozenset(self._coarse_frame(frame) for frame in self._members[state])
        return state if frames == self._members[state] else self._state(frames)

    def _coarse_frame(self, frame: int) -> int:
        path = []  # outwards, up to a frame whose coarse frame is known
        while frame not in self._coarse_frames:
            path.append(frame)
            frame = self._stacks[frame][1]
        coarse = self._coarse_frames[frame]
        for frame in reversed(path):
            node = self._stacks[frame][0]
            twin, same_bytes = self.network.twin(node)
            coarse = self._frame(twin if same_bytes >= self._reach else node, coarse)
            self._coarse_frames[frame] = coarse
        return coarse

    def union(self, states: Iterable[int]) -> int:
        """Return the state with the frames of all these."""
        return self._state(frozenset().union(*(self._members[s] for s in states)))

    def stacks(self, state: int) -> list[tuple[int, ...]]:
        """Return the frames of a state as plain stacks of nodes, the innermost first."""
        out = []
        for frame in self._members[state]:
            nodes = []
            while frame != _END:
                node, frame = self._stacks[frame]
                nodes.append(node)
            spend(8 * len(nodes))
            out.append(tuple(nodes))
        return out

    def state_of(self, stacks: Iterable[tuple[int, ...]]) -> int:
        """Return the state at these stacks, which may come from another automaton."""
        frames = set()
        for nodes in stacks:
            frame = _END
            for node in reversed(nodes):
                frame = self._frame(node, frame)
            frames.add(frame)
        return self._state(frozenset(frames))

    def _union(self, reached: Iterable[tuple[int, int]]) -> int:
        closures = [self._closure(self._frame(target, back)) for target, back in reached]
        return self._state(closures[0] if len(closures) == 1 else frozenset().union(*closures))

    def _state(self, members: frozenset[int]) -> int:
        state = self._states.get(members)
        if state is None:
            self._account(_STATE_BYTES + _SET_BYTES + _MEMBER_BYTES * len(members))
            state = self._states[members] = len(self._members)
            self._members.append(members)
            if state >= len(self.rows):
                self._grow()
        return state

    def _grow(self) -> None:
        size = len(self.rows)
        self.rows = np.concatenate([self.rows, np.zeros((size, 256), dtype=np.int32)])
        self.is_expanded = np.concatenate([self.is_expanded, np.zeros(size, dtype=np.bool_)])

    def _frame(self, node: int, back: int) -> int:
        key = (node, back)
        frame = self._frames.get(key)
        if frame is None:
            self._account(_FRAME_BYTES)
            frame = self._frames[key] = len(self._stacks)
            self._stacks.append(key)
        return frame

    def _closure(self, frame: int) -> frozenset[int]:
        """Return the frames reached without reading that read something, or are the end."""
        cached = self._closures.get(frame)
        if cached is not None:
            return cached
        net = self.network
        visited, stack, closure = {frame}, [frame], []
        while stack:
            at = stack.pop()
            if at == _END:
                closure.append(at)
                continue
            node, back = self._stacks[at]
            if net.reads(node):
                closure.append(at)
            successors = [self._frame(target, back) for target in net.free_edges_of(node)]
            for target, after in net.calls_of(node):
                return_frame = back if net.only_ends_at(after) else self._frame(after, back)
                successors.append(self._frame(target, return_frame))
            if net.ends_at(node):
                successors.append(back)
            for reached in successors:
                if reached not in visited:
                    visited.add(reached)
                    stack.append(reached)
        self._account(_SET_BYTES + _MEMBER_BYTES * len(closure))
        if len(visited) > _MANY:
            look()
        self._closures[frame] = frozenset(closure)
        return self._closures[frame]
