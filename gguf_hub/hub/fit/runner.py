"""How our runner lays out its memory, as formulas of a model's shape.

The runner itself is in another tower, which this one must not import; a test holds these formulas
equal to what ``model.program`` takes. Shape letters: T tokens of a batch, D n_embd, H heads, K kv
heads, d head_dim, F n_ff, E experts, A active experts, P = T x A pairs, V vocab, S positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.catalog import ModelShape
from gguf_hub.hub.fit.facts import FileFacts, Role

Kind = Literal["f32", "q8_0", "q8_k"]
"""How activations are kept for the weights that meet them."""

HEADER = 16  # int64 that every program reserves
_ALIGN = 64  # elements
_KIND_OF_BLOCK: dict[int, Kind] = {1: "f32", 32: "q8_0", 256: "q8_k"}
# kind -> values of a block, bytes and floats that go with them
_BLOCKS: dict[Kind, tuple[int, int, int]] = {"q8_0": (32, 36, 2), "q8_k": (256, 304, 25)}
# the cache is laid out in pieces of 32 positions or dimensions; attention goes over 256 positions
# for 16 tokens and 4 rows at a time; products of many tokens over panels of 32 rows
_LANES, _CHUNK, _ROWS, _TOKENS, _STATE, _PANEL_ROWS = 32, 256, 4, 16, 2, 32
# activations -> the roles of the weights that read them
_READERS: dict[str, tuple[Role, ...]] = {
    "normed": ("attn", "router", "ffn", "other"),
    "attended": ("attn_output",),
    "gate": ("ffn_down",),
    "final": ("output",),
}


@dataclass(frozen=True)
class Limits:
    """What scratch is laid out for: tokens of a batch T, threads, rows of logits."""

    n_batch: int
    n_threads: int
    n_outputs: int = 1


@dataclass(frozen=True)
class Area:
    """Some elements of one of the runner's arrays.

    Attributes:
        array: ``n`` (int64), ``f`` (float32) or ``q`` (int8).
        name: What lies there.
        kind: Written only where weights want activations of that kind; None for always.
    """

    array: Literal["n", "f", "q"]
    name: str
    n_elements: int
    kind: Kind | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes."""
        return self.n_elements * {"n": 8, "f": 4, "q": 1}[self.array]


def kind_of(type_: QuantType | int) -> Kind:
    """Return the kind of activations that weights of a type meet."""
    block_size = type_.block_size if isinstance(type_, QuantType) else 0
    return _KIND_OF_BLOCK.get(block_size, "q8_k")


def kv_elements(shape: ModelShape, n_ctx: int, kv_type: str = "f16") -> int:
    """Return the halves that the K/V cache takes, or as much: 2 x n_layer x [K, S, d].

    Positions and the length of a head are rounded up to multiples of 32. Of ``q8_0`` a position has
    d / 2 halves of steps and a scale for each 32 dimensions; ``f32``, which the runner lacks, would
    be twice ``f16``.

    Source: gguf_hub/run/kernels/attention/cache.py.
    """
    positions, tiles = _up(n_ctx, _LANES), -(-shape.head_dim // _LANES)
    keys, values = positions * shape.head_dim, positions * tiles * _LANES
    if kv_type == "q8_0":
        keys, values = keys // 2 + positions * tiles, values // 2 + positions * tiles
    heads = shape.n_head_kv * (2 if kv_type == "f32" else 1)
    return shape.n_layer * (_up(heads * keys) + _up(heads * values))


@lru_cache
def areas(shape: ModelShape, limits: Limits) -> tuple[Area, ...]:
    """Return everything that the runner allocates besides the K/V cache.

    Source: ``ProgramBuilder`` in gguf_hub/run/model/program.py.
    """
    return tuple(_areas(shape, limits))


def _areas(shape: ModelShape, limits: Limits) -> Iterator[Area]:
    t, outputs = limits.n_batch, limits.n_outputs
    d, d_head = shape.n_embd, shape.n_head * shape.head_dim
    d_kv, experts = shape.n_head_kv * shape.head_dim, shape.n_expert
    pairs = t * max(1, shape.n_expert_used)
    group = shape.n_head // shape.n_head_kv
    yield Area("n", "header", HEADER)
    yield from _ints("ids, headers of slots, rows", t, 4, outputs)
    yield from _floats("residual [T, D]", t * d)
    yield from _activations("normed", t, d)
    yield from _floats("q, k, v", t * d_head, t * d_kv, t * d_kv)
    yield from _activations("attended", t, d_head)
    yield from _floats("attention", limits.n_threads * _attention_floats(group, shape.head_dim))
    yield from _activations("gate", pairs, shape.n_ff)
    yield from _floats("up [P, F], answers [P, D]", pairs * shape.n_ff, pairs * d)
    yield from _floats("router logits", t * max(1, experts))
    yield from _ints("pairs by expert", experts + 1, pairs)
    yield Area("q", "panels", _up(limits.n_threads * _panel_bytes(max(d, d_head, shape.n_ff))))
    yield from _floats("sums of panels", limits.n_threads * _PANEL_ROWS * max(t, outputs))
    yield from _floats("rope", t * shape.head_dim, 1, 1, shape.head_dim)
    yield from _floats("gains", *[d] * (2 * shape.n_layer + 1))
    for _ in range(shape.n_layer if experts else 0):
        yield from _ints("chosen, tables", t * shape.n_expert_used, experts, experts, experts)
        yield from _floats("expert weights", t * shape.n_expert_used)
    yield from _activations("attended", outputs, d_head)  # of the rows that want logits
    yield from _floats("wanted", outputs * d)
    yield from _activations("final", outputs, d)
    yield from _floats("logits", outputs * shape.n_vocab)


def touched_bytes(facts: FileFacts, limits: Limits) -> int:
    """Return what of it is ever written, so what takes memory: activations only as read."""
    wanted = {
        name: {kind_of(share.type) for share in facts.tensors if share.role in roles}
        for name, roles in _READERS.items()
    }
    return sum(
        area.size_bytes
        for area in areas(facts.shape, limits)
        if area.kind is None or area.kind in wanted[area.name]
    )


def _attention_floats(group: int, head_dim: int) -> int:
    """What attention needs for each thread. Source: gguf_hub/run/kernels/attention/cache.py."""
    sums = _STATE + _up(head_dim, _LANES)
    return 2 * _ROWS * _CHUNK + 4 * _ROWS + _TOKENS * group * sums


def _panel_bytes(n_in: int) -> int:
    """A panel of rows of so many weights. Source: gguf_hub/run/kernels/matmul/scratch.py."""
    return 48 * 256 * -(-n_in // 2048)


def _up(n: int, step: int = _ALIGN) -> int:
    """Round up to a multiple."""
    return -(-n // step) * step


def _ints(name: str, *sizes: int) -> Iterator[Area]:
    for n in sizes:
        yield Area("n", name, _up(n))


def _floats(name: str, *sizes: int) -> Iterator[Area]:
    for n in sizes:
        yield Area("f", name, _up(n))


def _activations(name: str, rows: int, width: int) -> Iterator[Area]:
    """Rows as they are, and room for each quantised kind whose blocks they fill."""
    yield Area("f", name, _up(rows * width))
    for kind, (block, n_bytes, floats) in _BLOCKS.items():
        if width % block == 0:
            yield Area("q", name, _up(rows * (width // block * n_bytes)), kind)
            yield Area("f", name, _up(rows * (width // block * floats)), kind)
