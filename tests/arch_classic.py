"""Rows of ``arch_recipes``: the models of ``gguf_hub/gguf/arch/families/classic.py``."""

from __future__ import annotations

from tests.arch_recipe import HEAD, Recipe

ATTN = "attn_norm attn_q attn_k attn_v attn_output"
FUSED = "attn_norm attn_qkv attn_output"
FFN = "ffn_gate ffn_up ffn_down"
PLAIN_FFN = "ffn_up ffn_down"
DENSE = f"{ATTN} ffn_norm {FFN}"
NORM_BIASES = "attn_norm.bias ffn_norm.bias"
BIASED_HEAD = f"{HEAD} output_norm.bias"
EPS = {"attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-3}

CLASSIC: dict[str, Recipe] = {
    "arcee": Recipe("arcee", [f"{ATTN} ffn_norm {PLAIN_FFN}"] * 3, other=f"{HEAD} rope_freqs"),
    "chatglm": Recipe(
        "chatglm", [f"{FUSED} attn_qkv.bias ffn_norm ffn_up:D,2F ffn_down"] * 3,
        {"rope.dimension_count": 8}),
    "exaone": Recipe("exaone", [DENSE] * 3, other="output_norm rope_freqs"),
    "internlm2": Recipe("internlm2", [DENSE] * 3),
    "openelm": Recipe(  # layers have ever more heads and wider networks
        "openelm",
        [f"{FUSED} attn_q_norm attn_k_norm ffn_norm {FFN}"] * 3,
        {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32,
         "attention.head_count": [2, 4, 6], "attention.head_count_kv": [1, 2, 3],
         "feed_forward_length": [32, 64, 96]}, "output_norm"),
    "orion": Recipe("orion", [f"{DENSE} {NORM_BIASES}"] * 3, EPS, BIASED_HEAD),
    "plamo": Recipe("plamo", [f"{ATTN} {FFN}"] * 3),
    "qwen": Recipe(
        "qwen",
        [f"{FUSED} attn_qkv.bias ffn_norm ffn_gate:D,HF ffn_up:D,HF ffn_down:HF,D"] * 3,
        {"attention.head_count_kv": 4}),
    "xverse": Recipe("xverse", [DENSE] * 3),
}  # fmt: skip
