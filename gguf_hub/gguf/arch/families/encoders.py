"""Encoders: models that make vectors of texts, for search and the like, and generate none."""

from __future__ import annotations

from gguf_hub.gguf.arch.architecture import HEAD_NORMS, NORMS, Architecture, H, Windows
from gguf_hub.gguf.arch.families.keys import AFTER, WINDOW
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
NOMIC_BERT = Architecture(
    "nomic-bert",
    is_encoder=True,
    has_embedding_norm=True,
    is_post_normed=True,
    has_layer_norm=True,
    output_norm="",
    needs=_POST_NORMS,
    requires=(CAUSAL,),
)
MODERN_BERT = Architecture(
    "modern-bert",
    is_encoder=True,
    has_embedding_norm=True,
    has_layer_norm=True,
    is_first_unnormed=True,
    has_fused_gate=True,
    activation="gelu",
    windows=Windows(3, is_full_first=True, is_plain=True, is_symmetric=True, freq_base=10000.0),
    requires=(CAUSAL,),
    reads=(H.hidden_activation.name, *WINDOW),
)
GEMMA_EMBEDDING = Architecture(
    "gemma-embedding",
    is_encoder=True,
    needs=(*NORMS, *HEAD_NORMS, *AFTER),
    activation="gelu",
    scales_embeddings=True,
    windows=Windows(6, is_plain=True, is_symmetric=True, freq_base=10000.0),
    requires=(H.n_swa.name,),
    reads=(H.dense_2_feat_in.name, H.dense_2_feat_out.name, H.dense_3_feat_in.name,
           H.dense_3_feat_out.name, *WINDOW),
)  # fmt: skip
