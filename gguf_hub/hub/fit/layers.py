"""What each layer of a model keeps and computes, as far as llama.cpp's memory depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from gguf_hub.hub.catalog import ModelShape


@dataclass(frozen=True)
class LayerFacts:
    """One layer; all in numbers, not bytes.

    Attributes:
        n_head: Query heads; 0 for a layer without attention, or outside of the graph.
        n_attn: Queries and results of attention, or all that recurrence computes, of one token.
        n_ffn: What the feed-forward part holds at once, of one token, see ``held_by_ffn``.
        n_embd_k: Keys in the cache, of one position; 0 for a layer that caches none.
        n_embd_v: Values in the cache; 0 also where they are part of the keys (MLA).
        n_swa: Positions of its sliding window; 0 where it attends to the whole context.
        n_state: Recurrent state of a sequence, in F32.
    """

    n_head: int
    n_attn: int
    n_ffn: int
    n_embd_k: int = 0
    n_embd_v: int = 0
    n_swa: int = 0
    n_state: int = 0


def uniform_layers(shape: ModelShape) -> tuple[LayerFacts, ...]:
    """Return the layers of a model whose layers are all alike, as a Llama's or a Mixtral's."""
    layer = LayerFacts(
        n_head=shape.n_head,
        n_attn=2 * shape.n_head * shape.head_dim,
        n_ffn=held_by_ffn(
            shape.n_embd, shape.n_ff, shape.n_ff, shape.n_ff, n_used=shape.n_expert_used
        ),
        n_embd_k=shape.n_head_kv * shape.head_dim,
        n_embd_v=shape.n_head_kv * shape.head_dim,
    )
    return (layer,) * shape.n_layer


def held_by_ffn(n_embd: int, n_gate: int, n_up: int, n_ff: int, *, n_used: int = 0) -> int:
    """Return the numbers that one token's feed-forward part holds at once.

    ::

        gate + up + product, and n_embd in a gap where these are more than 6 n_embd
        results + product [+ gate + up, where these are more than 2 n_embd]

    The second where the results of experts are more than gate, up and their input leave room for.
    Attention leaves room for 2 n_embd: what fits in there needs no other.

    Args:
        n_embd: Width of the model.
        n_gate: Numbers of the gate; 0 for a part without one.
        n_up: Numbers of what it is multiplied with, both in one where a file has them so.
        n_ff: Numbers of the product, that the last matrix reads.
        n_used: Experts of a token; 0 for a dense part.

    Source: llama.cpp, build_ffn and build_moe_ffn in src/llama-graph.cpp, laid out by the rules of
    ggml/src/ggml-alloc.c.
    """
    n_inputs, n_product = max(1, n_used) * (n_gate + n_up), max(1, n_used) * n_ff
    n_results = n_used * n_embd
    if n_results > n_embd + n_inputs:
        return n_results + n_product + (n_inputs if n_inputs > 2 * n_embd else 0)
    held = n_inputs + n_product
    return held + (n_embd if held > 6 * n_embd else 0)
