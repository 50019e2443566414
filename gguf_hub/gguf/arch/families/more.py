"""Phi, GLM, OLMo, gpt-oss and others."""

from __future__ import annotations

from gguf_hub.gguf.arch.architecture import HEAD_NORMS, NORMS, Architecture, H, Router, Windows
from gguf_hub.gguf.arch.families.keys import (
    AFTER,
    CHOICE,
    CHOICE_BIAS,
    DENSE,
    EXPERT_WIDTH,
    GROUPS,
    NEXTN,
    NORMALIZED,
    SHARED,
    TEXT_ONLY,
    WINDOW,
)

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
    needs=(*NORMS, *AFTER),
    has_fused_gate=True,
    ignores=TEXT_ONLY,
)
GLM4MOE = Architecture(
    "glm4moe",
    needs=("attn_norm.weight", "post_attention_norm.weight"),
    may_have=(*HEAD_NORMS, *CHOICE_BIAS),
    post_attention_norm_is_before_ffn=True,
    router=Router("sigmoid"),
    reads=(EXPERT_WIDTH, *CHOICE, *DENSE, *SHARED, *NEXTN),
    ignores=TEXT_ONLY,
)
OLMO2 = Architecture(
    "olmo2",
    needs=(*HEAD_NORMS, *AFTER),
    has_whole_norms=True,
    windows=Windows(4, is_plain=True),
    reads=WINDOW,
)
OLMOE = Architecture("olmoe", needs=(*NORMS, *HEAD_NORMS), has_whole_norms=True, router=Router())
MINIMAX_M2 = Architecture(
    "minimax-m2",
    needs=(*NORMS, *HEAD_NORMS),
    may_have=CHOICE_BIAS,
    has_whole_norms=True,
    router=NORMALIZED,
    reads=(H.gating_func.name,),
)
BAILINGMOE2 = Architecture(
    "bailingmoe2",
    needs=(*NORMS, *HEAD_NORMS),
    may_have=CHOICE_BIAS,
    router=Router(),
    reads=(EXPERT_WIDTH, *CHOICE, *GROUPS, *DENSE, *SHARED, *NEXTN),
)
GPT_OSS = Architecture(
    "gpt-oss",
    needs=("attn_norm.weight", "post_attention_norm.weight", "attn_sinks.weight",
           "ffn_gate_inp.bias", "ffn_gate_exps.bias", "ffn_up_exps.bias", "ffn_down_exps.bias"),
    post_attention_norm_is_before_ffn=True,
    activation="swiglu_oai",
    windows=Windows(2),
    router=Router("chosen"),
    requires=(H.n_swa.name, EXPERT_WIDTH),
    reads=(EXPERT_WIDTH, *WINDOW),
)  # fmt: skip
