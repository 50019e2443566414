"""Encoders: models that make vectors of texts, for search and the like, and generate none."""

from __future__ import annotations

from gguf_hub.gguf.arch.architecture import (
    HEAD_NORMS,
    NORMS,
    Architecture,
    H,
    Router,
    Windows,
)
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
    activation="plain_gelu",
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
NOMIC_BERT_MOE = Architecture(
    "nomic-bert-moe",
    is_encoder=True,
    has_embedding_norm=True,
    is_post_normed=True,
    has_layer_norm=True,
    output_norm="",
    needs=_POST_NORMS,
    activation="plain_gelu",
    router=Router("softmax"),
    requires=(CAUSAL,),
    reads=(H.moe_every.name, H.weights_scale.name),
)
JINA_BERT_V2 = Architecture(
    "jina-bert-v2",
    is_encoder=True,
    rope=None,
    has_embedding_norm=True,
    is_post_normed=True,
    has_layer_norm=True,
    has_whole_norms=True,
    may_fuse_gate=True,
    output_norm="",
    needs=_POST_NORMS,
    may_have=("attn_q_norm.weight", "attn_q_norm.bias", "attn_k_norm.weight", "attn_k_norm.bias",
              "attn_norm_2.weight", "attn_norm_2.bias"),
    activation="gelu",
    requires=(CAUSAL,),
    defaults={H.max_alibi_bias.name: lambda h: 8.0},
    reads=(H.max_alibi_bias.name,),
    ignores=(H.max_alibi_bias.name,),  # it is 8 whatever a file says
)  # fmt: skip
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
