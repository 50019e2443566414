"""Tiny encoders: rows as in ``tests/arch_recipes.py``, whose results are vectors of tokens.

``tools/llama_cpp_logits.py`` has llama.cpp compute those.
"""

from __future__ import annotations

from tests.arch_recipes import ATTENTION, BIASES, Recipe

_POST_NORMS = "attn_output_norm attn_output_norm.bias layer_output_norm layer_output_norm.bias"
_INPUTS = "token_types token_embd_norm token_embd_norm.bias"
_UNGATED = "ffn_up ffn_up.bias ffn_down ffn_down.bias"
_BERT_KEYS = {
    "attention.causal": False, "attention.head_count_kv": 4,
    "attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-3,
    "rope.freq_base": None, "rope.dimension_count": None,
}  # fmt: skip
_BERT = f"{ATTENTION} {BIASES} attn_output.bias {_POST_NORMS} {_UNGATED}"

VECTOR_POSITIONS = (0, 9, 21)
"""Tokens whose vectors are compared."""

ENCODERS: dict[str, Recipe] = {
    "bert": Recipe("bert", [_BERT] * 3, _BERT_KEYS, f"{_INPUTS} position_embd"),
    "bert-fused": Recipe(  # as DistilBERT: no types of tokens; and without biases
        "bert", [f"attn_qkv attn_output {_POST_NORMS} ffn_up ffn_down"] * 2, _BERT_KEYS,
        "token_embd_norm token_embd_norm.bias position_embd"),
}  # fmt: skip
