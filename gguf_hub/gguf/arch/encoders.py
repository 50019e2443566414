"""Tensors beside the layers that encoders have, and some others.

Shape letters: D n_embd, W width of a dense layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch.architecture import Architecture, H
from gguf_hub.gguf.format import AnyTensor

TOKEN_TYPES = "token_types.weight"
"""A vector for each type of token, [types, D]; all tokens of a text are of the first."""


def encoder_tensors(
    arch: Architecture, h: H, there: Mapping[str, AnyTensor]
) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Yield what is added to the embeddings and norms them, and dense layers behind the last one.

    With each name stand the shape and whether it is a vector. llama.cpp has the dense layers
    behind the pooling; as they are linear, they may as well stand before it.
    """
    d = h.n_embd
    if arch.has_embedding_norm:
        yield "token_embd_norm.weight", (d,), True
        if arch.is_post_normed or not arch.is_encoder:
            yield "token_embd_norm.bias", (d,), True
    if arch.is_post_normed and (types := there.get(TOKEN_TYPES)):
        yield TOKEN_TYPES, (d, *types.shape[1:2]), True
    width = dense_width(arch, h)
    if width or (H.dense_2_feat_out.name in arch.reads and "dense_2.weight" in there):
        yield "dense_2.weight", (d, width), False
        yield "dense_3.weight", (width, d), False


def dense_width(arch: Architecture, h: H) -> int:
    """Return the width between the two dense layers behind an encoder; 0 without them.

    Raises:
        UnsupportedGgufError: They do not fit each other or the vectors.
    """
    if H.dense_2_feat_out.name not in arch.reads:
        return 0
    width = h.dense_2_feat_out
    for hparam, expected in (
        (H.dense_2_feat_in, h.n_embd), (H.dense_3_feat_in, width), (H.dense_3_feat_out, h.n_embd),
    ):  # fmt: skip
        found = h.get(hparam, expected)
        if width and found != expected:
            raise UnsupportedGgufError(
                f"metadata `{h.key(hparam)}`: expected {expected}, found {found}",
                hint="`gguf-hub verify` checks the file",
            )
    return width
