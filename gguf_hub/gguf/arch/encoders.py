"""Tensors that encoders have beside their layers.

Shape letters: D n_embd, S positions that the model was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gguf_hub.gguf.arch.architecture import Architecture, H
from gguf_hub.gguf.format import AnyTensor

TOKEN_TYPES = "token_types.weight"
"""A vector for each type of token, [types, D]; all tokens of a text are of the first."""
POSITIONS = "position_embd.weight"
"""A vector for each position, [S, D]."""
OF_CLASSIFIERS = frozenset(
    f"{part}.{kind}" for part in ("cls", "cls.output", "cls.norm") for kind in ("weight", "bias")
)
"""What makes scores of the vectors that an encoder computes; the graph ends before it."""


def encoder_vectors(
    arch: Architecture, h: H, there: Mapping[str, AnyTensor]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield what is added to the embeddings, and what norms them, before the first layer."""
    d = h.n_embd
    if arch.has_embedding_norm:
        yield "token_embd_norm.weight", (d,)
        if arch.is_post_normed:
            yield "token_embd_norm.bias", (d,)
    if arch.has_positions:
        yield POSITIONS, (d, h.n_ctx_train)
    if arch.is_post_normed and (types := there.get(TOKEN_TYPES)):
        yield TOKEN_TYPES, (d, *types.shape[1:2])
