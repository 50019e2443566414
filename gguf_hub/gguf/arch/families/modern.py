"""Mixtures and dense models of 2024 to 2026: dots, Ling, K-EXAONE, Trinity, SmallThinker."""

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
    WINDOW,
)

DOTS1 = Architecture(
    "dots1",
    needs=(*NORMS, *HEAD_NORMS),
    may_have=CHOICE_BIAS,
    router=Router(),
    requires=(H.gating_func.name,),
    reads=(EXPERT_WIDTH, *CHOICE, *GROUPS, *DENSE, *SHARED),
)
DEEPSEEK = Architecture(
    "deepseek",
    rope="norm",
    router=Router(),
    reads=(EXPERT_WIDTH, H.weights_scale.name, *DENSE, *SHARED),
)
BAILINGMOE = Architecture(
    "bailingmoe",
    rope="norm",
    router=Router(),
    reads=(EXPERT_WIDTH, H.weights_norm.name, H.weights_scale.name, *SHARED),
    ignores=DENSE,  # all of its layers have experts
)
EXAONE_MOE = Architecture(
    "exaone-moe",
    needs=(*NORMS, *HEAD_NORMS),
    may_have=CHOICE_BIAS,
    rope_windows_only=True,
    windows=Windows(4),
    router=Router(),
    requires=(H.n_swa.name, H.gating_func.name),
    reads=(EXPERT_WIDTH, H.n_swa.name, H.swa_pattern.name, *CHOICE, *GROUPS, *DENSE, *SHARED,
           *NEXTN),
    ignores=(H.rope_freq_base_swa.name,),  # windows are rotated as all layers
)  # fmt: skip
MELLUM = Architecture(
    "mellum",
    needs=(*NORMS, *HEAD_NORMS),
    windows=Windows(4, is_plain=True),
    router=NORMALIZED,
    reads=(EXPERT_WIDTH, H.n_swa.name, H.swa_pattern.name),
    ignores=(H.rope_freq_base_swa.name,),
)
AFMOE = Architecture(
    "afmoe",
    has_result_gates=True,
    rope_skip=4,
    needs=(*NORMS, *HEAD_NORMS, *AFTER, *CHOICE_BIAS),
    scales_embeddings=True,
    windows=Windows(4),
    router=Router("sigmoid"),
    reads=(EXPERT_WIDTH, *WINDOW, *CHOICE, *GROUPS, *DENSE, *SHARED),
)
SMALLTHINKER = Architecture(
    "smallthinker",
    rope_windows_only=True,
    activation="relu",
    routes_before_attention=True,
    windows=Windows(4, fixed=4096, is_full_first=True),
    router=NORMALIZED,
    requires=(H.gating_func.name,),
    reads=(EXPERT_WIDTH, H.gating_func.name, *WINDOW),
)
COHERE2MOE = Architecture(
    "cohere2moe",
    rope="norm",
    rope_windows_only=True,
    rope_dense_lead=True,
    needs=("attn_norm.weight",),
    has_layer_norm=True,
    has_rms_norm_by_key=True,
    is_parallel=True,
    averages_shared=True,
    windows=Windows(4, is_full_first=True),
    router=Router("sigmoid"),
    requires=(H.n_swa.name, H.logit_scale.name, H.n_dense_lead.name),
    reads=(EXPERT_WIDTH, H.logit_scale.name, H.n_swa.name, H.swa_pattern.name, *CHOICE, *GROUPS,
           *DENSE, *SHARED, *NEXTN),
    ignores=(H.rope_freq_base_swa.name,),
)  # fmt: skip
STEP35 = Architecture(
    "step35",
    has_head_gates=True,
    rotates_half=True,
    may_have=(*HEAD_NORMS, *CHOICE_BIAS),
    has_experts_by_tensors=True,
    windows=Windows(0, is_plain=True, freq_base=10000.0, has_own_heads=True),
    router=Router("sigmoid"),
    varies={H.n_head.name: 1, H.n_head_kv.name: 1},
    arrays=(H.swiglu_clamp_exp.name, H.swiglu_clamp_shexp.name),
    requires=(H.n_swa.name, H.swa_pattern.name),
    reads=(EXPERT_WIDTH, H.head_dim_swa.name, H.n_embd_head_v_swa.name, H.n_rot_swa.name, *WINDOW,
           *CHOICE, *GROUPS, *SHARED, *NEXTN),
    ignores=(*DENSE, H.moe_step.name),  # experts are where there is a router
)  # fmt: skip
MIMO2 = Architecture(
    "mimo2",
    may_have=("attn_sinks.weight", *CHOICE_BIAS),
    has_value_lengths=True,
    has_experts_by_tensors=True,
    windows=Windows(0, is_plain=True, freq_base=10000.0),
    router=Router("sigmoid", is_normalized=True),
    varies={H.n_head.name: 1, H.n_head_kv.name: 1},
    requires=(H.n_swa.name, H.swa_pattern.name),
    reads=(EXPERT_WIDTH, H.n_embd_head_v.name, H.value_scale.name, *WINDOW, *GROUPS, *NEXTN),
    ignores=(H.gating_func.name,),  # always a sigmoid
)
MAINCODER = Architecture(
    "maincoder", rope="norm", needs=(*NORMS, *HEAD_NORMS), has_norms_after_rope=True
)
PANGU_EMBED = Architecture("pangu-embedded")
