"""Hybrids of attention and Mamba-2: Granite 4 and Nemotron-H."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_hub.run.convert.config import ConfigReader
from gguf_hub.run.convert.families.family import (
    TURNED,
    Family,
    Keys,
    Names,
    Source,
    add_granite_scales,
    whole,
)
from gguf_hub.run.convert.families.makes import (
    DECAY,
    FIRST_HALF,
    KERNEL,
    SECOND_HALF,
    flattened,
)


def _states(prefix: str) -> Names:
    """Return the names of Mamba-2's tensors."""
    return {
        "ssm_in": f"{prefix}.in_proj",
        "ssm_conv1d.weight": Source(f"{prefix}.conv1d", KERNEL),
        "ssm_conv1d.bias": f"{prefix}.conv1d",
        "ssm_dt.bias": whole(f"{prefix}.dt_bias"),
        "ssm_a": whole(f"{prefix}.A_log", DECAY.then(flattened())),
        "ssm_d": whole(f"{prefix}.D", flattened()),
        "ssm_norm": Source(f"{prefix}.norm", flattened()),
        "ssm_out": f"{prefix}.out_proj",
    }


def _expect_plain_states(config: ConfigReader, *biases: str) -> None:
    for key in biases:
        config.expect(key, False)
    limit = config.get("time_step_limit")
    if limit is not None and not _is_endless(limit):
        config.issues.append(f"`time_step_limit`: expected 0 to infinity, found {limit!r:.60}")


def _is_endless(limit: Any) -> bool:
    """Tell whether a range is that from 0 to infinity, which JSON has no number for."""
    if not isinstance(limit, list) or len(limit) != 2 or limit[0] != 0:
        return False
    is_large = isinstance(limit[1], float) and limit[1] >= 1e30
    return is_large or limit[1] == {"__float__": "Infinity"}


# -- Granite 4 -------------------------------------------------------------------------------------

_KINDS = {"mamba": False, "linear_attention": False, "attention": True, "full_attention": True}


def _granite(config: ConfigReader, keys: Keys) -> None:
    add_granite_scales(config, keys)
    attends = config.layers("layer_types", keys["block_count"], _KINDS)
    if not attends:
        config.issues.append("`layer_types`: expected a kind for each layer")
    n_kv = keys["attention.head_count_kv"]
    keys["attention.head_count_kv"] = np.array([n_kv * a for a in attends], np.int32)
    n_head = config.integer("mamba_n_heads")
    keys["ssm.conv_kernel"] = config.integer("mamba_d_conv")
    keys["ssm.state_size"] = config.integer("mamba_d_state")
    keys["ssm.group_count"] = config.integer("mamba_n_groups")
    keys["ssm.inner_size"] = n_head * config.integer("mamba_d_head")
    keys["ssm.time_step_rank"] = n_head
    keys["rope.scaling.finetuned"] = config.get("position_embedding_type") == "rope"
    config.expect("position_embedding_type", "rope", "nope")
    _expect_plain_states(config, "mamba_proj_bias")
    width = config.integer("shared_intermediate_size", 0, least=0)
    if n_expert := config.integer("num_local_experts", 0, least=0):
        keys["expert_count"] = n_expert
        keys["expert_used_count"] = config.integer("num_experts_per_tok")
        keys["expert_shared_feed_forward_length"] = width
    else:
        keys["feed_forward_length"] = width


GRANITE_EXPERTS: Names = {
    "ffn_gate_inp": "block_sparse_moe.router.layer",
    "ffn_gate_exps": Source("block_sparse_moe.input_linear", FIRST_HALF),
    "ffn_up_exps": Source("block_sparse_moe.input_linear", SECOND_HALF),
    "ffn_down_exps": "block_sparse_moe.output_linear",
    "ffn_gate_shexp": Source("shared_mlp.input_linear", FIRST_HALF),
    "ffn_up_shexp": Source("shared_mlp.input_linear", SECOND_HALF),
    "ffn_down_shexp": "shared_mlp.output_linear",
}
"""Experts of Granite, and what all tokens share."""
_GRANITE_DENSE: Names = {
    "ffn_gate": Source("shared_mlp.input_linear", FIRST_HALF),
    "ffn_up": Source("shared_mlp.input_linear", SECOND_HALF),
    "ffn_down": "shared_mlp.output_linear",
}
GRANITEHYBRID = Family(
    "granitehybrid",
    ("GraniteMoeHybridForCausalLM",),
    {**TURNED, **_states("mamba"), **_GRANITE_DENSE, **GRANITE_EXPERTS},
    _granite,
    matches=lambda config: not _attends_only(config),
)


def _attends_only(config: Mapping[str, Any]) -> bool:
    """Tell whether no layer has states: Granite 4 Micro and Tiny are named like the hybrids."""
    kinds = config.get("layer_types")
    return isinstance(kinds, list) and all(_KINDS.get(str(kind)) for kind in kinds)


def _granite_attention(config: ConfigReader, keys: Keys) -> None:
    add_granite_scales(config, keys)
    config.expect("position_embedding_type", "rope")
    config.layers("layer_types", keys["block_count"], _KINDS)
    width = config.integer("shared_intermediate_size", 0, least=0)
    if config.integer("num_local_experts", 0, least=0):
        keys["expert_shared_feed_forward_length"] = width
    else:
        keys["feed_forward_length"] = width


GRANITE4 = Family(
    "granite",
    ("GraniteMoeHybridForCausalLM",),
    {**TURNED, **_GRANITE_DENSE},
    _granite_attention,
    matches=lambda config: _attends_only(config) and not config.get("num_local_experts"),
)
GRANITE4MOE = Family(
    "granitemoe",
    ("GraniteMoeHybridForCausalLM",),
    {**TURNED, **GRANITE_EXPERTS},
    _granite_attention,
    is_mixture=True,
    matches=lambda config: _attends_only(config) and bool(config.get("num_local_experts")),
)

# -- Nemotron-H ------------------------------------------------------------------------------------

_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_SAME = {"linear_attention": "mamba", "full_attention": "attention"}


def _kinds(config: Mapping[str, Any]) -> list[str]:
    """Return what each layer is: ``mamba``, ``attention``, ``mlp`` or ``moe``."""
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [_LETTERS.get(letter, "") for letter in pattern]
    stated = config.get("layers_block_type")
    return [_SAME.get(str(k), str(k)) for k in stated] if isinstance(stated, list) else []


def _nemotron_h(config: ConfigReader, keys: Keys) -> None:
    kinds, n_layer = _kinds(config.config), keys["block_count"]
    if len(kinds) != n_layer or not set(kinds) <= set(_LETTERS.values()):
        config.issues.append(f"`layers_block_type`: expected the kinds of {n_layer} layers")
        return
    n_kv, is_moe = keys["attention.head_count_kv"], "moe" in kinds
    width = config.integer("moe_intermediate_size") if is_moe else keys["feed_forward_length"]
    network = "moe" if is_moe else "mlp"
    if is_moe and "mlp" in kinds:
        config.issues.append("`layers_block_type`: expected moe or mlp, found both")
    keys["attention.head_count_kv"] = np.array(
        [n_kv * (kind == "attention") for kind in kinds], np.int32
    )
    keys["feed_forward_length"] = np.array([width * (kind == network) for kind in kinds], np.int32)
    n_head = config.integer("mamba_num_heads")
    keys["ssm.conv_kernel"] = config.integer("conv_kernel")
    keys["ssm.state_size"] = config.integer("ssm_state_size")
    keys["ssm.group_count"] = config.integer("n_groups")
    keys["ssm.inner_size"] = n_head * config.integer("mamba_head_dim")
    keys["ssm.time_step_rank"] = n_head
    head_dim = config.integer(config.first("head_dim", "attention_head_dim"))
    keys["attention.key_length"] = keys["attention.value_length"] = head_dim
    config.expect("mlp_hidden_act", "relu2")
    config.expect("mamba_hidden_act", "silu")
    _expect_plain_states(config, "mamba_proj_bias", "use_bias")


def _nemotron_h_moe(config: ConfigReader, keys: Keys) -> None:
    _nemotron_h(config, keys)
    keys["expert_feed_forward_length"] = config.integer("moe_intermediate_size")
    keys["expert_shared_count"] = config.integer("n_shared_experts", 0, least=0)
    keys["expert_shared_feed_forward_length"] = config.integer(
        "moe_shared_expert_intermediate_size", 0, least=0
    )
    keys["expert_weights_norm"] = config.flag("norm_topk_prob")
    keys["expert_weights_scale"] = config.positive("routed_scaling_factor", 1.0)
    config.expect("n_group", 1)
    if latent := config.integer("moe_latent_size", 0, least=0):
        keys["moe_latent_size"] = latent


_NEMOTRON_H: Names = {
    **_states("mixer"),
    "attn_norm": "norm",
    "attn_q": "mixer.q_proj", "attn_k": "mixer.k_proj", "attn_v": "mixer.v_proj",
    "attn_output": "mixer.o_proj",
    "ffn_up": "mixer.up_proj", "ffn_down": "mixer.down_proj",
}  # fmt: skip
_EPSILON = ("layer_norm_epsilon", "attention.layer_norm_rms_epsilon")
NEMOTRON_H = Family(
    "nemotron_h", ("NemotronHForCausalLM",), _NEMOTRON_H, _nemotron_h, epsilon=_EPSILON,
    matches=lambda config: "moe" not in _kinds(config), ignored=r"mtp\..*",
)  # fmt: skip
NEMOTRON_H_MOE = Family(
    "nemotron_h_moe",
    ("NemotronHForCausalLM",),
    {
        **_NEMOTRON_H,
        "ffn_gate_inp": "mixer.gate",
        "exp_probs_b.bias": whole("mixer.gate.e_score_correction_bias"),
        "ffn_latent_down": "mixer.fc1_latent_proj",
        "ffn_latent_up": "mixer.fc2_latent_proj",
        "ffn_up_exps": "mixer.experts.{e}.up_proj",
        "ffn_down_exps": "mixer.experts.{e}.down_proj",
        "ffn_up_shexp": "mixer.shared_experts.up_proj",
        "ffn_down_shexp": "mixer.shared_experts.down_proj",
    },
    _nemotron_h_moe,
    epsilon=_EPSILON,
    is_mixture=True,
    matches=lambda config: "moe" in _kinds(config),
    ignored=r"mtp\..*",
)

HYBRIDS: tuple[Family, ...] = (GRANITEHYBRID, GRANITE4, GRANITE4MOE, NEMOTRON_H, NEMOTRON_H_MOE)
