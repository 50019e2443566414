"""Gemma 4: other heads in layers with windows, embeddings of layers, experts beside a network."""

from __future__ import annotations

import numpy as np

from gguf_hub.run.convert.config import ConfigReader
from gguf_hub.run.convert.families.family import Family, Keys, whole
from gguf_hub.run.convert.families.makes import FIRST_HALF, SECOND_HALF
from gguf_hub.run.convert.families.windows import KINDS


def _of_full_layers(config: ConfigReader, name: str, key: str, windows: list[bool]) -> int:
    """Return a size of layers without a window: by its own name, or as one layer says it.

    0 where neither does.
    """
    if config.get(name) is not None:
        return config.integer(name)
    layers = config.get("per_layer_config")
    for i, entry in layers.items() if isinstance(layers, dict) else ():
        is_full = str(i).isdecimal() and int(i) < len(windows) and not windows[int(i)]
        if is_full and isinstance(entry, dict) and key in entry:
            return config.integer(key, among=entry)
    return 0


def _gemma4(config: ConfigReader, keys: Keys) -> None:
    n_layer = keys["block_count"]
    windows = config.layers("layer_types", n_layer, KINDS)
    if not windows:
        config.issues.append("`layer_types`: expected a kind for each layer")
        return
    keys["attention.sliding_window"] = config.integer("sliding_window")
    keys["attention.sliding_window_pattern"] = np.array(windows, np.bool_)
    _heads(config, keys, windows)
    n_shared = config.integer("num_kv_shared_layers", 0, least=0)
    keys["attention.shared_kv_layers"] = n_shared
    keys["embedding_length_per_layer_input"] = config.integer(
        "hidden_size_per_layer_input", 0, least=0
    )
    if config.flag("use_double_wide_mlp"):
        width, first = keys["feed_forward_length"], n_layer - n_shared
        wide = [width * (1 + (i >= first)) for i in range(n_layer)]
        if max(wide) > np.iinfo(np.int32).max:
            config.issues.append(f"`intermediate_size` {width:,}: twice that is no size")
            return
        keys["feed_forward_length"] = np.array(wide, np.int32)
    if cap := config.number("final_logit_softcapping"):
        keys["final_logit_softcapping"] = cap
    if config.flag("enable_moe_block"):
        keys["expert_count"] = config.integer("num_experts")
        keys["expert_used_count"] = config.integer("top_k_experts")
        keys["expert_feed_forward_length"] = config.integer(
            config.first("moe_intermediate_size", "expert_intermediate_size")
        )
    config.expect("use_bidirectional_attention", False, "vision")


def _heads(config: ConfigReader, keys: Keys, windows: list[bool]) -> None:
    """Add sizes of heads and how they are rotated, in layers with a window and without."""
    length = config.integer("head_dim", 256)
    full = _of_full_layers(config, "global_head_dim", "head_dim", windows) or length
    n_kv = keys["attention.head_count_kv"]
    n_kv_full = _of_full_layers(
        config, "num_global_key_value_heads", "num_key_value_heads", windows
    )
    keys["attention.key_length"] = keys["attention.value_length"] = full
    keys["attention.key_length_swa"] = keys["attention.value_length_swa"] = length
    keys["rope.dimension_count"] = full
    keys["rope.dimension_count_swa"] = length
    if n_kv_full:
        counts = [n_kv if is_window else n_kv_full for is_window in windows]
        keys["attention.head_count_kv"] = np.array(counts, np.int32)


GEMMA4 = Family(
    "gemma4",
    ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
    {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
        "layer_output_scale.weight": whole("layer_scalar"),
        "per_layer_token_embd": "model.embed_tokens_per_layer",
        "per_layer_model_proj": "model.per_layer_model_projection",
        "per_layer_proj_norm": "model.per_layer_projection_norm",
        "inp_gate": "per_layer_input_gate",
        "proj": "per_layer_projection",
        "post_norm": "post_per_layer_input_norm",
        "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
        "post_ffw_norm_1": "post_feedforward_layernorm_1",
        "post_ffw_norm_2": "post_feedforward_layernorm_2",
        "ffn_gate_inp": "router.proj",
        "ffn_gate_inp.scale": whole("router.scale"),
        "ffn_down_exps.scale": whole("router.per_expert_scale"),
        "ffn_gate_exps.weight": whole("experts.gate_up_proj", FIRST_HALF),
        "ffn_up_exps.weight": whole("experts.gate_up_proj", SECOND_HALF),
        "ffn_down_exps.weight": whole("experts.down_proj"),
    },
    _gemma4,
    rope_theta=1e6,
    activations=("gelu_pytorch_tanh",),
    ignored=r"lm_head\.weight",
    scalings=("proportional",),
    is_tied=True,
)

GEMMA4S: tuple[Family, ...] = (GEMMA4,)
