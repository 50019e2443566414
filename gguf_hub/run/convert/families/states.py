"""Layers that carry a state in place of attention: LFM2's, Qwen3-Next's and Qwen3.5's."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguf_hub.run.convert.config import ConfigReader
from gguf_hub.run.convert.families.delta_net import QWEN35_STATES, QWEN_NEXT_STATES
from gguf_hub.run.convert.families.family import (
    FUSED_EXPERTS,
    QWEN_SHARED,
    SIGMOID,
    Family,
    Keys,
    Names,
    Source,
    shifted,
    whole,
)
from gguf_hub.run.convert.families.makes import KERNEL

_KINDS = {"conv": False, "full_attention": True}


def _convolutions(config: ConfigReader, keys: Keys) -> None:
    """Add which layers attend, and what the others hold."""
    n_layer = keys["block_count"]
    attends = config.layers("layer_types", n_layer, _KINDS)
    if not attends:  # as LFM2 was published first
        places = config.get("full_attn_idxs")
        attends = [i in places for i in range(n_layer)] if isinstance(places, list) else []
    if not attends:
        config.issues.append("`layer_types`: expected a kind for each layer")
    n_kv = keys["attention.head_count_kv"]
    keys["attention.head_count_kv"] = np.array([n_kv * a for a in attends], np.int32)
    keys["shortconv.l_cache"] = config.integer("conv_L_cache")
    config.expect("conv_bias", False)


def _lfm2(config: ConfigReader, keys: Keys) -> None:
    _convolutions(config, keys)
    keys["feed_forward_length"] = _adjusted_width(config, keys["feed_forward_length"])


def _adjusted_width(config: ConfigReader, width: int) -> int:
    """Return the width of the feed-forward network, which may be two thirds of what is stated."""
    if not config.flag("block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    if multiplier := config.number("block_ffn_dim_multiplier"):
        width = int(multiplier * width)
    multiple = config.integer("block_multiple_of", 256)
    return multiple * -(-width // multiple)


def _lfm2moe(config: ConfigReader, keys: Keys) -> None:
    _convolutions(config, keys)
    keys["expert_feed_forward_length"] = config.integer("moe_intermediate_size")
    keys["leading_dense_block_count"] = config.integer("num_dense_layers", 0, least=0)
    keys["expert_gating_func"] = SIGMOID
    config.expect("norm_topk_prob", True)
    config.expect("routed_scaling_factor", 1, 1.0)


_LFM2: dict[str, Any] = {
    "token_embd_norm": "model.embedding_norm",
    "attn_norm": "operator_norm", "ffn_norm": "ffn_norm",
    "attn_q_norm": "self_attn.q_layernorm", "attn_k_norm": "self_attn.k_layernorm",
    "attn_output": "self_attn.out_proj",
    "shortconv.in_proj": "conv.in_proj", "shortconv.out_proj": "conv.out_proj",
    "shortconv.conv": Source("conv.conv", KERNEL),
    "ffn_gate": "feed_forward.w1", "ffn_up": "feed_forward.w3", "ffn_down": "feed_forward.w2",
}  # fmt: skip
LFM2 = Family(
    "lfm2", ("Lfm2ForCausalLM", "LFM2ForCausalLM"), _LFM2, _lfm2, rope_theta=1e6,
    epsilon=("norm_eps", "attention.layer_norm_rms_epsilon"), n_ff="block_ff_dim", is_tied=True,
)  # fmt: skip
LFM2MOE = Family(
    "lfm2moe",
    ("Lfm2MoeForCausalLM",),
    {
        **_LFM2,
        "ffn_gate_inp": "feed_forward.gate",
        "ffn_gate_exps": "feed_forward.experts.{e}.w1",
        "ffn_up_exps": "feed_forward.experts.{e}.w3",
        "ffn_down_exps": "feed_forward.experts.{e}.w2",
        "exp_probs_b.bias": whole("feed_forward.expert_bias"),
    },
    _lfm2moe,
    rope_theta=1e6,
    epsilon=("norm_eps", "attention.layer_norm_rms_epsilon"),
    is_mixture=True,
    is_tied=True,
)
_GATED: Names = {
    **shifted({"post_attention_norm": "post_attention_layernorm"}),
    "ssm_conv1d": Source("linear_attn.conv1d", KERNEL),
    "ssm_norm": "linear_attn.norm",
}


def _delta_net(config: ConfigReader, keys: Keys) -> None:
    n_layer, n_value = keys["block_count"], config.integer("linear_num_value_heads")
    keys["ssm.conv_kernel"] = config.integer("linear_conv_kernel_dim")
    keys["ssm.state_size"] = config.integer("linear_key_head_dim")
    keys["ssm.group_count"] = config.integer("linear_num_key_heads")
    keys["ssm.time_step_rank"] = n_value
    keys["ssm.inner_size"] = n_value * config.integer("linear_value_head_dim")
    interval = config.integer("full_attention_interval", 4)
    kinds = {"linear_attention": True, "full_attention": False}
    flags = config.layers("layer_types", n_layer, kinds)
    keys["full_attention_interval"] = interval
    if flags and flags != [(i + 1) % interval != 0 for i in range(n_layer)]:
        keys["attention.recurrent_layers"] = np.array(flags, np.bool_)
    head_dim = config.integer("head_dim", 256)
    keys["attention.key_length"] = keys["attention.value_length"] = head_dim


def _qwen35(config: ConfigReader, keys: Keys) -> None:
    _delta_net(config, keys)
    # of text all positions are one: any sections that cover the rotated pairs do
    sections = config.sections(keys["rope.dimension_count"] // 2)
    keys["rope.dimension_sections"] = np.array(sections, np.int32)


def _qwen35moe(config: ConfigReader, keys: Keys) -> None:
    _delta_net_experts(config, keys)
    _qwen35(config, keys)


def _delta_net_experts(config: ConfigReader, keys: Keys) -> None:
    _delta_net(config, keys)
    keys["expert_feed_forward_length"] = config.integer("moe_intermediate_size")
    keys["expert_shared_feed_forward_length"] = config.integer("shared_expert_intermediate_size")
    config.expect("norm_topk_prob", True)


_MTP = r"mtp\..*"
QWEN3NEXT = Family(
    "qwen3next", ("Qwen3NextForCausalLM",), {**QWEN_SHARED, **_GATED, **QWEN_NEXT_STATES},
    _delta_net_experts, is_mixture=True, rotary_share=0.25, ignored=_MTP,
)  # fmt: skip
QWEN35 = Family(
    "qwen35", ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    {**_GATED, **QWEN35_STATES}, _qwen35, rotary_share=0.25, ignored=_MTP,
)  # fmt: skip
QWEN35MOE = Family(
    "qwen35moe", ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    {**QWEN_SHARED, **FUSED_EXPERTS, **_GATED, **QWEN35_STATES}, _qwen35moe,
    is_mixture=True, rotary_share=0.25, ignored=_MTP,
)  # fmt: skip

STATES: tuple[Family, ...] = (LFM2, LFM2MOE, QWEN3NEXT, QWEN35, QWEN35MOE)
