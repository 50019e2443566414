"""Tiny models of every architecture: one row each, with what a file of that architecture holds.

A row names keys beyond the common ones, tensors beside the layers, and for each layer its tensors.
A tensor's shape follows from the keys (``tests/arch_models.py``, ``SHAPES``) unless the row says
another, as in ``attn_q:D,2Q``; a name that ends with a dot has no
``.weight`` behind it. ``tools/llama_cpp_logits.py`` has llama.cpp compute their logits.
"""

from __future__ import annotations

import re
from typing import Any

from tests.arch_classic import CLASSIC
from tests.arch_recipe import Recipe

# tensors that go together
ATTENTION = "attn_q attn_k attn_v attn_output"
BIASES = "attn_q.bias attn_k.bias attn_v.bias"
HEAD_NORMS = "attn_q_norm attn_k_norm"
FULL_NORMS = "attn_q_norm:Q attn_k_norm:KV"
FFN = "ffn_gate ffn_up ffn_down"
POST_NORMS = "post_attention_norm post_ffw_norm"
EXPERTS = "ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps"
SHARED = "ffn_gate_shexp ffn_up_shexp ffn_down_shexp"
MAMBA2 = (
    "attn_norm ssm_in ssm_conv1d ssm_conv1d.bias ssm_dt.bias ssm_a:1,T ssm_d:1,T "
    "ssm_norm:J,G ssm_out"
)
MAMBA1 = (
    "attn_norm ssm_in:D,2I ssm_conv1d:CK,I ssm_conv1d.bias:I ssm_x ssm_dt ssm_dt.bias:I ssm_a:S,I "
    "ssm_d:I ssm_out"
)
RATE_NORMS = "ssm_dt_norm ssm_b_norm ssm_c_norm"
DELTA_NET = (
    "attn_norm attn_qkv:D,C attn_gate ssm_conv1d ssm_dt.bias ssm_a ssm_norm ssm_out "
    "post_attention_norm"
)
GATED = f"attn_norm attn_q:D,2Q attn_k attn_v attn_output {HEAD_NORMS} post_attention_norm"
LATENT_Q = "attn_norm attn_q_a attn_q_a_norm attn_q_b attn_kv_a_mqa attn_kv_a_norm"
LATENT = f"{LATENT_Q} attn_k_b attn_v_b attn_output ffn_norm"
CONVOLUTION = "attn_norm shortconv.conv shortconv.in_proj shortconv.out_proj ffn_norm"
MTP = "nextn.eh_proj nextn.enorm nextn.hnorm nextn.shared_head_norm"
ATTN = f"attn_norm {ATTENTION} ffn_norm"
DENSE = f"{ATTN} {FFN}"
HEAD = "output_norm output"
TIED = "output_norm"

# keys that go together
WIDE = {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32}
MOE = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 32}
NARROW_MOE = {"expert_count": 8, "expert_used_count": 2, "feed_forward_length": 32}
SIGMOID = {"expert_gating_func": 2}
GROUPS = {"expert_group_count": 4, "expert_group_used_count": 2}
WINDOW = {"attention.sliding_window": 6}
SCALES = {"embedding_scale": 1.7, "residual_scale": 0.6, "attention.scale": 0.3, "logit_scale": 0.8}
SSM = {
    "ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.group_count": 2, "ssm.time_step_rank": 8,
    "ssm.inner_size": 128,
}  # fmt: skip
SSM1 = {name: value for name, value in SSM.items() if name != "ssm.group_count"}
NO_HEADS = {
    "attention.head_count": 0, "attention.head_count_kv": None, "feed_forward_length": 0,
}  # fmt: skip
DELTA = {
    **SSM, "ssm.time_step_rank": 4, "ssm.inner_size": 64, "full_attention_interval": 4,
    "rope.dimension_count": 16,
}  # fmt: skip
MLA = {
    "attention.head_count_kv": 1, "attention.key_length": 48, "attention.value_length": 32,
    "attention.key_length_mla": 32, "attention.value_length_mla": 24, "attention.kv_lora_rank": 32,
    "attention.q_lora_rank": 24, "rope.dimension_count": 16, "expert_shared_count": 2,
    "leading_dense_block_count": 1, "expert_weights_scale": 1.8, **MOE,
}  # fmt: skip
GEMMA4 = {
    **WIDE, **WINDOW, "rope.freq_base": 1000.0, "rope.freq_base_swa": 100.0,
    "final_logit_softcapping": 4.0, "embedding_length_per_layer_input": 0,
    "attention.key_length_swa": 16, "attention.value_length_swa": 16,
    "rope.dimension_count_swa": 16, "attention.shared_kv_layers": 0,
}  # fmt: skip
HYBRID = {**WIDE, **SSM, "attention.head_count_kv": [0, 0, 2, 0]}
QWEN35 = {**WIDE, **DELTA, "rope.dimension_sections": [3, 3, 2, 0]}


def yarn(factor: float, original: int, **more: float) -> dict[str, Any]:
    """Return the keys of YaRN, with a base at which pairs lie inside of its ramp.

    Args:
        factor: By how much angles are divided where a pair turns slowly.
        original: The context that the model was trained for.
        more: Further keys of ``rope.scaling``.
    """
    return {
        "rope.freq_base": 500.0, "rope.scaling.type": "yarn", "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": original,
        **{f"rope.scaling.{name}": value for name, value in more.items()},
    }  # fmt: skip


_LITE = LATENT.replace("attn_q_a attn_q_a_norm attn_q_b", "attn_q")
_MOE_LAYER = f"attn_norm {ATTENTION} ffn_norm {EXPERTS}"
_QK_MOE = f"attn_norm {ATTENTION} {HEAD_NORMS} ffn_norm {EXPERTS}"
_AFMOE = f"{ATTN} {HEAD_NORMS} {POST_NORMS} attn_gate:D,Q"
_COHERE = f"attn_norm {ATTENTION}"
_STEP = f"{ATTN} {HEAD_NORMS} attn_gate:D,H"
_MIMO = "attn_norm attn_qkv:D,QKE attn_output ffn_norm"
_BAILING = f"attn_norm attn_qkv {HEAD_NORMS} attn_output ffn_norm"
_NO_PRE_NORM = f"{ATTENTION} {FULL_NORMS} {FFN} {POST_NORMS}"
_EXAONE = f"{ATTENTION} {HEAD_NORMS} {FFN} {POST_NORMS}"
_GEMMA2 = f"{DENSE} {POST_NORMS}"
_GEMMA3 = f"{_GEMMA2} {HEAD_NORMS}"
_GEMMA4 = f"{_GEMMA3} layer_output_scale"
_GEMMA4_FULL = _GEMMA4.replace(" attn_v", "")
_GEMMA4_E = f"{_GEMMA4} inp_gate proj post_norm"
_GEMMA4_SHARED = re.sub(r" attn_k\b| attn_v| attn_k_norm", "", _GEMMA4_E)
_GEMMA3N = (
    f"{_GEMMA3} inp_gate proj post_norm altup_router altup_router_norm altup_correct_coef "
    "altup_correct_scale altup_predict_coef laurel_l laurel_r laurel_post_norm"
)
_GEMMA4_EXPERTS = (
    "ffn_gate_inp ffn_gate_up_exps ffn_down_exps ffn_gate_inp.scale ffn_down_exps.scale "
    "post_ffw_norm_1 post_ffw_norm_2 pre_ffw_norm_2"
)
_GLM4MOE = f"attn_norm {ATTENTION} {BIASES} post_attention_norm"
_GPT_OSS = (
    f"attn_norm {ATTENTION} {BIASES} attn_output.bias attn_sinks post_attention_norm {EXPERTS} "
    "ffn_gate_inp.bias ffn_gate_exps.bias ffn_up_exps.bias ffn_down_exps.bias"
)
_ALL_BIASES = f"{DENSE} {BIASES} attn_output.bias ffn_gate.bias ffn_up.bias ffn_down.bias"
_PHI3 = "attn_norm attn_qkv attn_output ffn_norm ffn_up:D,2F ffn_down"
_QWEN3 = f"{DENSE} {HEAD_NORMS}"
_QWEN_MOE = f"{EXPERTS} {SHARED} ffn_gate_inp_shexp"
_QWEN_FUSED = _QWEN_MOE.replace("ffn_gate_exps ffn_up_exps", "ffn_gate_up_exps")
_LFM2 = f"{ATTN} {HEAD_NORMS}"
_GLM4 = f"{ATTN} {BIASES} {POST_NORMS} ffn_up:D,2F ffn_down"
_RELU2 = "ffn_up ffn_down"
_NEMOTRON = f"{ATTN} attn_norm.bias ffn_norm.bias {_RELU2}"
_NEMOTRON_MOE = (
    "attn_norm ffn_gate_inp ffn_up_exps ffn_down_exps exp_probs_b.bias ffn_up_shexp ffn_down_shexp"
)
_NEMOTRON_LATENT = f"{_NEMOTRON_MOE} ffn_latent_down ffn_latent_up"
_NEMOTRON_ATTN = f"attn_norm {ATTENTION}"
_NOT_ROTATED = {"rope_freqs.weight": [1.0] * 8 + [1e30] * 8}
_SHARED_FF = {"expert_shared_feed_forward_length": 64}
_PHI3_KEYS = {"rope.scaling.attn_factor": 1.19, **WINDOW}
_PHI3_HEAD = f"{HEAD} rope_factors_long rope_factors_short"
_DENSE_FIRST = {"leading_dense_block_count": 1}
_EPS = {"attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-3}
_NO_ROPE = "rope.freq_base rope.dimension_count"
_T, _F = True, False

RECIPES: dict[str, Recipe] = {
    "afmoe": Recipe(
        "afmoe",
        [f"{_AFMOE} {FFN}", *[f"{_AFMOE} {EXPERTS} {SHARED} exp_probs_b.bias"] * 4],
        {**WIDE, **MOE, **WINDOW, **_DENSE_FIRST, "rope.freq_base_swa": 77.0,
         "expert_shared_count": 1, "expert_weights_scale": 2.8, "expert_weights_norm": True},
        embedding=0.2, seed=17, unused="rope.freq_base"),
    "bailingmoe": Recipe(
        "bailingmoe", [f"{_MOE_LAYER} {SHARED}"] * 3,
        {**MOE, "expert_shared_count": 2, "expert_weights_norm": True,
         "expert_weights_scale": 1.5}, seed=18),
    "bailingmoe2": Recipe(
        "bailingmoe2",
        [f"{_BAILING} {FFN}", *[f"{_BAILING} {EXPERTS} {SHARED} exp_probs_b.bias"] * 2],
        {**MOE, **SIGMOID, **GROUPS, **_DENSE_FIRST, "rope.dimension_count": 8,
         "expert_shared_count": 1, "expert_weights_scale": 2.5, "expert_weights_norm": True},
        seed=15),
    "cohere2": Recipe(
        "cohere2", [f"attn_norm {ATTENTION} {FFN}"] * 5,
        {**WINDOW, **_EPS, "logit_scale": 0.7}, TIED),
    "cohere2moe": Recipe(
        "cohere2moe",
        [f"{_COHERE} {FFN}", *[f"{_COHERE} {EXPERTS} {SHARED}"] * 4,
         f"{_COHERE} {EXPERTS} {SHARED} {MTP}"],
        {**WIDE, **MOE, **WINDOW, **_EPS, **_DENSE_FIRST, **_SHARED_FF, "logit_scale": 0.7,
         "expert_shared_count": 2, "nextn_predict_layers": 1}, TIED, unused=MTP, seed=14),
    "cohere2moe-rms": Recipe(
        "cohere2moe", [f"{_COHERE} {FFN}", f"{_COHERE} {EXPERTS}", f"{_COHERE} {EXPERTS}"],
        {**WIDE, **MOE, **WINDOW, **_DENSE_FIRST, "logit_scale": 0.7, "expert_gating_func": 1,
         "expert_weights_norm": True, "expert_weights_scale": 1.5}, TIED, seed=6),
    "deepseek": Recipe(
        "deepseek", [DENSE, *[f"{_MOE_LAYER} {SHARED}"] * 2],
        {**MOE, **_DENSE_FIRST, "expert_shared_count": 2, "expert_weights_scale": 1.5}, seed=8),
    "deepseek2": Recipe(
        "deepseek2",
        [f"{LATENT} {FFN}", *[f"{LATENT} {EXPERTS} {SHARED} exp_probs_b.bias"] * 2],
        {**MLA, **SIGMOID, **GROUPS, "expert_weights_norm": True,
         **yarn(8.0, 64, yarn_log_multiplier=0.07)}, seed=9),
    "deepseek2-old": Recipe(  # before keys and values were taken apart
        "deepseek2",
        [f"{LATENT_Q} attn_kv_b attn_output ffn_norm {FFN}",
         *[f"{LATENT_Q} attn_kv_b attn_output ffn_norm {EXPERTS} {SHARED}"] * 2],
        {**MLA, "attention.head_count_kv": 4, "attention.key_length": 32,
         "attention.value_length": 24, "attention.key_length_mla": None,
         "attention.value_length_mla": None, **yarn(8.0, 64, yarn_log_multiplier=0.1)}, seed=3),
    "deepseek2-lite": Recipe(  # told by its 27 layers: queries have no latent
        "deepseek2",
        [*[f"{_LITE} {FFN}"] * 25, *[f"{_LITE} {EXPERTS} {SHARED}"] * 2],
        {**MLA, "attention.q_lora_rank": None, "leading_dense_block_count": 25}, seed=20),
    "dots1": Recipe(
        "dots1", [_QWEN3, *[f"{_QK_MOE} {SHARED} exp_probs_b.bias"] * 2],
        {**WIDE, **MOE, **SIGMOID, **_DENSE_FIRST, "attention.head_count_kv": 4,
         "expert_shared_count": 2, "expert_weights_scale": 2.5, "expert_weights_norm": True},
        seed=6),
    "ernie4_5": Recipe("ernie4_5", [DENSE] * 3, WIDE, TIED),
    "ernie4_5-moe": Recipe(
        "ernie4_5-moe", [DENSE, *[f"{_MOE_LAYER} {SHARED} exp_probs_b.bias"] * 2],
        {**WIDE, **MOE, **_DENSE_FIRST, **_SHARED_FF, "interleave_moe_layer_step": 1}, TIED,
        seed=2),
    "exaone4": Recipe("exaone4", [_EXAONE] * 3, other=f"{TIED} rope_freqs"),
    "exaone-moe": Recipe(
        "exaone-moe",
        [_QWEN3, *[f"{_QK_MOE} {SHARED} exp_probs_b.bias"] * 4, f"{_QWEN3} {MTP}"],
        {**WIDE, **MOE, **SIGMOID, **WINDOW, **_DENSE_FIRST, **_SHARED_FF,
         "expert_shared_count": 2, "expert_weights_scale": 2.5, "expert_weights_norm": True,
         "nextn_predict_layers": 1, "rope.freq_base_swa": 77.0},
        unused=f"{MTP} rope.freq_base_swa", seed=13),
    "falcon-h1": Recipe(
        "falcon-h1", [f"{ATTENTION} {MAMBA2} ffn_norm. {FFN}"] * 3, {**WIDE, **SSM}),
    "falcon-h1-unnormed": Recipe(
        "falcon-h1", [f"{ATTENTION} {MAMBA2} ffn_norm. {FFN}".replace("ssm_norm:J,G ", "")] * 2,
        {**WIDE, **SSM}, TIED),
    "gemma": Recipe("gemma", [DENSE] * 3, WIDE, TIED, embedding=0.2),
    "gemma2": Recipe(
        "gemma2", [_GEMMA2] * 4,
        {**WIDE, **WINDOW, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0},
        TIED, embedding=0.2),
    "gemma3": Recipe(
        "gemma3", [_GEMMA3] * 7,
        {**WIDE, **WINDOW, "rope.freq_base": 200.0, "rope.scaling.type": "linear",
         "rope.scaling.factor": 4.0}, TIED, embedding=0.2),
    "gemma3-pattern": Recipe(
        "gemma3", [_GEMMA3] * 4,
        {**WIDE, **WINDOW, "attention.sliding_window_pattern": 3, "rope.freq_base": 200.0,
         "rope.freq_base_swa": 50.0}, TIED, embedding=0.2),
    "gemma3n": Recipe(  # gates of the first ten layers are sparse
        "gemma3n", [_GEMMA3N] * 11,
        {**WINDOW, "rope.freq_base": 200.0, "rope.freq_base_swa": 50.0,
         "attention.shared_kv_layers": 0, "embedding_length_per_layer_input": 256,
         "attention.sliding_window_pattern": [_T, _T, _F] * 3 + [_T, _F]},
        f"{TIED} altup_proj altup_unembd_proj per_layer_token_embd per_layer_model_proj "
        "per_layer_proj_norm", embedding=0.2, seed=9),
    "gemma4-dense": Recipe(
        "gemma4", [_GEMMA4, _GEMMA4, _GEMMA4_FULL] * 2,
        {**GEMMA4, "attention.head_count_kv": [2, 2, 1, 2, 2, 1],
         "attention.sliding_window_pattern": [_T, _T, _F, _T, _T, _F]},
        f"{TIED} rope_freqs", embedding=0.2, fixed=_NOT_ROTATED),
    "gemma4-e": Recipe(
        "gemma4", [*[_GEMMA4_E] * 4, *[_GEMMA4_SHARED] * 2],
        {**GEMMA4, "attention.shared_kv_layers": 2, "embedding_length_per_layer_input": 8,
         "attention.sliding_window_pattern": [_T, _T, _T, _F, _T, _F],
         "feed_forward_length": [96, 96, 96, 96, 192, 192]},
        f"{TIED} rope_freqs per_layer_token_embd per_layer_model_proj per_layer_proj_norm",
        embedding=0.2, fixed=_NOT_ROTATED),
    "gemma4-moe": Recipe(
        "gemma4",
        [f"{_GEMMA4} {_GEMMA4_EXPERTS}", f"{_GEMMA4} {_GEMMA4_EXPERTS}",
         f"{_GEMMA4_FULL} {_GEMMA4_EXPERTS}"] * 2,
        {**GEMMA4, **MOE, "attention.head_count_kv": [2, 2, 1, 2, 2, 1],
         "attention.sliding_window_pattern": [_T, _T, _F, _T, _T, _F]},
        f"{TIED} rope_freqs", embedding=0.2, fixed=_NOT_ROTATED, seed=13),
    "glm4": Recipe("glm4", [_GLM4] * 3, {**WIDE, "rope.dimension_count": 16}),
    "glm4-sections": Recipe(  # as of GLM 4.1V, whose text is one of its positions
        "glm4", [_GLM4] * 3,
        {**WIDE, "rope.dimension_count": 16, "rope.dimension_sections": [2, 3, 3, 0]}),
    "glm4moe": Recipe(
        "glm4moe",
        [f"{_GLM4MOE} {FFN}", *[f"{_GLM4MOE} {EXPERTS} {SHARED} exp_probs_b.bias"] * 2,
         f"{_GLM4MOE} {EXPERTS} {SHARED} exp_probs_b.bias {MTP}"],
        {**WIDE, **MOE, **SIGMOID, **_DENSE_FIRST, "rope.dimension_count": 16,
         "expert_shared_count": 1, "nextn_predict_layers": 1, "expert_weights_scale": 1.5,
         "expert_weights_norm": True}, unused=MTP, seed=23),
    "glm4moe-norms": Recipe(
        "glm4moe",
        [f"{_GLM4MOE} {HEAD_NORMS} {FFN}",
         *[f"{_GLM4MOE} {HEAD_NORMS} {EXPERTS} {SHARED} exp_probs_b.bias"] * 2],
        {**WIDE, **MOE, **_DENSE_FIRST, "rope.dimension_count": 16, "expert_shared_count": 1,
         "expert_weights_norm": False}),
    "glm4moe-sections": Recipe(
        "glm4moe",
        [f"{_GLM4MOE} {FFN}", *[f"{_GLM4MOE} {EXPERTS} {SHARED} exp_probs_b.bias"] * 2],
        {**WIDE, **MOE, **_DENSE_FIRST, "rope.dimension_count": 16, "expert_shared_count": 1,
         "rope.dimension_sections": [2, 3, 3, 0]}),
    "gpt-oss": Recipe("gpt-oss", [_GPT_OSS] * 4, {**WIDE, **MOE, **WINDOW, **yarn(4.0, 64)},
        seed=19),
    "granite": Recipe("granite", [DENSE] * 3, {**WIDE, **SCALES}, TIED),
    "granite-biased": Recipe("granite", [_ALL_BIASES] * 3, {**WIDE, **SCALES}, TIED),
    "granitehybrid": Recipe(
        "granitehybrid",
        [f"{MAMBA2} ffn_norm {FFN}"] * 2 + [DENSE, f"{MAMBA2} ffn_norm {FFN}"],
        {**HYBRID, **SCALES, "rope.scaling.finetuned": False}, TIED,
        unused=_NO_ROPE),
    "granitehybrid-moe": Recipe(
        "granitehybrid",
        [f"{MAMBA2} ffn_norm {EXPERTS} {SHARED}"] * 2
        + [f"{_MOE_LAYER} {SHARED}", f"{MAMBA2} ffn_norm {EXPERTS} {SHARED}"],
        {**HYBRID, **SCALES, **NARROW_MOE, **_SHARED_FF, "rope.scaling.finetuned": True}, TIED,
        seed=16),
    "granitemoe": Recipe(
        "granitemoe", [_MOE_LAYER] * 3,
        {**WIDE, **SCALES, **NARROW_MOE}, TIED, seed=4),
    "hunyuan-dense": Recipe(
        "hunyuan-dense", [_QWEN3] * 3, {**WIDE, "rope.scaling.alpha": 50.0}, TIED),
    "hunyuan-moe": Recipe(
        "hunyuan-moe", [f"{_QK_MOE} {SHARED}"] * 3,
        {**WIDE, **MOE, **_SHARED_FF, "feed_forward_length": 32}, TIED, seed=22),
    "lfm2": Recipe(
        "lfm2",
        [f"{CONVOLUTION} {FFN}"] * 2 + [_QWEN3, f"{CONVOLUTION} {FFN}", _QWEN3],
        {"attention.head_count_kv": [0, 0, 2, 0, 2], "shortconv.l_cache": 3}, "token_embd_norm"),
    "lfm2moe": Recipe(
        "lfm2moe",
        [f"{CONVOLUTION} {FFN}", f"{CONVOLUTION} {EXPERTS} exp_probs_b.bias",
         f"{_LFM2} {EXPERTS} exp_probs_b.bias", f"{CONVOLUTION} {EXPERTS} exp_probs_b.bias",
         f"{_LFM2} {EXPERTS} exp_probs_b.bias"],
        {**MOE, **SIGMOID, **_DENSE_FIRST, "attention.head_count_kv": [0, 0, 2, 0, 2],
         "shortconv.l_cache": 3}, "token_embd_norm"),
    "llama3": Recipe("llama", [DENSE] * 3, WIDE, f"{TIED} rope_freqs"),
    "llama-biased": Recipe(
        "llama", [_ALL_BIASES] * 3, {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}),
    "llama-moe": Recipe("llama", [_MOE_LAYER] * 3, NARROW_MOE, seed=1),
    "llama4": Recipe(
        "llama4", [DENSE, f"{_MOE_LAYER} {SHARED}"] * 2,
        {**WIDE, **MOE, "expert_used_count": 1, "interleave_moe_layer_step": 2}, seed=11),
    "llama4-maverick": Recipe(  # of so many experts, heads are not normed
        "llama4", [DENSE, f"{_MOE_LAYER} {SHARED}"] * 2,
        {**WIDE, **MOE, "expert_count": 128, "expert_used_count": 1,
         "interleave_moe_layer_step": 2}, seed=12),
    "jamba": Recipe(
        "jamba",
        [f"{MAMBA1} {RATE_NORMS} ffn_norm {FFN}", f"{MAMBA1} {RATE_NORMS} ffn_norm {EXPERTS}",
         DENSE, f"{MAMBA1} {RATE_NORMS} ffn_norm {EXPERTS}"],
        {**SSM1, **NARROW_MOE, "attention.head_count_kv": [0, 0, 2, 0]}, unused=_NO_ROPE, seed=7),
    "mamba": Recipe("mamba", [MAMBA1] * 3, {**SSM1, **NO_HEADS}, TIED, unused=_NO_ROPE),
    "mamba-normed": Recipe(  # as of Falcon Mamba
        "mamba", [MAMBA1] * 3, {**SSM1, **NO_HEADS, "ssm.dt_b_c_rms": True}, unused=_NO_ROPE),
    "mamba2": Recipe(
        "mamba2", [MAMBA2] * 3,
        {**SSM, **NO_HEADS}, TIED, unused=_NO_ROPE),
    "maincoder": Recipe("maincoder", [_QWEN3] * 3, WIDE, TIED),
    "mellum": Recipe(
        "mellum", [_QK_MOE] * 5,
        {**WIDE, **MOE, **WINDOW, **yarn(4.0, 64), "rope.freq_base_swa": 77.0},
        unused="rope.freq_base_swa", seed=7),
    "mimo2": Recipe(
        "mimo2",
        [f"{_MIMO} {FFN}", *[f"{_MIMO} attn_sinks {EXPERTS} exp_probs_b.bias"] * 3,
         f"{_MIMO} {FFN} {MTP}"],
        {**MOE, **WINDOW, "attention.key_length": 32, "attention.value_length": 16,
         "rope.dimension_count": 12, "rope.freq_base_swa": 77.0, "attention.value_scale": 0.7,
         "attention.head_count_kv": [1, 2, 2, 1, 2], "nextn_predict_layers": 1,
         "attention.sliding_window_pattern": [_F, _T, _T, _F, _T]}, unused=MTP, seed=11),
    "minicpm": Recipe("minicpm", [DENSE] * 3, WIDE, TIED, embedding=0.2),
    "minimax-m2": Recipe(
        "minimax-m2", [f"{_MOE_LAYER} {FULL_NORMS} exp_probs_b.bias"] * 3,
        {**WIDE, **MOE, **SIGMOID, "feed_forward_length": 32, "rope.dimension_count": 16}, seed=2),
    "mistral3": Recipe(
        "mistral3", [DENSE] * 3,
        {**WIDE, **yarn(4.0, 8, yarn_beta_fast=0.3, yarn_beta_slow=0.05, yarn_log_multiplier=1.0),
         "attention.temperature_scale": 0.4}, TIED),
    "mistral4": Recipe(
        "mistral4", [f"{LATENT} {FFN}", *[f"{LATENT} {EXPERTS} {SHARED}"] * 2],
        {**MLA, "expert_gating_func": 1, "expert_weights_norm": False,
         **yarn(8.0, 64, yarn_log_multiplier=0.07), "attention.temperature_scale": 0.4,
         "attention.temperature_length": 8}, seed=2),
    "nemotron": Recipe(
        "nemotron", [_NEMOTRON] * 3, {**_EPS, "rope.dimension_count": 8},
        f"{HEAD} output_norm.bias"),
    "nemotron_h": Recipe(
        "nemotron_h",
        [MAMBA2, f"attn_norm {_RELU2}", _NEMOTRON_ATTN, MAMBA2, f"attn_norm {_RELU2}"],
        {**HYBRID, "attention.head_count_kv": [0, 0, 2, 0, 0], **_EPS,
         "attention.layer_norm_rms_epsilon": 1e-3, "feed_forward_length": [0, 96, 0, 0, 96]},
        unused=f"{_NO_ROPE} attention.layer_norm_epsilon"),
    "nemotron_h_moe": Recipe(
        "nemotron_h_moe",
        [MAMBA2, _NEMOTRON_MOE, _NEMOTRON_ATTN, MAMBA2, _NEMOTRON_MOE, MAMBA2],
        {**HYBRID, **MOE, **_SHARED_FF, **_EPS, "attention.layer_norm_rms_epsilon": 1e-3,
         "attention.head_count_kv": [0, 0, 2, 0, 0, 0], "expert_shared_count": 1,
         "feed_forward_length": [0, 96, 0, 0, 96, 0], "expert_weights_scale": 2.5,
         "expert_weights_norm": True}, unused=f"{_NO_ROPE} attention.layer_norm_epsilon", seed=7),
    "nemotron_h_moe-latents": Recipe(
        "nemotron_h_moe",
        [MAMBA2, _NEMOTRON_LATENT, _NEMOTRON_ATTN, _NEMOTRON_LATENT,
         f"{_NEMOTRON_LATENT} {ATTENTION} post_attention_norm {MTP}"],
        {**HYBRID, **MOE, **_SHARED_FF, **_EPS, "attention.layer_norm_rms_epsilon": 1e-3,
         "attention.head_count_kv": [0, 0, 2, 0, 2], "expert_shared_count": 1,
         "feed_forward_length": [0, 96, 0, 96, 96], "expert_weights_scale": 5.0,
         "expert_weights_norm": True, "moe_latent_size": 32, "nextn_predict_layers": 1},
        unused=f"{_NO_ROPE} attention.layer_norm_epsilon post_attention_norm {MTP}", seed=7),
    "olmo2": Recipe("olmo2", [_NO_PRE_NORM] * 3),
    "olmo3": Recipe("olmo2", [_NO_PRE_NORM] * 5, {**WINDOW, **yarn(8.0, 64)}),
    "olmoe": Recipe(
        "olmoe", [f"{_MOE_LAYER} {FULL_NORMS}"] * 3,
        {**NARROW_MOE, "attention.head_count_kv": 4}, seed=22),
    "pangu-embedded": Recipe(
        "pangu-embedded", [f"{DENSE} {BIASES} attn_output.bias"] * 3, WIDE),
    "phi3-long": Recipe(
        "phi3", [_PHI3] * 3, {**_PHI3_KEYS, "rope.scaling.original_context_length": 32},
        _PHI3_HEAD, unused="rope_factors_short attention.sliding_window"),
    "phi3-short": Recipe(
        "phi3", [_PHI3] * 3,
        {**_PHI3_KEYS, "rope.scaling.original_context_length": 256, "rope.dimension_count": 12},
        _PHI3_HEAD, unused="rope_factors_long attention.sliding_window"),
    "qwen2": Recipe("qwen2", [f"{DENSE} {BIASES}"] * 3, other=TIED),
    "qwen2vl": Recipe(  # this llama.cpp reads no epsilon of it: one that is next to nothing
        "qwen2vl", [f"{DENSE} {BIASES}"] * 3,
        {"rope.dimension_sections": [4, 2, 2, 0], "attention.layer_norm_rms_epsilon": 1e-6}, TIED),
    "qwen2moe": Recipe(
        "qwen2moe", [f"{ATTN} {BIASES} {_QWEN_MOE}"] * 3, {**MOE, **_SHARED_FF}, seed=16),
    "qwen3": Recipe("qwen3", [_QWEN3] * 3, WIDE, TIED),
    "qwen35": Recipe(
        "qwen35", [f"{DELTA_NET} ssm_beta ssm_alpha {FFN}"] * 3 + [f"{GATED} {FFN}"], QWEN35, TIED),
    "qwen35-mtp": Recipe(
        "qwen35",
        [f"{DELTA_NET} ssm_beta ssm_alpha {FFN}"] * 3
        + [f"{GATED} {FFN}", f"{GATED} {FFN} {MTP}"],
        {**QWEN35, "nextn_predict_layers": 1}, TIED, unused=MTP),
    "qwen35moe-fused": Recipe(
        "qwen35moe",
        [f"{DELTA_NET} ssm_beta ssm_alpha {_QWEN_FUSED}"] * 3 + [f"{GATED} {_QWEN_FUSED}"],
        {**QWEN35, **MOE, **_SHARED_FF, "feed_forward_length": None}, seed=18),
    "qwen35moe": Recipe(
        "qwen35moe",
        [f"{DELTA_NET} ssm_beta ssm_alpha {_QWEN_MOE}"] * 3 + [f"{GATED} {_QWEN_MOE}"],
        {**QWEN35, **MOE, **_SHARED_FF}, seed=13),
    "qwen3moe": Recipe("qwen3moe", [_QK_MOE] * 3, {**WIDE, **MOE}, seed=8),
    "qwen3next": Recipe(
        "qwen3next", [f"{DELTA_NET} ssm_ba {_QWEN_MOE}"] * 3 + [f"{GATED} {_QWEN_MOE}"],
        {**WIDE, **DELTA, **MOE, **_SHARED_FF}, seed=22),
    "qwen3vl": Recipe(
        "qwen3vl", [_QWEN3] * 3,
        {**WIDE, "rope.dimension_sections": [6, 5, 5, 0], "n_deepstack_layers": 0}, TIED),
    "qwen3vlmoe": Recipe(
        "qwen3vlmoe", [_QK_MOE] * 3,
        {**WIDE, **MOE, "rope.dimension_sections": [6, 5, 5, 0], "n_deepstack_layers": 0}, seed=8),
    "seed_oss": Recipe(
        "seed_oss", [f"attn_norm {ATTENTION} {BIASES} post_attention_norm {FFN}"] * 3, WIDE),
    "step35": Recipe(
        "step35",
        [f"{_STEP} {FFN}", *[f"{_STEP} {EXPERTS} {SHARED} exp_probs_b.bias"] * 3,
         f"{_STEP} {FFN} {MTP}"],
        {**WIDE, **MOE, **WINDOW, **_SHARED_FF, "rope.freq_base_swa": 77.0,
         "attention.head_count_kv": [1, 2, 2, 1, 2], "nextn_predict_layers": 1,
         "attention.sliding_window_pattern": [_F, _T, _T, _F, _T],
         "expert_weights_norm": True, "expert_weights_scale": 3.0,
         "swiglu_clamp_exp": [0.0, 0.0, 0.5, 0.7, 0.0],
         "swiglu_clamp_shexp": [0.0, 0.6, 0.0, 0.9, 0.0]},
        f"{HEAD} rope_freqs", unused=MTP, seed=16),
    "smallthinker": Recipe(
        "smallthinker", [_MOE_LAYER] * 3, {**WIDE, **MOE, **WINDOW, **SIGMOID}, TIED,
        unused="attention.sliding_window", embedding=0.1, seed=22),
    "smollm3": Recipe("smollm3", [DENSE] * 5, WIDE, TIED),
    **CLASSIC,
}  # fmt: skip
