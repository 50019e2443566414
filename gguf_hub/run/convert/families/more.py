"""The architectures that are converted: other mixtures, latent attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gguf_hub.gguf.arch.families.llama import LLAMA4 as LLAMA4_GRAPH
from gguf_hub.run.convert.config import ConfigReader
from gguf_hub.run.convert.families.family import (
    EXPERTS,
    FUSED_EXPERTS,
    SIGMOID,
    Family,
    Keys,
    Names,
    Source,
    shifted,
    whole,
)
from gguf_hub.run.convert.families.makes import (
    FIRST_HALF,
    LATENT_KEYS,
    LATENT_VALUES,
    ONE_ROW,
    SECOND_HALF,
    TRANSPOSED,
)
from gguf_hub.run.convert.families.windows import KINDS

_SHARED: Names = {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
_BIAS = {"exp_probs_b.bias": whole("mlp.gate.e_score_correction_bias")}


def _choice(config: ConfigReader, keys: Keys) -> None:
    """Add how DeepSeek's and GLM's routers choose and weight experts."""
    keys["expert_feed_forward_length"] = config.integer("moe_intermediate_size")
    keys["leading_dense_block_count"] = config.integer("first_k_dense_replace", 0, least=0)
    n_shared = config.integer("n_shared_experts", 0, least=0)
    keys["expert_shared_count"] = n_shared
    keys["expert_weights_norm"] = config.flag("norm_topk_prob")
    keys["expert_weights_scale"] = config.positive("routed_scaling_factor", 1.0)


# -- GLM, MiniMax, Ernie, Ling, Hunyuan, Nemotron, EXAONE ------------------------------------------


def _glm4moe(config: ConfigReader, keys: Keys) -> None:
    _choice(config, keys)
    keys["expert_gating_func"] = SIGMOID
    config.expect("n_group", 1)
    config.expect("topk_group", 1)


GLM4MOE = Family(
    "glm4moe",
    ("Glm4MoeForCausalLM",),
    {**EXPERTS, **_SHARED, **_BIAS, "post_attention_norm": "post_attention_layernorm"},
    _glm4moe,
    is_mixture=True,
    rotary_share=0.5,
)


def _minimax_m2(config: ConfigReader, keys: Keys) -> None:
    config.expect("scoring_func", "sigmoid")
    keys["expert_feed_forward_length"] = keys["feed_forward_length"]
    keys["expert_gating_func"] = SIGMOID
    if n_rot := config.integer("rotary_dim", 0, least=0):
        keys["rope.dimension_count"] = n_rot


MINIMAX_M2 = Family(
    "minimax-m2",
    ("MiniMaxM2ForCausalLM",),
    {
        "ffn_gate_inp": "block_sparse_moe.gate",
        "ffn_gate_exps": "block_sparse_moe.experts.{e}.w1",
        "ffn_down_exps": "block_sparse_moe.experts.{e}.w2",
        "ffn_up_exps": "block_sparse_moe.experts.{e}.w3",
        "exp_probs_b.bias": whole("block_sparse_moe.e_score_correction_bias"),
    },
    _minimax_m2,
    rope_theta=5e6,
    is_mixture=True,
)
ERNIE4_5 = Family("ernie4_5", ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"), is_tied=True)


def _ernie_moe(config: ConfigReader, keys: Keys) -> None:
    width, n_layer = config.integer("moe_intermediate_size"), keys["block_count"]
    keys["expert_feed_forward_length"] = width
    keys["interleave_moe_layer_step"] = config.integer("moe_layer_interval", 1)
    keys["leading_dense_block_count"] = config.integer("moe_layer_start_index", 0, least=0)
    end = config.get("moe_layer_end_index")
    if not isinstance(end, int) or end < n_layer - 1:  # else all further layers have experts
        config.expect("moe_layer_end_index", n_layer - 1, -1)
    if n_shared := config.integer("moe_num_shared_experts", 0, least=0):
        keys["expert_shared_count"] = n_shared
        keys["expert_shared_feed_forward_length"] = width * n_shared


ERNIE4_5_MOE = Family(
    "ernie4_5-moe",
    ("Ernie4_5_MoeForCausalLM",),
    {
        **EXPERTS,
        **_SHARED,
        "exp_probs_b.bias": whole("mlp.moe_statics.e_score_correction_bias", ONE_ROW),
    },
    _ernie_moe,
    n_expert=("moe_num_experts",),
    n_expert_used=("moe_k",),
    is_mixture=True,
    is_tied=True,
)


def _bailing(config: ConfigReader, keys: Keys) -> None:
    _choice(config, keys)
    n_shared = config.integer("num_shared_experts", 0, least=0)
    width = keys["expert_feed_forward_length"] * n_shared
    keys["expert_shared_count"] = n_shared
    keys["expert_shared_feed_forward_length"] = config.integer(
        "moe_shared_expert_intermediate_size", width, least=0
    )
    keys["expert_weights_norm"] = config.flag("norm_topk_prob", True)
    keys["expert_gating_func"] = SIGMOID
    keys["expert_group_count"] = config.integer("n_group", 1)
    keys["expert_group_used_count"] = config.integer("topk_group", 1)
    if n_rot := config.integer("rotary_dim", 0, least=0):
        keys["rope.dimension_count"] = n_rot
    config.expect("norm_topk_prob", True)
    config.expect("score_function", "sigmoid")
    config.expect("use_qk_norm", True)
    for name in ("use_bias", "use_qkv_bias", "norm_head"):
        config.expect(name, False)


BAILING2 = Family(
    "bailingmoe2",
    ("BailingMoeV2ForCausalLM",),
    {
        **EXPERTS,
        **_SHARED,
        "token_embd": "model.word_embeddings",
        "attn_qkv": "attention.query_key_value",
        "attn_output": "attention.dense",
        "attn_q_norm": "attention.query_layernorm",
        "attn_k_norm": "attention.key_layernorm",
        "exp_probs_b.bias": whole("mlp.gate.expert_bias"),
    },
    _bailing,
    is_mixture=True,
    rotary_share=0.5,
)


def _hunyuan(config: ConfigReader, keys: Keys) -> None:
    """A base of the rotation that is raised by ``alpha``, for contexts of 256k.

    What config.json says of the context is that before, as by llama.cpp's converter.
    """
    if config.rope.get("rope_type", config.rope.get("type")) != "dynamic":
        return
    alpha, n_rot = config.positive("alpha", among=config.rope), keys["rope.dimension_count"]
    keys["rope.freq_base"] *= alpha ** (n_rot / (n_rot - 2))
    keys["context_length"] = max(keys["context_length"], 256 * 1024)


HUNYUAN = Family(
    "hunyuan-dense",
    ("HunYuanDenseV1ForCausalLM",),
    {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"},
    _hunyuan,
    scalings=("dynamic",),
    is_tied=True,
)


def _same_number(config: ConfigReader, key: str, default: int) -> int:
    """Return a number that may be stated for each layer, all of them the same."""
    value = config.get(key, default)
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        config.issues.append(f"`{key}`: expected one number for all layers, found {value!r:.40}")
        return 0
    return value


def _hunyuan_moe(config: ConfigReader, keys: Keys) -> None:
    _hunyuan(config, keys)
    width = keys["feed_forward_length"]
    n_shared = _same_number(config, "num_shared_expert", 1)
    keys["expert_count"] = _same_number(config, "num_experts", 1)
    keys["expert_used_count"] = _same_number(config, "moe_topk", 1)
    keys["expert_feed_forward_length"] = _same_number(config, "moe_intermediate_size", width)
    keys["expert_shared_count"] = n_shared
    keys["expert_shared_feed_forward_length"] = width * n_shared


HUNYUAN_MOE = Family(
    "hunyuan-moe",
    ("HunYuanMoEV1ForCausalLM",),
    {
        **EXPERTS,
        **HUNYUAN.names,
        "ffn_gate_inp": "mlp.gate.wg",
        "ffn_gate_shexp": "mlp.shared_mlp.gate_proj",
        "ffn_up_shexp": "mlp.shared_mlp.up_proj",
        "ffn_down_shexp": "mlp.shared_mlp.down_proj",
    },
    _hunyuan_moe,
    scalings=("dynamic",),
)
NEMOTRON = Family(
    "nemotron",
    ("NemotronForCausalLM",),
    shifted({}),
    activations=("relu2",),
    epsilon=("norm_eps", "attention.layer_norm_epsilon"),
    rotary_share=0.5,
)


def _exaone4(config: ConfigReader, keys: Keys) -> None:
    n_layer, window = keys["block_count"], config.integer("sliding_window", 0, least=0)
    config.get("sliding_window_pattern")
    flags = config.layers("layer_types", n_layer, KINDS)
    if flags and not any(flags):
        window = 0
    keys["attention.sliding_window"] = window
    if not window:
        return
    if n_layer != 64:
        config.issues.append(f"`sliding_window`: expected 64 layers with it, found {n_layer}")
    keys["attention.sliding_window_pattern"] = np.array(
        flags or [(i + 1) % 4 != 0 for i in range(n_layer)], np.bool_
    )


EXAONE4 = Family(
    "exaone4",
    ("Exaone4ForCausalLM",),
    {
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
    _exaone4,
)

# -- Llama 4 ---------------------------------------------------------------------------------------


def _llama4(config: ConfigReader, keys: Keys) -> None:
    n_layer = keys["block_count"]
    keys["expert_feed_forward_length"] = config.integer("intermediate_size")
    keys["expert_shared_feed_forward_length"] = config.integer("intermediate_size")
    keys["interleave_moe_layer_step"] = config.integer("interleave_moe_layer_step", 1)
    keys["attention.sliding_window"] = config.integer("attention_chunk_size", 8192)
    every_fourth = [int((i + 1) % 4 != 0) for i in range(n_layer)]
    config.expect("no_rope_layers", every_fourth, [])
    config.expect("attention_chunk_size", 8192)
    config.expect("use_qk_norm", keys["expert_count"] != LLAMA4_GRAPH.n_expert_unnormed)
    config.expect("attn_temperature_tuning", True, 4)
    config.expect("floor_scale", 8192)
    config.expect("attn_scale", 0.1)


LLAMA4 = Family(
    "llama4",
    ("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    {
        "ffn_gate_inp": "feed_forward.router",
        "ffn_gate_exps.weight": whole(
            "feed_forward.experts.gate_up_proj", TRANSPOSED.then(FIRST_HALF)
        ),
        "ffn_up_exps.weight": whole(
            "feed_forward.experts.gate_up_proj", TRANSPOSED.then(SECOND_HALF)
        ),
        "ffn_down_exps.weight": whole("feed_forward.experts.down_proj", TRANSPOSED),
        "ffn_gate_shexp": "feed_forward.shared_expert.gate_proj",
        "ffn_up_shexp": "feed_forward.shared_expert.up_proj",
        "ffn_down_shexp": "feed_forward.shared_expert.down_proj",
        "ffn_gate": "feed_forward.gate_proj",
        "ffn_up": "feed_forward.up_proj",
        "ffn_down": "feed_forward.down_proj",
    },
    _llama4,
    rope_theta=500000.0,
    n_ff="intermediate_size_mlp",
    is_mixture=True,
)

# -- DeepSeek --------------------------------------------------------------------------------------


def _deepseek2(config: ConfigReader, keys: Keys) -> None:
    _choice(config, keys)
    rank, n_rot = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    if rank_q := config.integer("q_lora_rank", 0, least=0):
        keys["attention.q_lora_rank"] = rank_q
    keys["attention.head_count_kv"] = 1  # all heads share the latent vector
    keys["attention.kv_lora_rank"] = rank
    keys["attention.key_length"] = rank + n_rot
    keys["attention.value_length"] = rank
    keys["attention.key_length_mla"] = config.integer("qk_nope_head_dim") + n_rot
    keys["attention.value_length_mla"] = config.integer("v_head_dim")
    keys["rope.dimension_count"] = n_rot
    _deepseek_yarn(config, keys)
    _deepseek_router(config, keys)


def _deepseek_yarn(config: ConfigReader, keys: Keys) -> None:
    mscale = config.number("mscale", among=config.rope)
    all_dim = config.number("mscale_all_dim", among=config.rope)
    if not all_dim:
        return
    if mscale != all_dim:
        config.issues.append(f"`mscale`: expected {all_dim} as `mscale_all_dim`, found {mscale!r}")
        return
    keys.pop("rope.scaling.attn_factor", None)
    keys["rope.scaling.yarn_log_multiplier"] = 0.1 * all_dim


def _deepseek_router(config: ConfigReader, keys: Keys) -> None:
    n_group = config.integer("n_group", 1)
    is_v3 = config.get("model_type") == "deepseek_v3" or config.get("topk_method") == "noaux_tc"
    keys["expert_gating_func"] = SIGMOID if is_v3 else 1
    config.expect("scoring_func", "sigmoid" if is_v3 else "softmax")
    if is_v3:
        config.expect("topk_method", "noaux_tc")
        keys["expert_group_count"] = n_group
        keys["expert_group_used_count"] = config.integer("topk_group", 1)
    elif n_group > 1:  # its groups are chosen by their best expert, not by the best two
        config.expect("topk_method", "greedy")


DEEPSEEK2 = Family(
    "deepseek2",
    ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
    {
        **EXPERTS,
        **_SHARED,
        **_BIAS,
        "attn_q_a": "self_attn.q_a_proj",
        "attn_q_a_norm": "self_attn.q_a_layernorm",
        "attn_q_b": "self_attn.q_b_proj",
        "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
        "attn_kv_a_norm": "self_attn.kv_a_layernorm",
        "attn_k_b": Source("self_attn.kv_b_proj", LATENT_KEYS),
        "attn_v_b": Source("self_attn.kv_b_proj", LATENT_VALUES),
    },
    _deepseek2,
    is_mixture=True,
)


def _mistral4(config: ConfigReader, keys: Keys) -> None:
    _deepseek2(config, keys)
    if beta := config.number("llama_4_scaling_beta", among=config.rope):
        keys["attention.temperature_scale"] = beta
        keys["attention.temperature_length"] = config.integer(
            "original_max_position_embeddings", among=config.rope
        )


MISTRAL4 = replace(
    DEEPSEEK2,
    arch="mistral4",
    classes=("Mistral3ForConditionalGeneration",),
    names={**DEEPSEEK2.names, **FUSED_EXPERTS},
    add_keys=_mistral4,
    matches=lambda config: "mistral4" in str(config.get("text_config")),
)

MORE: tuple[Family, ...] = tuple(
    record for record in list(vars().values()) if isinstance(record, Family)
)
