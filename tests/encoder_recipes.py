"""Tiny encoders: rows as in ``tests/arch_recipes.py``, whose results are vectors of tokens.

``tools/llama_cpp_logits.py`` has llama.cpp compute those.
"""

from __future__ import annotations

from tests.arch_recipes import (
    ATTENTION,
    BIASES,
    DENSE,
    FFN,
    HEAD_NORMS,
    POST_NORMS,
    WIDE,
    WINDOW,
    Recipe,
)

_POST_NORMS = "attn_output_norm attn_output_norm.bias layer_output_norm layer_output_norm.bias"
_INPUTS = "token_types token_embd_norm token_embd_norm.bias"
_UNGATED = "ffn_up ffn_up.bias ffn_down ffn_down.bias"
_BERT_KEYS = {
    "attention.causal": False, "attention.head_count_kv": 4,
    "attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-3,
    "rope.freq_base": None, "rope.dimension_count": None,
}  # fmt: skip
_NOMIC_KEYS = {**_BERT_KEYS, "rope.freq_base": 100.0, "rope.dimension_count": 16}
_GEMMA = f"{DENSE} {HEAD_NORMS} {POST_NORMS}"
_DENSE = {
    "dense_2_feat_in": 64, "dense_2_feat_out": 192, "dense_3_feat_in": 192, "dense_3_feat_out": 64,
}  # fmt: skip
_MODERN = "attn_norm attn_qkv attn_output ffn_norm ffn_up:D,2F ffn_down"
_WINDOW = {"attention.sliding_window": 7}
_NO_FFN = f"{ATTENTION} {BIASES} attn_output.bias {_POST_NORMS}"
_BERT = f"{_NO_FFN} {_UNGATED}"
_UNGATED_EXPERTS = "ffn_gate_inp ffn_up_exps ffn_down_exps"
_JINA_NORMS = (
    "attn_q_norm:D attn_q_norm.bias attn_k_norm:D attn_k_norm.bias attn_norm_2 attn_norm_2.bias"
)

VECTOR_POSITIONS = (0, 9, 21)
"""Tokens whose vectors are compared."""

ENCODERS: dict[str, Recipe] = {
    "bert": Recipe("bert", [_BERT] * 3, _BERT_KEYS, f"{_INPUTS} position_embd"),
    "bert-fused": Recipe(  # as DistilBERT: no types of tokens; and without biases
        "bert", [f"attn_qkv attn_output {_POST_NORMS} ffn_up ffn_down"] * 2, _BERT_KEYS,
        "token_embd_norm token_embd_norm.bias position_embd"),
    "nomic-bert": Recipe(
        "nomic-bert", [f"attn_qkv attn_output {_POST_NORMS} {FFN}"] * 3, _NOMIC_KEYS, _INPUTS),
    "gemma-embedding": Recipe(
        "gemma-embedding", [_GEMMA] * 7,
        {**WIDE, **WINDOW, "rope.freq_base": 200.0, **_DENSE},
        "output_norm dense_2:D,3D dense_3:3D,D", embedding=0.2),
    "gemma-embedding-pattern": Recipe(  # without the dense layers
        "gemma-embedding", [_GEMMA] * 4,
        {**WIDE, **WINDOW, "attention.sliding_window_pattern": 3, "rope.freq_base": 200.0,
         "rope.freq_base_swa": 50.0, "attention.causal": False}, "output_norm", embedding=0.2),
    "modern-bert": Recipe(
        "modern-bert", [_MODERN.removeprefix("attn_norm "), *[_MODERN] * 4],
        {**_NOMIC_KEYS, **_WINDOW, "rope.freq_base_swa": 50.0}, "output_norm token_embd_norm"),
    "modern-bert-silu": Recipe(
        "modern-bert", [_MODERN] * 4,
        {**_NOMIC_KEYS, **_WINDOW, "attention.sliding_window_pattern": 2,
         "hidden_activation": "silu", "rope.scaling.type": "none"},
        "output_norm token_embd_norm", unused="rope.scaling.type"),
    "nomic-bert-moe": Recipe(
        "nomic-bert-moe", [_BERT, f"{_NO_FFN} {_UNGATED_EXPERTS}"] * 2,
        {**_NOMIC_KEYS, "expert_count": 8, "expert_used_count": 2, "moe_every_n_layers": 2},
        _INPUTS),
    "jina-bert-v2": Recipe(
        "jina-bert-v2", [f"{_NO_FFN} ffn_up:D,2F ffn_down ffn_down.bias"] * 3, _BERT_KEYS, _INPUTS),
    "jina-bert-v2-code": Recipe(
        "jina-bert-v2", [f"{_NO_FFN} {_JINA_NORMS} {FFN} ffn_up.bias ffn_down.bias"] * 3,
        _BERT_KEYS, _INPUTS),
}  # fmt: skip
