"""Which machine of a cluster holds which layers: fewest that hold the model, then least time.

A token passes the machines one after another, so its time is the sum of theirs, and each further
machine adds a hop. The best plan is found exactly: over the sets of machines of one size, and for
each over where the layers before it end (after Halda of prima.cpp, arXiv 2504.08791, without disks
and GPUs: layers that do not stay in memory are not placed).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

from gguf_hub.gguf.memory.layout import N_BATCH, layer_cache_bytes
from gguf_hub.gguf.memory.states import state_elements
from gguf_hub.hub.fit.facts import FileFacts
from gguf_hub.hub.fit.machine import Constraints, Machine
from gguf_hub.hub.fit.memory import need_of, runner_limits
from gguf_hub.hub.fit.placement import Placement, Verdict
from gguf_hub.hub.fit.speed import speed_of

LINK_BYTES_PER_S = 125e6
"""A network of 1 Gbit/s, where nobody says otherwise."""
HOP_S = 0.5e-3
"""What passing a token to the next machine takes besides its bytes: see docs/cluster.md."""
WORKER_BYTES = 40_000_000
"""What Ray takes in the process of a stage. Measured as memory of its own (RssAnon)."""
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class ClusterNode:
    """A machine of a cluster.

    Attributes:
        name: What tells it from others.
        machine: Memory, threads and bandwidth.
        link_bytes_per_s: Of its network.
    """

    name: str
    machine: Machine
    link_bytes_per_s: float = LINK_BYTES_PER_S


@dataclass(frozen=True)
class PlannedStage:
    """What one machine holds.

    Attributes:
        node: Its name.
        first: First layer.
        end: Layer after the last one.
        has_embedding: Whether it looks tokens up.
        has_head: Whether it computes logits.
        weights_bytes: Of its tensors, as the mapped file must stay in memory to be fast.
        cache_bytes: Of keys, values and states of its layers, of all slots.
        scratch_bytes: What a batch is computed in.
        program_bytes: The process itself: Python, its packages, kernels, Ray.
        ram_bytes: The sum.
        limit_bytes: What it may take there.
        token_s: Time of a token there.
    """

    node: str
    first: int
    end: int
    has_embedding: bool
    has_head: bool
    weights_bytes: int
    cache_bytes: int
    scratch_bytes: int
    program_bytes: int
    ram_bytes: int
    limit_bytes: int
    token_s: float


@dataclass(frozen=True)
class ClusterPlan:
    """Where a model goes.

    Attributes:
        stages: In the order of the layers; none where the machines do not hold it.
        hop_s: Time of a token on the network.
        lacking_bytes: Memory that is missing, at least, where they do not.
    """

    stages: tuple[PlannedStage, ...] = ()
    hop_s: float = 0.0
    lacking_bytes: int = 0

    @property
    def token_s(self) -> float:
        """Time of a token."""
        return sum(stage.token_s for stage in self.stages) + self.hop_s


class ModelParts:
    """A model as parts that are placed one after another: embeddings, each layer, the head.

    Args:
        file: The model.
        constraints: Context and type of the cache.
        n_slots: Caches.
        n_threads: Of the machine whose scratch memory is counted.
        n_batch: Most tokens of one pass.
    """

    def __init__(
        self, file: FileFacts, constraints: Constraints, *, n_slots: int = 1, n_threads: int = 1,
        n_batch: int = N_BATCH,
    ) -> None:  # fmt: skip
        need = need_of(file, constraints, n_threads=n_threads, n_batch=n_batch)
        limits = runner_limits(constraints, n_threads, n_batch)
        is_tied = not any(share.role == "output" for share in file.tensors)
        head_bytes = file.head_bytes + (file.embedding_bytes if is_tied else 0)
        layers = file.layer_weights
        self.tied_bytes = file.embedding_bytes if is_tied else 0
        self.scratch_bytes = need.scratch_bytes
        self.program_bytes = need.overhead_bytes + WORKER_BYTES
        self.own_bytes = self.scratch_bytes + self.program_bytes
        self.weights = [
            file.embedding_bytes,
            *(layer.dense_bytes + layer.expert_bytes for layer in layers),
            head_bytes,
        ]
        caches = [
            layer_cache_bytes(sizes, limits)
            + (_FLOAT_BYTES * state_elements(sizes.state) if sizes.state else 0)
            for sizes in file.shape.layer_sizes
        ]
        self.caches = [n_slots * each for each in (0, *caches, 0)]
        self.memory = [w + c for w, c in zip(self.weights, self.caches, strict=True)]
        self.active = [
            0.0,
            *(layer.dense_bytes + layer.expert_bytes * file.expert_share for layer in layers),
            float(head_bytes),
        ]

    def ram_bytes(self, first: int, end: int) -> int:
        """Return what parts ``first`` to ``end`` take on one machine, and the program."""
        twice = self.tied_bytes if (first, end) == (0, len(self.weights)) else 0
        return self.own_bytes + self._memory_before[end] - self._memory_before[first] - twice

    def active_share(self, first: int, end: int) -> float:
        """Return how much of what a token reads these parts are."""
        before = self._active_before
        return (before[end] - before[first]) / before[-1]

    @cached_property
    def _memory_before(self) -> list[int]:
        return list(accumulate(self.memory, initial=0))

    @cached_property
    def _active_before(self) -> list[float]:
        return list(accumulate(self.active, initial=0.0))


def plan_cluster(
    file: FileFacts, constraints: Constraints, nodes: Sequence[ClusterNode], *, n_slots: int = 1,
    n_batch: int = N_BATCH,
) -> ClusterPlan:  # fmt: skip
    """Return which machine holds which layers.

    Args:
        file: The model; one that gguf-hub's own runner computes.
        constraints: Context, type of the cache, and the reserve of each machine.
        nodes: The machines; names are distinct.
        n_slots: Caches of that context.
        n_batch: Most tokens of one pass.
    """
    search = _Search(file, constraints, nodes, n_slots, n_batch)
    for size in range(1, len(nodes) + 1):
        best = search.best_of(size)
        if best is not None:
            return best
    return ClusterPlan(lacking_bytes=search.lacking_bytes)


class _Search:
    """Searches all sets of machines of one size after another."""

    def __init__(
        self, file: FileFacts, constraints: Constraints, nodes: Sequence[ClusterNode], n_slots: int,
        n_batch: int = N_BATCH,
    ) -> None:  # fmt: skip
        self._nodes = sorted(nodes, key=lambda node: node.name)
        self._width = file.shape.n_embd
        self._limits = [constraints.limit_of(node.machine) for node in self._nodes]
        options = {"n_slots": n_slots, "n_batch": n_batch}
        self._parts = [
            ModelParts(file, constraints, n_threads=node.machine.n_threads, **options)
            for node in self._nodes
        ]
        self._seconds = [_token_seconds(file, constraints, node.machine) for node in self._nodes]
        self._n_parts = len(self._parts[0].weights) if nodes else 0
        kinds = [(node.machine, node.link_bytes_per_s) for node in self._nodes]
        # of machines alike only the first that is free is tried
        self._before = [
            max((j for j in range(i) if kinds[j] == kind), default=None)
            for i, kind in enumerate(kinds)
        ]
        # machines that are used -> for each end their least time, and how it came about
        self._reached: Mapping[frozenset[int], list[_Way | None]] = {
            frozenset(): [_Way(0.0, None, 0, 0), *[None] * self._n_parts]
        }

    @property
    def lacking_bytes(self) -> int:
        """Memory that is missing on all machines together, at least."""
        if not self._nodes:
            return 0
        parts = self._parts[0]
        room = sum(max(0, limit - p.own_bytes) for limit, p in zip(self._limits, self._parts,
                                                                    strict=True))  # fmt: skip
        missing = sum(parts.memory) - parts.tied_bytes - room
        # where there is room enough, but in pieces: for one more layer
        return missing if missing > 0 else max(parts.memory)

    def best_of(self, size: int) -> ClusterPlan | None:
        """Return the best plan for so many machines; asked for 1, 2, 3 ... in turn."""
        reached: dict[frozenset[int], list[_Way | None]] = {}
        for used, ways in self._reached.items():
            for node in self._candidates(used):
                target = reached.setdefault(used | {node}, [None] * (self._n_parts + 1))
                for end, way in self._extended(ways, node):
                    known = target[end]
                    if known is None or way.token_s < known.token_s:
                        target[end] = way
        self._reached = reached
        found = [
            _pieces(last, self._n_parts)
            for ways in reached.values()
            if (last := ways[-1]) is not None
        ]
        best = min(found, key=lambda pieces: _rank(self._plan(pieces)), default=None)
        return self._plan(self._balanced(best)) if best else None

    def _candidates(self, used: frozenset[int]) -> Iterator[int]:
        for node, before in enumerate(self._before):
            if node not in used and (before is None or before in used):
                yield node

    def _extended(self, ways: Sequence[_Way | None], node: int) -> Iterator[tuple[int, _Way]]:
        """Yield for each end the best way there whose last machine is ``node``.

        Starts that fit move on with the end, so that the best of them is the first of a queue.
        """
        parts, limit, seconds = self._parts[node], self._limits[node], self._seconds[node]
        hop_s = self._hop_seconds(node)
        queue: deque[tuple[float, int]] = deque()
        for end in range(1, self._n_parts + 1):
            if (way := ways[end - 1]) is not None:
                value = way.token_s - seconds * parts.active_share(0, end - 1)
                while queue and queue[-1][0] >= value:
                    queue.pop()
                queue.append((value, end - 1))
            while queue and parts.ram_bytes(queue[0][1], end) > limit:
                queue.popleft()
            if queue:
                value, first = queue[0]
                before = ways[first]
                token_s = value + seconds * parts.active_share(0, end) + hop_s
                yield end, _Way(token_s, before, node, first)

    def _hop_seconds(self, node: int) -> float:
        """Return the time from this machine to the next one, or to the driver."""
        return HOP_S + _FLOAT_BYTES * self._width / self._nodes[node].link_bytes_per_s

    def _balanced(self, pieces: Sequence[_Piece]) -> list[_Piece]:
        """Share layers evenly among neighbours that are equally fast: no token takes longer.

        Several texts at once then keep all of them busy.
        """
        balanced: list[_Piece] = []
        for _, group in groupby(pieces, key=lambda piece: self._seconds[piece.node]):
            balanced += self._evened(list(group))
        return balanced

    def _evened(self, pieces: Sequence[_Piece]) -> Sequence[_Piece]:
        """Return the cuts that make the most of what one machine reads as little as can be."""
        if len(pieces) == 1:
            return pieces
        first, last = pieces[0].first, pieces[-1].end
        # end -> the most that one of the machines so far reads, and their pieces
        reached: dict[int, tuple[float, tuple[_Piece, ...]]] = {first: (0.0, ())}
        for i, piece in enumerate(pieces):
            parts, limit = self._parts[piece.node], self._limits[piece.node]
            following: dict[int, tuple[float, tuple[_Piece, ...]]] = {}
            for start, (most, before) in reached.items():
                for end in range(start + 1, last - (len(pieces) - i - 1) + 1):
                    if parts.ram_bytes(start, end) > limit:
                        break
                    value = max(most, parts.active_share(start, end))
                    if end not in following or value < following[end][0]:
                        following[end] = value, (*before, _Piece(piece.node, start, end))
            reached = following
        return reached[last][1]

    def _plan(self, pieces: Sequence[_Piece]) -> ClusterPlan:
        stages = tuple(self._stage(piece.node, piece.first, piece.end) for piece in pieces)
        return ClusterPlan(stages, sum(self._hop_seconds(piece.node) for piece in pieces))

    def _stage(self, node: int, first: int, end: int) -> PlannedStage:
        parts, n_layer = self._parts[node], self._n_parts - 2
        return PlannedStage(
            node=self._nodes[node].name,
            first=min(max(0, first - 1), n_layer),
            end=min(end - 1, n_layer),
            has_embedding=first == 0,
            has_head=end == self._n_parts,
            weights_bytes=sum(parts.weights[first:end])
            - (parts.tied_bytes if (first, end) == (0, self._n_parts) else 0),
            cache_bytes=sum(parts.caches[first:end]),
            scratch_bytes=parts.scratch_bytes,
            program_bytes=parts.program_bytes,
            ram_bytes=parts.ram_bytes(first, end),
            limit_bytes=self._limits[node],
            token_s=self._seconds[node] * parts.active_share(first, end),
        )


@dataclass(frozen=True)
class _Way:
    """How some first parts are placed: parts ``first`` and after on ``node``, after ``before``."""

    token_s: float
    before: _Way | None
    node: int
    first: int


@dataclass(frozen=True)
class _Piece:
    """Parts ``first`` to ``end`` of a model, on a machine."""

    node: int
    first: int
    end: int


def _pieces(last: _Way, n_parts: int) -> list[_Piece]:
    """Return what each machine of a way to the last part holds, in order."""
    pieces: list[_Piece] = []
    way, end = last, n_parts
    while way.before is not None:
        pieces.append(_Piece(way.node, way.first, end))
        end, way = way.first, way.before
    return pieces[::-1]


def _rank(plan: ClusterPlan) -> tuple[float, list[str]]:
    # times are sums of floats: those that are equal but for their order are equal
    return float(f"{plan.token_s:.9g}"), [stage.node for stage in plan.stages]


def _token_seconds(file: FileFacts, constraints: Constraints, machine: Machine) -> float:
    """Return the time of a token if this machine held all layers."""
    speed = speed_of(file, constraints, machine, Placement(Verdict.RAM))
    return 1 / speed.about_tok_per_s if speed else math.inf
