"""What the keys say of latent attention, and its matrices."""

from __future__ import annotations

from collections.abc import Iterator

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.hparams import GraphHyperParameters as H
from gguf_hub.gguf.hparams import WholeNumber
from gguf_hub.gguf.memory.latents import Latents


def latents_of(h: H) -> Latents:
    """Return the sizes of latent attention.

    Raises:
        UnsupportedGgufError: Keys that do not go together.
    """
    is_absorbed = bool(h.head_dim_mla and h.n_embd_head_v_mla)
    head_dim = h.head_dim_mla if is_absorbed else h.head_dim
    _check(h, is_absorbed, head_dim)
    value_dim = h.n_embd_head_v_mla if is_absorbed else h.n_embd_head_v
    return Latents(h.n_lora_q, h.n_lora_kv, h.n_rot, head_dim - h.n_rot, value_dim, is_absorbed)


def latent_matrices(d: int, n_head: int, sizes: Latents) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the matrices of a layer that attends to latents, without ``blk.N.``."""
    rank, n_q = sizes.n_lora_kv, n_head * (sizes.n_plain + sizes.n_rot)
    if sizes.n_lora_q:
        yield "attn_q_a.weight", (d, sizes.n_lora_q)
        yield "attn_q_b.weight", (sizes.n_lora_q, n_q)
    else:
        yield "attn_q.weight", (d, n_q)
    yield "attn_kv_a_mqa.weight", (d, rank + sizes.n_rot)
    if sizes.is_absorbed:
        yield "attn_k_b.weight", (sizes.n_plain, rank, n_head)
        yield "attn_v_b.weight", (rank, sizes.n_value, n_head)
    else:
        yield "attn_kv_b.weight", (rank, n_head * (sizes.n_plain + sizes.n_value))
    yield "attn_output.weight", (n_head * sizes.n_value, d)


def _check(h: H, is_absorbed: bool, head_dim: int) -> None:
    rank, rot = H.n_lora_kv, H.n_rot
    expected: dict[WholeNumber, tuple[int, str]] = {H.n_head_kv: (h.n_head, "")}
    if is_absorbed:
        expected = {
            H.n_head_kv: (1, ""),
            H.head_dim: (h.n_lora_kv + h.n_rot, f"`{h.key(rank)}` + `{h.key(rot)}` = "),
            H.n_embd_head_v: (h.n_lora_kv, f"`{h.key(rank)}` = "),
        }
    for hparam, (number, source) in expected.items():
        if h.get(hparam) != number:
            raise UnsupportedGgufError(
                f"metadata `{h.key(hparam)}`: expected {source}{number}, found {h.get(hparam)}"
            )
    if head_dim <= h.n_rot:
        raise UnsupportedGgufError(
            f"metadata `{h.key(rot)}`: expected less than the head's {head_dim}, found {h.n_rot}"
        )
