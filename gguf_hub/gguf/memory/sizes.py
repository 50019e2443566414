"""The sizes of a model, and of each of its layers, in GGUF's words."""

from __future__ import annotations

from dataclasses import dataclass, field

from gguf_hub.gguf.memory.latents import Latents
from gguf_hub.gguf.memory.states import StateSizes

LAUREL_RANK = 64
"""Width of the low-rank part beside attention where there are alternating updates."""


@dataclass(frozen=True)
class LayerSizes:
    """Sizes that may differ from layer to layer.

    Attributes:
        n_head: Heads of queries.
        n_head_kv: Heads of keys and values; 0 for a layer without attention.
        head_dim: Length of a head of queries and keys.
        n_embd_head_v: Length of a head of values.
        n_embd_head_out: Length of a head of what attention computes, where it is not that of a
            head of values (see ``Latents``); else 0.
        n_attn_gate: Gates of what attention computes of a token; 0 for none.
        n_ff: Width of the feed-forward network, if it is no mixture; 0 for a layer without one.
        n_back_kv: How many layers before it the one is whose keys and values it reads; 0 where it
            has its own.
        state: What it carries from token to token; None for nothing.
        window: How many positions a token sees, its own included; 0 for all.
        chunk: It sees none before the last multiple of this; 0 for no such bound.
    """

    n_head: int = 0
    n_head_kv: int = 0
    head_dim: int = 0
    n_embd_head_v: int = 0
    n_ff: int = 0
    n_back_kv: int = 0
    n_embd_head_out: int = 0
    n_attn_gate: int = 0
    state: StateSizes | None = None
    window: int = 0
    chunk: int = 0

    @property
    def is_windowed(self) -> bool:
        """Whether a token does not see the whole context."""
        return bool(self.window or self.chunk)

    @property
    def n_embd_q(self) -> int:
        """Width of a token's queries."""
        return self.n_head * self.head_dim

    @property
    def n_embd_k(self) -> int:
        """Width of a token's keys."""
        return self.n_head_kv * self.head_dim

    @property
    def n_embd_v(self) -> int:
        """Width of a token's values."""
        return self.n_head_kv * self.n_embd_head_v

    @property
    def n_embd_attn(self) -> int:
        """Width of what attention, or a state in its place or after it, computes of a token."""
        return self.n_embd_results[-1]

    @property
    def n_embd_results(self) -> tuple[int, ...]:
        """Widths of what attention and a state compute of a token."""
        of_heads = self.n_head * (self.n_embd_head_out or self.n_embd_head_v)
        return (of_heads, self.state.n_inner) if self.state else (of_heads,)


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model, in GGUF's words; ``n_expert`` is 0 for a dense one.

    Those of ``LayerSizes`` are the largest of any layer.

    Attributes:
        layers: What differs between the layers that are computed; empty where all are alike, and
            as many as ``n_layer``.
        is_encoder: Whether a text is computed in one batch, whose keys and values no other reads,
            and to vectors of its tokens, without logits.
        n_embd_dense: Width between two dense layers behind an encoder; 0 without them.
        n_ff_exp: Width of an expert; 0 for ``n_ff``.
        n_ff_shexp: Width of a shared expert; 0 without one.
        has_dense_layers: Whether some layers have no experts though others have.
        n_rope: Kinds of rotation.
        has_branches: Whether what a layer adds to the residual stream is computed by itself first.
        weighs_inputs: Whether experts' inputs are weighted, one row for each pair.
        has_dense_beside: Whether a layer has a dense network and experts.
        n_embd_per_layer: Width of each layer's own embeddings; 0 without.
        n_embd_moe: Width of what experts read and write, where it is not ``n_embd``; else 0.
        n_altup: Streams of alternating updates; 0 without.
        latents: Of attention; None without.
        has_query_gates: Whether queries are computed with gates of attention's results.
        adapter_rank: Largest rank of LoRA adapters of matrices; 0 without any.
        expert_adapter_rank: Of adapters of experts.
    """

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_expert: int
    n_expert_used: int
    n_vocab: int
    layers: tuple[LayerSizes, ...] = field(default=(), kw_only=True)
    is_encoder: bool = field(default=False, kw_only=True)
    n_embd_dense: int = field(default=0, kw_only=True)
    n_ff_exp: int = field(default=0, kw_only=True)
    n_ff_shexp: int = field(default=0, kw_only=True)
    has_dense_layers: bool = field(default=False, kw_only=True)
    n_rope: int = field(default=1, kw_only=True)
    has_branches: bool = field(default=False, kw_only=True)
    weighs_inputs: bool = field(default=False, kw_only=True)
    has_dense_beside: bool = field(default=False, kw_only=True)
    n_embd_per_layer: int = field(default=0, kw_only=True)
    n_embd_moe: int = field(default=0, kw_only=True)
    n_altup: int = field(default=0, kw_only=True)
    latents: Latents | None = field(default=None, kw_only=True)
    has_query_gates: bool = field(default=False, kw_only=True)
    adapter_rank: int = field(default=0, kw_only=True, repr=False)
    expert_adapter_rank: int = field(default=0, kw_only=True, repr=False)

    @property
    def n_ff_of_experts(self) -> int:
        """Width of an expert, or, without any, of the feed-forward network."""
        return self.n_ff_exp or self.n_ff

    @property
    def n_embd_of_experts(self) -> int:
        """Width of what an expert reads and writes."""
        return self.n_embd_moe or self.n_embd

    @property
    def layer_sizes(self) -> tuple[LayerSizes, ...]:
        """The sizes of each layer."""
        like_all = LayerSizes(self.n_head, self.n_head_kv, self.head_dim, self.head_dim, self.n_ff)
        return self.layers or (like_all,) * self.n_layer
