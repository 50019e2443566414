"""llama.cpp's cache and compute buffer: one sequence, batches of 512, all on the CPU.

Source: llama.cpp of llama-cpp-python 0.3.36: src/llama-kv-cache.cpp, llama-kv-cache-iswa.cpp,
llama-memory-recurrent.cpp, llama-graph.cpp, llama-context.cpp, ggml/src/ggml-alloc.c.
"""

from __future__ import annotations

from gguf_hub.hub.fit.facts import FileFacts
from gguf_hub.hub.fit.layers import LayerFacts
from gguf_hub.hub.fit.machine import KV_TYPES, Constraints

N_UBATCH = 512
"""Tokens of a batch that are computed together."""
_PAD = 256
"""Caches are multiples of so many positions."""
_F32 = 4
_WITHOUT_FLASH_ATTENTION = frozenset({"grok"})


def uses_flash_attention(file: FileFacts, constraints: Constraints) -> bool:
    """Tell whether flash attention is on: its default wherever a model can do with it."""
    return constraints.flash_attn != "off" and file.architecture not in _WITHOUT_FLASH_ATTENTION


def layer_cache_bytes(file: FileFacts, constraints: Constraints) -> tuple[int, ...]:
    """Return the bytes of each layer's K/V cache and recurrent state.

    ::

        positions x (keys + values, in the type of the cache) + state x 4

    Without flash attention values lie transposed, all layers' as wide as the widest.
    """
    n_embd_v = 0
    if not uses_flash_attention(file, constraints):
        n_embd_v = max(layer.n_embd_v for layer in file.layers)
    return tuple(_cache_bytes(layer, constraints, n_embd_v) for layer in file.layers)


def n_cells(layer: LayerFacts, n_ctx: int) -> int:
    """Return the positions of a layer's cache: of a window, as many as it and a batch need.

    E.g. 1536 for a window of 1024, however long the context.
    """
    n_full = _padded(n_ctx)
    if not layer.n_swa:
        return n_full
    return _padded(min(n_full, layer.n_swa + min(N_UBATCH, n_ctx)))


def compute_bytes(file: FileFacts, constraints: Constraints) -> int:
    """Return the bytes of the compute buffer: of a batch of T tokens, the most that lives at once.

    ::

        masks     = positions x T x 2 with flash attention, x 4 without; windows have a second one
        scores    = heads x positions x T x 4; none with flash attention
        attention = masks + scores + T x 4 x (3 n_embd + queries, results, keys, values)
        ffn       = masks + T x 4 x (3 n_embd + gate, up, product; see ``held_by_ffn``)
        head      = T x 4 x (2 n_embd + n_vocab): masks are no longer needed then
        buffer    = the largest of the three

    Three times n_embd: the input, the residual stream, its norm.

    E.g. Llama-3-8B at 8192 tokens: 266.5 MiB, its logits; without flash attention 572 MiB.
    """
    n_ctx, n_embd = constraints.n_ctx, file.shape.n_embd
    has_flash = uses_flash_attention(file, constraints)
    row_bytes = min(N_UBATCH, n_ctx) * _F32  # one number of each token
    attending = [layer for layer in file.layers if layer.n_head]
    mask_bytes = sum({bool(layer.n_swa): n_cells(layer, n_ctx) for layer in attending}.values())
    mask_bytes *= row_bytes // 2 if has_flash else row_bytes
    n_attn = max(
        layer.n_attn
        + layer.n_embd_k
        + layer.n_embd_v
        + (0 if has_flash else layer.n_head * n_cells(layer, n_ctx))
        for layer in file.layers
    )
    body = 3 * n_embd + max(n_attn, max(layer.n_ffn for layer in file.layers))
    return max(mask_bytes + row_bytes * body, row_bytes * (2 * n_embd + file.shape.n_vocab))


def _cache_bytes(layer: LayerFacts, constraints: Constraints, n_embd_v: int) -> int:
    type_ = KV_TYPES[constraints.kv_type]
    n_values = max(layer.n_embd_v, n_embd_v) if layer.n_embd_v else 0
    numbers = n_cells(layer, constraints.n_ctx) * (layer.n_embd_k + n_values)
    return -(-numbers * type_.type_size // type_.block_size) + layer.n_state * _F32


def _padded(n_positions: int) -> int:
    return -(-n_positions // _PAD) * _PAD
