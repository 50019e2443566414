"""Tensors beside a Llama's: embeddings that layers have of their own, and alternating updates.

Shape letters: D n_embd, P width of a layer's own embeddings, L layers, A streams.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguf_hub.gguf.memory.sizes import LAUREL_RANK

Shape = tuple[int, ...]

ALTUP_VECTORS = ("altup_correct_scale.weight", "altup_router_norm.weight",
                 "laurel_post_norm.weight")  # fmt: skip


def model_tensors(d: int, n_rows: int, per_layer: int, n_layer: int, n_altup: int) -> Iterator[
    tuple[str, Shape, bool]
]:  # fmt: skip
    """Yield the tensors that a model has once, and whether each is a vector."""
    if per_layer:
        width = per_layer * n_layer
        yield "per_layer_token_embd.weight", (width, n_rows), False
        yield "per_layer_model_proj.weight", (d, width), False
        yield "per_layer_proj_norm.weight", (per_layer,), True
    if n_altup:
        yield "altup_proj.weight", (d, d, n_altup - 1), False
        yield "altup_unembd_proj.weight", (d, d, n_altup - 1), False


def layer_tensors(d: int, per_layer: int, n_altup: int) -> Iterator[tuple[str, Shape, bool]]:
    """Yield the tensors of each layer, without ``blk.N.``, and whether each is a vector."""
    if per_layer:
        yield "inp_gate.weight", (d, per_layer), False
        yield "proj.weight", (per_layer, d), False
    if n_altup:
        yield "altup_router.weight", (d, n_altup), False
        yield "altup_predict_coef.weight", (n_altup, n_altup * n_altup), True
        yield "altup_correct_coef.weight", (n_altup, n_altup), True
        yield "laurel_l.weight", (d, LAUREL_RANK), False
        yield "laurel_r.weight", (LAUREL_RANK, d), False
