"""The architectures that run here, a record each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from gguf_hub.gguf.arch.architecture import (
    HEAD_NORMS,
    NORMS,
    Architecture,
    H,
    Router,
    States,
    Temperature,
    Windows,
)

_EXPERT_WIDTH = H.n_ff_exp.name
_SHARED = (H.n_expert_shared.name, H.n_ff_shexp.name)
_CHOICE = (H.gating_func.name, H.weights_norm.name, H.weights_scale.name)
_GROUPS = (H.n_group.name, H.n_group_used.name)
_DENSE = (H.n_dense_lead.name,)
_NEXTN = (H.n_layer_nextn.name,)
_SCALES = (
    H.embedding_scale.name, H.residual_scale.name, H.attention_scale.name, H.logit_scale.name,
)  # fmt: skip
_SSM = (
    H.ssm_d_conv.name, H.ssm_d_inner.name, H.ssm_d_state.name, H.ssm_dt_rank.name,
    H.ssm_n_group.name,
)  # fmt: skip
_SOME_ATTEND = {H.n_head.name: 0, H.n_head_kv.name: 0}
_NORMALIZED = Router(is_normalized=True)
_CHOICE_BIAS = ("exp_probs_b.bias",)
_AFTER = ("post_attention_norm.weight", "post_ffw_norm.weight")
_WINDOW = (H.n_swa.name, H.swa_pattern.name, H.rope_freq_base_swa.name)

# -- Llama, Mistral and what is close to them ------------------------------------------------------

LLAMA = Architecture("llama", rope="norm", router=Router("chosen"))
MISTRAL3 = Architecture(
    "mistral3",
    rope="norm",
    router=Router("chosen"),
    temperature=Temperature(),
    reads=(H.yarn_log_multiplier.name, H.temperature_scale.name),
)
LLAMA4 = Architecture(
    "llama4",
    rope="norm",
    rope_skip=4,
    has_plain_norms=True,
    n_expert_unnormed=128,  # Maverick; of the keys, the number of experts alone tells it
    windows=Windows(4, default=8192, fixed=8192, is_chunked=True),
    router=Router("sigmoid", is_first=True),
    temperature=Temperature(scale=0.1, length=8192, offset=1),
    reads=(_EXPERT_WIDTH, H.moe_step.name, *_WINDOW, *_SHARED),
)
SMOLLM3 = Architecture("smollm3", rope="norm", rope_skip=4)
SEED_OSS = Architecture(
    "seed_oss",
    needs=("attn_norm.weight", "post_attention_norm.weight"),
    post_attention_norm_is_before_ffn=True,
)
ERNIE4_5 = Architecture("ernie4_5", rope="norm")
ERNIE4_5_MOE = Architecture(
    "ernie4_5-moe",
    rope="norm",
    may_have=_CHOICE_BIAS,
    router=_NORMALIZED,
    reads=(_EXPERT_WIDTH, H.moe_step.name, *_DENSE, *_SHARED),
)
HUNYUAN_DENSE = Architecture(
    "hunyuan-dense",
    needs=(*NORMS, *HEAD_NORMS),
    has_norms_after_rope=True,
    reads=(H.rope_alpha.name,),
)
HUNYUAN_MOE = Architecture(
    "hunyuan-moe",
    needs=(*NORMS, *HEAD_NORMS),
    has_norms_after_rope=True,
    router=_NORMALIZED,
    reads=(_EXPERT_WIDTH, *_SHARED),
)
NEMOTRON = Architecture(
    "nemotron",
    needs=(*NORMS, "attn_norm.bias", "ffn_norm.bias"),
    has_layer_norm=True,
    activation="relu2",
)
EXAONE4 = Architecture(
    "exaone4",
    needs=(*HEAD_NORMS, *_AFTER),
    rope_windows_only=True,
    windows=Windows(4, default=4096, only_of=64),
    reads=_WINDOW,
)
COHERE2 = Architecture(
    "cohere2",
    rope="norm",
    rope_windows_only=True,
    needs=("attn_norm.weight",),
    has_layer_norm=True,
    is_parallel=True,
    windows=Windows(4),
    requires=(H.n_swa.name, H.logit_scale.name),
    reads=(H.logit_scale.name, *_WINDOW),
)

# -- Granite, MiniCPM ------------------------------------------------------------------------------

GRANITE = Architecture(
    "granite",
    rope="norm",
    divides_logits=True,
    router=_NORMALIZED,
    reads=_SCALES,
)
GRANITEMOE = Architecture(
    "granitemoe",
    rope="norm",
    divides_logits=True,
    router=_NORMALIZED,
    reads=(*_SCALES, *_SHARED),
)
MINICPM = Architecture(
    "minicpm",
    rope="norm",
    divides_logits=True,
    router=_NORMALIZED,
    defaults={
        H.embedding_scale.name: lambda h: 12.0,
        H.residual_scale.name: lambda h: 1.4 / math.sqrt(h.n_layer),
        H.logit_scale.name: lambda h: 256.0 / h.n_embd,
    },
    reads=_SCALES,
)

# -- Qwen ------------------------------------------------------------------------------------------

_TEXT_ONLY = (H.rope_sections.name, "n_deepstack_layers")
QWEN2 = Architecture("qwen2")
QWEN2VL = Architecture("qwen2vl", ignores=_TEXT_ONLY)
QWEN2MOE = Architecture(
    "qwen2moe",
    may_have=("ffn_gate_inp_shexp.weight",),
    router=Router(),
    reads=(_EXPERT_WIDTH, *_SHARED),
)
QWEN3 = Architecture("qwen3", needs=(*NORMS, *HEAD_NORMS))
QWEN3VL = Architecture("qwen3vl", needs=QWEN3.needs, ignores=_TEXT_ONLY)
QWEN3MOE = Architecture(
    "qwen3moe",
    needs=QWEN3.needs,
    router=_NORMALIZED,
    reads=(_EXPERT_WIDTH, H.weights_scale.name),
)
QWEN3VLMOE = Architecture(
    "qwen3vlmoe",
    needs=QWEN3.needs,
    router=_NORMALIZED,
    reads=QWEN3MOE.reads,
    ignores=_TEXT_ONLY,
)

_DELTA_NET = (*_SSM, H.full_attention_interval.name, H.is_recurrent.name, *_NEXTN)
_GATED = ("attn_norm.weight", "post_attention_norm.weight", *HEAD_NORMS)
QWEN3NEXT = Architecture(
    "qwen3next",
    needs=_GATED,
    may_have=("ffn_gate_inp_shexp.weight",),
    post_attention_norm_is_before_ffn=True,
    has_query_gates=True,
    states=States("delta_net", period=4, has_joint_rates=True),
    router=_NORMALIZED,
    requires=_SSM,
    reads=(_EXPERT_WIDTH, H.weights_scale.name, *_SHARED, *_DELTA_NET),
)
QWEN35 = Architecture(
    "qwen35",
    needs=_GATED,
    post_attention_norm_is_before_ffn=True,
    has_query_gates=True,
    states=States("delta_net", period=4, is_tiled=True),
    requires=_SSM,
    reads=_DELTA_NET,
    ignores=_TEXT_ONLY,
)
QWEN35MOE = Architecture(
    "qwen35moe",
    needs=_GATED,
    may_have=("ffn_gate_inp_shexp.weight",),
    post_attention_norm_is_before_ffn=True,
    has_query_gates=True,
    states=QWEN35.states,
    router=_NORMALIZED,
    requires=_SSM,
    reads=QWEN3NEXT.reads,
    ignores=_TEXT_ONLY,
)

# -- states in place of attention ------------------------------------------------------------------

LFM2 = Architecture(
    "lfm2",
    needs=(*NORMS, *HEAD_NORMS),
    states=States("short_conv"),
    output_norm="token_embd_norm",
    varies=_SOME_ATTEND,
    requires=(H.n_shortconv_l_cache.name,),
    reads=(H.n_shortconv_l_cache.name,),
)
LFM2MOE = Architecture(
    "lfm2moe",
    needs=(*NORMS, *HEAD_NORMS),
    may_have=_CHOICE_BIAS,
    states=States("short_conv"),
    output_norm="token_embd_norm",
    router=_NORMALIZED,
    varies=_SOME_ATTEND,
    requires=(H.n_shortconv_l_cache.name,),
    reads=(_EXPERT_WIDTH, H.gating_func.name, H.n_shortconv_l_cache.name, *_DENSE),
)
GRANITEHYBRID = Architecture(
    "granitehybrid",
    rope="norm",
    divides_logits=True,
    states=States("mamba2"),
    router=_NORMALIZED,
    varies=_SOME_ATTEND,
    requires=_SSM,
    reads=(H.rope_finetuned.name, *_SCALES, *_SHARED, *_SSM),
)
NEMOTRON_H = Architecture(
    "nemotron_h",
    rope=None,
    is_one_part=True,
    needs=("attn_norm.weight",),
    activation="relu2",
    states=States("mamba2"),
    varies={**_SOME_ATTEND, H.n_ff.name: 0},
    requires=_SSM,
    reads=_SSM,
)
NEMOTRON_H_MOE = Architecture(
    "nemotron_h_moe",
    rope=None,
    is_one_part=True,
    needs=("attn_norm.weight",),
    may_have=_CHOICE_BIAS,
    activation="relu2",
    states=States("mamba2"),
    router=Router("sigmoid"),
    varies=NEMOTRON_H.varies,
    requires=_SSM,
    reads=(
        _EXPERT_WIDTH,
        H.n_embd_moe.name,
        H.weights_norm.name,
        H.weights_scale.name,
        *_SHARED,
        *_NEXTN,
        *_SSM,
    ),
    ignores=(H.gating_func.name,),  # always a sigmoid
)

# -- Gemma -----------------------------------------------------------------------------------------


def _of_27b(n_layer: int) -> dict[str, object]:
    """Gemma's largest model scales scores by another length than that of its heads."""

    def scale(h: H) -> float:
        length = h.n_embd // h.n_head if h.n_layer == n_layer else h.head_dim
        return 1 / math.sqrt(length)

    return {"score_scale": scale}


GEMMA = Architecture("gemma", activation="gelu", scales_embeddings=True)
GEMMA2 = Architecture(
    "gemma2",
    needs=(*NORMS, *_AFTER),
    activation="gelu",
    scales_embeddings=True,
    windows=Windows(2, default=4096),
    reads=(H.score_cap.name, H.logit_cap.name, *_WINDOW),
    defaults={H.score_cap.name: lambda h: 50.0, H.logit_cap.name: lambda h: 30.0},
    **_of_27b(46),  # type: ignore[arg-type]
)
GEMMA3 = Architecture(
    "gemma3",
    needs=(*NORMS, *HEAD_NORMS, *_AFTER),
    activation="gelu",
    scales_embeddings=True,
    windows=Windows(6, is_plain=True, freq_base=10000.0),
    reads=(H.logit_cap.name, *_WINDOW),
    **_of_27b(62),  # type: ignore[arg-type]
)

GEMMA4 = Architecture(
    "gemma4",
    needs=(*NORMS, *HEAD_NORMS, *_AFTER, "post_norm.weight", "ffn_gate_inp.scale",
           "pre_ffw_norm_2.weight", "post_ffw_norm_1.weight", "post_ffw_norm_2.weight"),
    may_have=("layer_output_scale.weight", "ffn_down_exps.scale"),
    has_value_norms=True,
    has_dense_beside=True,
    activation="gelu",
    scales_embeddings=True,
    windows=Windows(6, has_own_heads=True),
    router=_NORMALIZED,
    score_scale=lambda h: 1.0,
    varies={H.n_head.name: 1, H.n_head_kv.name: 1, H.n_ff.name: 1},
    requires=(H.n_swa.name, H.swa_pattern.name, H.head_dim_swa.name, H.n_embd_head_v_swa.name,
              H.n_embd_per_layer.name),
    reads=(_EXPERT_WIDTH, H.logit_cap.name, H.head_dim_swa.name, H.n_embd_head_v_swa.name,
           H.n_rot_swa.name, H.n_layer_kv_shared.name, H.n_embd_per_layer.name, *_WINDOW),
)  # fmt: skip

# -- Phi, GLM, OLMo, gpt-oss, others ---------------------------------------------------------------

PHI3 = Architecture(
    "phi3",
    has_fused_gate=True,
    # windows of its files are wrong, llama.cpp leaves them out, too
    ignores=(H.n_swa.name,),
)
GLM4 = Architecture(
    "glm4",
    rope="norm",
    halves_with_sections=True,
    needs=(*NORMS, *_AFTER),
    has_fused_gate=True,
    ignores=_TEXT_ONLY,
)
GLM4MOE = Architecture(
    "glm4moe",
    needs=("attn_norm.weight", "post_attention_norm.weight"),
    may_have=(*HEAD_NORMS, *_CHOICE_BIAS),
    post_attention_norm_is_before_ffn=True,
    router=Router("sigmoid"),
    reads=(_EXPERT_WIDTH, *_CHOICE, *_DENSE, *_SHARED, *_NEXTN),
    ignores=_TEXT_ONLY,
)
OLMO2 = Architecture(
    "olmo2",
    needs=(*HEAD_NORMS, *_AFTER),
    has_whole_norms=True,
    windows=Windows(4, is_plain=True),
    reads=_WINDOW,
)
OLMOE = Architecture("olmoe", needs=(*NORMS, *HEAD_NORMS), has_whole_norms=True, router=Router())
MINIMAX_M2 = Architecture(
    "minimax-m2",
    needs=(*NORMS, *HEAD_NORMS),
    may_have=_CHOICE_BIAS,
    has_whole_norms=True,
    router=_NORMALIZED,
    reads=(H.gating_func.name,),
)
BAILINGMOE2 = Architecture(
    "bailingmoe2",
    needs=(*NORMS, *HEAD_NORMS),
    may_have=_CHOICE_BIAS,
    router=Router(),
    reads=(_EXPERT_WIDTH, *_CHOICE, *_GROUPS, *_DENSE, *_SHARED, *_NEXTN),
)
GPT_OSS = Architecture(
    "gpt-oss",
    needs=("attn_norm.weight", "post_attention_norm.weight", "attn_sinks.weight",
           "ffn_gate_inp.bias", "ffn_gate_exps.bias", "ffn_up_exps.bias", "ffn_down_exps.bias"),
    post_attention_norm_is_before_ffn=True,
    activation="swiglu_oai",
    windows=Windows(2),
    router=Router("chosen"),
    requires=(H.n_swa.name, _EXPERT_WIDTH),
    reads=(_EXPERT_WIDTH, *_WINDOW),
)  # fmt: skip

# -- DeepSeek: multi-head latent attention ---------------------------------------------------------

_LATENTS = (
    H.n_lora_q.name, H.n_lora_kv.name, H.n_embd_head_v.name, H.head_dim_mla.name,
    H.n_embd_head_v_mla.name, H.yarn_log_multiplier.name, H.temperature_scale.name,
    H.temperature_length.name,
)  # fmt: skip


def _gating_func(h: H) -> float:
    """Return what is meant where no key tells: a sigmoid by GLM 4.7 Flash, softmax by others."""
    return 2 if h.n_layer in (47, 48) and h.n_vocab == 154880 else 1


DEEPSEEK2 = Architecture(
    "deepseek2",
    rope="norm",
    needs=(*NORMS, "attn_q_a_norm.weight", "attn_kv_a_norm.weight"),
    may_have=_CHOICE_BIAS,
    has_latents=True,
    yarn_scales_scores=True,
    router=Router(),
    temperature=Temperature(),
    defaults={H.gating_func.name: _gating_func},
    requires=(H.n_lora_kv.name,),
    reads=(_EXPERT_WIDTH, *_LATENTS, *_CHOICE, *_GROUPS, *_DENSE, *_SHARED),
)
MISTRAL4 = replace(DEEPSEEK2, name="mistral4", yarn_scales_scores=False)

ARCHITECTURES: Mapping[str, Architecture] = {
    record.name: record for record in list(vars().values()) if isinstance(record, Architecture)
}
"""Name -> record of every architecture that runs here."""
