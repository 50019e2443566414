"""The architectures that are converted: Llama, Qwen, Gemma and others of plain attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_hub.run.convert.config import ConfigReader
from gguf_hub.run.convert.families.classic import CLASSIC
from gguf_hub.run.convert.families.family import (
    EXPERTS,
    FUSED_EXPERTS,
    QWEN_SHARED,
    TURNED,
    Family,
    Keys,
    Names,
    add_granite_scales,
    shifted,
    whole,
)
from gguf_hub.run.convert.families.gemma4 import GEMMA4S
from gguf_hub.run.convert.families.hybrid import GRANITE_EXPERTS, HYBRIDS
from gguf_hub.run.convert.families.makes import (
    EVEN_ROWS,
    FIRST_HALF,
    ODD_ROWS,
    SECOND_HALF,
    TRANSPOSED,
    every_other,
)
from gguf_hub.run.convert.families.more import MORE
from gguf_hub.run.convert.families.states import STATES
from gguf_hub.run.convert.families.windows import add_window

_MIXTRAL: Names = {
    **TURNED,
    "ffn_gate_inp": ("block_sparse_moe.gate", "mlp.gate"),
    "ffn_gate_exps": ("block_sparse_moe.experts.{e}.w1", "mlp.experts.{e}.gate_proj"),
    "ffn_down_exps": ("block_sparse_moe.experts.{e}.w2", "mlp.experts.{e}.down_proj"),
    "ffn_up_exps": ("block_sparse_moe.experts.{e}.w3", "mlp.experts.{e}.up_proj"),
}
"""The second names are those of modules in transformers 5, which GPTQModel 7 writes."""

# -- Llama, Mistral and what is close to them ------------------------------------------------------

LLAMA = Family(
    "llama",
    ("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"),
    TURNED,
)
MIXTRAL = Family("llama", ("MixtralForCausalLM",), _MIXTRAL, rope_theta=1e6, is_mixture=True)


def _mistral3(config: ConfigReader, keys: Keys) -> None:
    rope = config.rope
    if multiplier := config.number("mscale_all_dim", among=rope):
        keys["rope.scaling.yarn_log_multiplier"] = multiplier
        keys.pop("rope.scaling.attn_factor", None)  # which the multiplier says
    if beta := config.number("llama_4_scaling_beta", among=rope):
        keys["attention.temperature_scale"] = beta


def _is_mistral4(config: Mapping[str, Any]) -> bool:
    text = config.get("text_config")
    return isinstance(text, dict) and text.get("model_type") == "mistral4"


MISTRAL3 = Family(
    "mistral3", ("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"), TURNED, _mistral3,
    matches=lambda config: not _is_mistral4(config),
)  # fmt: skip


def _smollm3(config: ConfigReader, keys: Keys) -> None:
    n_layer = keys["block_count"]
    flags = config.get("no_rope_layers")
    if flags is not None and flags != [int((i + 1) % 4 != 0) for i in range(n_layer)]:
        config.issues.append("`no_rope_layers`: expected 0 in every fourth layer, else 1")
    config.expect("no_rope_layer_interval", 4)


SMOLLM3 = Family("smollm3", ("SmolLM3ForCausalLM",), TURNED, _smollm3, rope_theta=2e6, is_tied=True)
SEED_OSS = Family("seed_oss", ("SeedOssForCausalLM",),
                  {"post_attention_norm": "post_attention_layernorm"})  # fmt: skip

# -- Granite ---------------------------------------------------------------------------------------


def _granite_shared(config: ConfigReader, keys: Keys) -> None:
    add_granite_scales(config, keys)
    if width := config.integer("shared_intermediate_size", 0, least=0):
        keys["expert_shared_feed_forward_length"] = width


GRANITE = Family("granite", ("GraniteForCausalLM",), TURNED, add_granite_scales)
GRANITEMOE = Family(
    "granitemoe",
    ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    {**TURNED, **GRANITE_EXPERTS},
    _granite_shared,
    is_mixture=True,
)


def _minicpm(config: ConfigReader, keys: Keys) -> None:
    """Granite's scales, of the widths and depths of the models that they were found with."""
    keys["embedding_scale"] = config.positive("scale_emb", 1.0)
    depth = config.positive("scale_depth", 1.0)
    keys["residual_scale"] = depth / math.sqrt(keys["block_count"])
    keys["logit_scale"] = keys["embedding_length"] / config.integer("dim_model_base", 1)
    config.expect("num_experts", 0)
    sparse = config.get("sparse_config")
    if isinstance(sparse, dict):
        config.notes.append(
            "the sparse attention of contexts beyond "
            f"`dense_len` {sparse.get('dense_len')!r:.20} is not kept: programs attend to the "
            "whole context, as with every GGUF of this architecture"
        )


MINICPM = Family("minicpm", ("MiniCPMForCausalLM",), TURNED, _minicpm, is_tied=True)

# -- Qwen ------------------------------------------------------------------------------------------


def _expert_width(config: ConfigReader, keys: Keys) -> None:
    keys["expert_feed_forward_length"] = config.integer("moe_intermediate_size")


def _qwen2moe(config: ConfigReader, keys: Keys) -> None:
    _expert_width(config, keys)
    config.expect("norm_topk_prob", False)
    keys["expert_shared_feed_forward_length"] = config.integer("shared_expert_intermediate_size")


def _qwen3moe(config: ConfigReader, keys: Keys) -> None:
    _expert_width(config, keys)
    if not config.flag("norm_topk_prob"):
        config.issues.append("`norm_topk_prob`: expected true, found false")


QWEN2 = Family("qwen2", ("Qwen2ForCausalLM",))
QWEN2MOE = Family("qwen2moe", ("Qwen2MoeForCausalLM",), QWEN_SHARED, _qwen2moe, is_mixture=True)
QWEN3 = Family("qwen3", ("Qwen3ForCausalLM",))
QWEN3MOE = Family("qwen3moe", ("Qwen3MoeForCausalLM",), {**EXPERTS, **FUSED_EXPERTS}, _qwen3moe,
                  is_mixture=True)  # fmt: skip


def _qwen3vl(config: ConfigReader, keys: Keys) -> None:
    """Add how positions in images are rotated; of text all three are one."""
    sections = config.sections(keys["rope.dimension_count"] // 2)
    keys["rope.dimension_sections"] = np.array(sections, np.int32)
    vision = config.whole.get("vision_config")
    layers = vision.get("deepstack_visual_indexes") if isinstance(vision, dict) else None
    keys["n_deepstack_layers"] = len(layers) if isinstance(layers, list) else 0


def _qwen3vlmoe(config: ConfigReader, keys: Keys) -> None:
    _qwen3vl(config, keys)
    _expert_width(config, keys)
    config.expect("norm_topk_prob", True)


QWEN3VL = Family("qwen3vl", ("Qwen3VLForConditionalGeneration",), {}, _qwen3vl)
QWEN3VLMOE = Family(
    "qwen3vlmoe",
    ("Qwen3VLMoeForConditionalGeneration",),
    {
        **EXPERTS,
        "ffn_gate_exps": whole("mlp.experts.gate_up_proj", TRANSPOSED.then(FIRST_HALF)),
        "ffn_up_exps": whole("mlp.experts.gate_up_proj", TRANSPOSED.then(SECOND_HALF)),
        "ffn_down_exps": whole("mlp.experts.down_proj", TRANSPOSED),
    },
    _qwen3vlmoe,
    is_mixture=True,
)

# -- Gemma -----------------------------------------------------------------------------------------

_GELU = ("gelu_pytorch_tanh",)
_GEMMA_AFTER = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def _gemma(config: ConfigReader, keys: Keys) -> None:
    head_dim = config.integer("head_dim", 256)
    keys["attention.key_length"] = keys["attention.value_length"] = head_dim
    keys["rope.dimension_count"] = head_dim
    # Gemma's first configurations say `gelu`, which transformers takes as the tanh form
    config.expect("use_bidirectional_attention", False)


def _query_scale(config: ConfigReader, keys: Keys, n_layer: int) -> None:
    """Scores are scaled by the length of a head, or in the largest model by another one."""
    heads, length = keys["attention.head_count"], keys["attention.key_length"]
    is_largest = keys["block_count"] == n_layer
    expected = keys["embedding_length"] // heads if is_largest else length
    found = config.get("query_pre_attn_scalar", expected)
    if found != expected:
        config.issues.append(f"`query_pre_attn_scalar`: expected {expected}, found {found!r:.40}")


def _gemma2(config: ConfigReader, keys: Keys) -> None:
    _gemma(config, keys)
    _query_scale(config, keys, 46)
    keys["attn_logit_softcapping"] = config.number("attn_logit_softcapping")
    keys["final_logit_softcapping"] = config.number("final_logit_softcapping")
    add_window(config, keys, period=2)


def _gemma3(config: ConfigReader, keys: Keys) -> None:
    _gemma(config, keys)
    _query_scale(config, keys, 62)
    if cap := config.number("final_logit_softcapping"):
        keys["final_logit_softcapping"] = cap
    keys["rope.freq_base_swa"] = config.positive(
        "rope_local_base_freq", keys.get("rope.freq_base_swa", 10000.0)
    )
    period = config.get(config.first("sliding_window_pattern", "_sliding_window_pattern"), 6)
    add_window(config, keys, period=period)


GEMMA = Family(
    "gemma", ("GemmaForCausalLM",), shifted({}), _gemma,
    activations=(*_GELU, "gelu"), ignored=r"lm_head\.weight", is_tied=True,
)  # fmt: skip
GEMMA2 = Family(
    "gemma2", ("Gemma2ForCausalLM",), shifted(_GEMMA_AFTER), _gemma2, activations=_GELU,
    ignored=r"lm_head\.weight", is_tied=True,
)  # fmt: skip
GEMMA3 = Family(
    "gemma3", ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"), shifted(_GEMMA_AFTER),
    _gemma3, rope_theta=1e6, activations=_GELU, ignored=r"lm_head\.weight", is_tied=True,
    defaults={"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4,
              "head_dim": 256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
              "query_pre_attn_scalar": 256, "sliding_window": 4096},
)  # fmt: skip

# -- Phi, OLMo, GLM, Cohere ------------------------------------------------------------------------


def _phi3(config: ConfigReader, keys: Keys) -> None:
    config.get("original_max_position_embeddings")


PHI3 = Family("phi3", ("Phi3ForCausalLM",), {"ffn_up": "mlp.gate_up_proj"}, _phi3)

_AFTER: Names = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def _olmo3(config: ConfigReader, keys: Keys) -> None:
    add_window(config, keys, period=4)
    if keys.pop("rope.freq_base_swa", keys["rope.freq_base"]) != keys["rope.freq_base"]:
        config.issues.append("`rope_parameters`: expected one `rope_theta` for all layers")


OLMO2 = Family("olmo2", ("Olmo2ForCausalLM",), _AFTER)
OLMO3 = Family("olmo2", ("Olmo3ForCausalLM",), _AFTER, _olmo3)
OLMOE = Family("olmoe", ("OlmoeForCausalLM",), {**EXPERTS, **FUSED_EXPERTS},
               lambda config, keys: config.expect("norm_topk_prob", False),
               is_mixture=True)  # fmt: skip


def _cohere2(config: ConfigReader, keys: Keys) -> None:
    keys["logit_scale"] = config.positive("logit_scale")
    config.expect("position_embedding_type", "rope_gptj", "rope")
    keys["rope.scaling.type"] = "none"
    add_window(config, keys, period=config.integer("sliding_window_pattern", 4))


COHERE2 = Family(
    "cohere2", ("Cohere2ForCausalLM",), add_keys=_cohere2,
    epsilon=("layer_norm_eps", "attention.layer_norm_epsilon"), is_tied=True,
)  # fmt: skip
GLM4 = Family(
    "glm4",
    ("Glm4ForCausalLM",),
    {
        "ffn_norm": "post_attention_layernorm",
        "post_attention_norm": "post_self_attn_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
        "ffn_up": "mlp.gate_up_proj",
    },
    rotary_share=0.5,
)

# -- gpt-oss ---------------------------------------------------------------------------------------


def _gpt_oss(config: ConfigReader, keys: Keys) -> None:
    keys["expert_feed_forward_length"] = keys["feed_forward_length"]
    config.expect(config.first("swiglu_limit"), 7, 7.0)
    config.expect("swiglu_alpha", 1.702)
    add_window(config, keys, period=2)


GPT_OSS = Family(
    "gpt-oss",
    ("GptOssForCausalLM",),
    {
        "post_attention_norm": "post_attention_layernorm",
        "attn_sinks.weight": whole("self_attn.sinks"),
        "ffn_gate_inp": "mlp.router",
        "ffn_gate_exps.weight": (
            whole("mlp.experts.gate_up_proj_blocks", EVEN_ROWS),
            whole("mlp.experts.gate_up_proj", TRANSPOSED.then(EVEN_ROWS)),
        ),
        "ffn_up_exps.weight": (
            whole("mlp.experts.gate_up_proj_blocks", ODD_ROWS),
            whole("mlp.experts.gate_up_proj", TRANSPOSED.then(ODD_ROWS)),
        ),
        "ffn_down_exps.weight": (
            whole("mlp.experts.down_proj_blocks"),
            whole("mlp.experts.down_proj", TRANSPOSED),
        ),
        "ffn_gate_exps.bias": whole("mlp.experts.gate_up_proj_bias", every_other(0)),
        "ffn_up_exps.bias": whole("mlp.experts.gate_up_proj_bias", every_other(1)),
        "ffn_down_exps.bias": whole("mlp.experts.down_proj_bias"),
    },
    _gpt_oss,
    rope_theta=150000.0,
    is_mixture=True,
)

FAMILIES: tuple[Family, ...] = (
    *(record for record in list(vars().values()) if isinstance(record, Family)),
    *MORE,
    *CLASSIC,
    *STATES,
    *HYBRIDS,
    *GEMMA4S,
)
"""Every architecture that is converted."""
