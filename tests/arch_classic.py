"""Rows of ``arch_recipes``: the models of ``gguf_hub/gguf/arch/families/classic.py``."""

from __future__ import annotations

from tests.arch_recipe import HEAD, Recipe

ATTN = "attn_norm attn_q attn_k attn_v attn_output"
FUSED = "attn_norm attn_qkv attn_output"
FFN = "ffn_gate ffn_up ffn_down"
PLAIN_FFN = "ffn_up ffn_down"
DENSE = f"{ATTN} ffn_norm {FFN}"
NORM_BIASES = "attn_norm.bias ffn_norm.bias"
QKV_BIASES = "attn_q.bias attn_k.bias attn_v.bias"
FFN_BIASES = "ffn_up.bias ffn_down.bias"
OWN_NORMS = "attn_q_norm:d,H attn_k_norm:d,HK"
GELU_LAYER = f"{ATTN} {QKV_BIASES} attn_output.bias {NORM_BIASES} ffn_norm {PLAIN_FFN} {FFN_BIASES}"
GPTNEOX = f"{FUSED} attn_qkv.bias attn_output.bias {NORM_BIASES} ffn_norm {PLAIN_FFN} {FFN_BIASES}"
TIED = "output_norm"
BIASED_HEAD = f"{HEAD} output_norm.bias"
NO_ROPE: dict[str, None] = {"rope.freq_base": None, "rope.dimension_count": None}
EPS = {"attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-3}

CLASSIC: dict[str, Recipe] = {
    "apertus": Recipe(
        "apertus", [f"{ATTN} attn_q_norm attn_k_norm ffn_norm {PLAIN_FFN}"] * 3,
        {"xielu.alpha_n": [0.2, 0.6, -0.4], "xielu.alpha_p": [0.7, -0.5, 1.1],
         "xielu.beta": [0.5, 0.4, 0.6], "xielu.eps": [-0.4, -0.2, -0.3]},
        f"{HEAD} rope_freqs"),
    "arcee": Recipe("arcee", [f"{ATTN} ffn_norm {PLAIN_FFN}"] * 3, other=f"{HEAD} rope_freqs"),
    "baichuan": Recipe("baichuan", [DENSE] * 32),
    "baichuan-13b": Recipe(  # told by its 40 layers
        "baichuan", [DENSE] * 40, {"attention.head_count_kv": 4},
        unused="rope.freq_base rope.dimension_count"),
    "bloom": Recipe(
        "bloom", [GPTNEOX] * 3, {**EPS, "attention.head_count_kv": 4, **NO_ROPE},
        f"{TIED} output_norm.bias token_embd_norm token_embd_norm.bias"),
    "bitnet": Recipe(
        "bitnet", [f"{DENSE} attn_sub_norm ffn_sub_norm"] * 3, other=TIED),
    "chatglm": Recipe(
        "chatglm", [f"{FUSED} attn_qkv.bias ffn_norm ffn_up:D,2F ffn_down"] * 3,
        {"rope.dimension_count": 8}),
    "codeshell": Recipe("codeshell", [GELU_LAYER] * 3, EPS, BIASED_HEAD),
    "command-r": Recipe("command-r", [f"{ATTN} {FFN}"] * 3, {**EPS, "logit_scale": 0.7}, TIED),
    "command-r-plus": Recipe(  # from 64 layers on, each head has a norm of its own
        "command-r", [f"{ATTN} {OWN_NORMS} {FFN}"] * 64, {**EPS, "logit_scale": 0.7}, TIED),
    "deci": Recipe(  # attention, none, a matrix in its place, neither it nor a network
        "deci",
        [DENSE, f"ffn_norm {FFN}", f"attn_norm attn_output:D,D ffn_norm {FFN}", "", DENSE],
        {"attention.key_length": 16, "attention.value_length": 16,
         "attention.head_count": [4, 0, 4, 0, 4], "attention.head_count_kv": [2, 0, 0, 0, 1],
         "feed_forward_length": [96, 64, 32, 0, 128]}, f"{HEAD} rope_freqs"),
    "deci-linear-last": Recipe(
        "deci",
        [DENSE, f"attn_norm attn_output:D,D ffn_norm {FFN}"],
        {"attention.key_length": 16, "attention.value_length": 16,
         "attention.head_count": [4, 4], "attention.head_count_kv": [2, 0],
         "feed_forward_length": [96, 64]}, HEAD),
    "exaone": Recipe("exaone", [DENSE] * 3, other="output_norm rope_freqs"),
    "falcon": Recipe(
        "falcon", [f"{FUSED} attn_norm.bias {PLAIN_FFN}"] * 3,
        {**EPS, "attention.head_count_kv": 1}, BIASED_HEAD),
    "falcon-40b": Recipe(  # attention and network have a norm each
        "falcon",
        [f"{FUSED} attn_norm.bias attn_norm_2 attn_norm_2.bias {PLAIN_FFN}"] * 3,
        EPS, f"{TIED} output_norm.bias"),
    "gpt2": Recipe(
        "gpt2", [GPTNEOX] * 3, {**EPS, "attention.head_count_kv": 4, **NO_ROPE},
        f"{TIED} output_norm.bias position_embd"),
    "gptneox": Recipe(
        "gptneox", [GPTNEOX] * 3,
        {**EPS, "attention.head_count_kv": 4, "rope.dimension_count": 4,
         "use_parallel_residual": True}, BIASED_HEAD),
    "gptneox-sequential": Recipe(
        "gptneox", [GPTNEOX] * 3,
        {**EPS, "attention.head_count_kv": 4, "use_parallel_residual": False}, BIASED_HEAD),
    "internlm2": Recipe("internlm2", [DENSE] * 3),
    "jais": Recipe(
        "jais", [f"{FUSED} attn_qkv.bias attn_output.bias {NORM_BIASES} ffn_norm {FFN} {FFN_BIASES}"
                 " ffn_gate.bias"] * 3,
        {**EPS, "attention.head_count_kv": 4, "attention.max_alibi_bias": 8.0, **NO_ROPE},
        BIASED_HEAD),
    "mpt": Recipe(
        "mpt", [f"{FUSED} ffn_norm {PLAIN_FFN}"] * 3,
        {**EPS, **NO_ROPE, "attention.head_count_kv": 4, "attention.max_alibi_bias": 8.0,
         "attention.clamp_kqv": 0.9}, TIED),
    "mpt-biased": Recipe(
        "mpt",
        [GPTNEOX] * 3,
        {**EPS, "attention.head_count_kv": 4, **NO_ROPE, "attention.max_alibi_bias": 16.0},
        f"{TIED} output_norm.bias"),
    "olmo": Recipe(
        "olmo", [f"attn_q attn_k attn_v attn_output {FFN}"] * 3,
        {**EPS, "attention.clamp_kqv": 0.9}, "output"),
    "openelm": Recipe(  # layers have ever more heads and wider networks
        "openelm",
        [f"{FUSED} attn_q_norm attn_k_norm ffn_norm {FFN}"] * 3,
        {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32,
         "attention.head_count": [2, 4, 6], "attention.head_count_kv": [1, 2, 3],
         "feed_forward_length": [32, 64, 96]}, "output_norm"),
    "orion": Recipe("orion", [f"{DENSE} {NORM_BIASES}"] * 3, EPS, BIASED_HEAD),
    "phi2": Recipe(
        "phi2",
        [f"{FUSED} attn_norm.bias attn_qkv.bias attn_output.bias {PLAIN_FFN} {FFN_BIASES}"] * 3,
        {**EPS, "rope.dimension_count": 8}, f"{BIASED_HEAD} output.bias"),
    "plamo": Recipe("plamo", [f"{ATTN} {FFN}"] * 3),
    "qwen": Recipe(
        "qwen",
        [f"{FUSED} attn_qkv.bias ffn_norm ffn_gate:D,HF ffn_up:D,HF ffn_down:HF,D"] * 3,
        {"attention.head_count_kv": 4}),
    "refact": Recipe(  # heads that are no power of two
        "refact", [DENSE] * 3,
        {**NO_ROPE, "attention.head_count": 6, "attention.head_count_kv": 1,
         "attention.key_length": 16, "attention.value_length": 16}),
    "stablelm": Recipe(
        "stablelm", [f"{DENSE} {NORM_BIASES} {QKV_BIASES}"] * 3,
        {**EPS, "rope.dimension_count": 4, "use_parallel_residual": True}, BIASED_HEAD,
        unused="use_parallel_residual"),
    "stablelm-parallel": Recipe(  # as of StableLM 2 12B
        "stablelm", [f"{ATTN} attn_norm.bias {OWN_NORMS} {FFN}"] * 3,
        {**EPS, "rope.dimension_count": 4, "use_parallel_residual": True}, BIASED_HEAD,
        unused="use_parallel_residual"),
    "starcoder": Recipe(
        "starcoder", [GPTNEOX] * 3, {**EPS, "attention.head_count_kv": 1, **NO_ROPE},
        f"{BIASED_HEAD} position_embd"),
    "starcoder2": Recipe(
        "starcoder2", [GELU_LAYER] * 3, EPS, f"{TIED} output_norm.bias"),
    "xverse": Recipe("xverse", [DENSE] * 3),
}  # fmt: skip
