"""Encoders: models that make vectors of texts, for search and the like, and generate none."""

from __future__ import annotations

from gguf_hub.gguf.arch.architecture import Architecture
from gguf_hub.gguf.hparams import CAUSAL

_POST_NORMS = ("attn_output_norm.weight", "attn_output_norm.bias", "layer_output_norm.weight",
               "layer_output_norm.bias")  # fmt: skip

BERT = Architecture(
    "bert",
    is_encoder=True,
    rope=None,
    has_positions=True,
    has_embedding_norm=True,
    is_post_normed=True,
    has_layer_norm=True,
    output_norm="",
    needs=_POST_NORMS,
    activation="gelu_alone",
    requires=(CAUSAL,),
)
