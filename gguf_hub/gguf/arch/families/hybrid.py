"""Models most of whose layers carry a state in place of attention."""

from __future__ import annotations

from dataclasses import replace

from gguf_hub.gguf.arch.architecture import HEAD_NORMS, NORMS, Architecture, H, Router, States
from gguf_hub.gguf.arch.families.keys import (
    CHOICE_BIAS,
    DENSE,
    EXPERT_WIDTH,
    NEXTN,
    NORMALIZED,
    SCALES,
    SHARED,
    SOME_ATTEND,
    SSM,
)

LFM2 = Architecture(
    "lfm2",
    needs=(*NORMS, *HEAD_NORMS),
    states=States("short_conv"),
    output_norm="token_embd_norm",
    varies=SOME_ATTEND,
    requires=(H.n_shortconv_l_cache.name,),
    reads=(H.n_shortconv_l_cache.name,),
)
LFM2MOE = Architecture(
    "lfm2moe",
    needs=(*NORMS, *HEAD_NORMS),
    may_have=CHOICE_BIAS,
    states=States("short_conv"),
    output_norm="token_embd_norm",
    router=NORMALIZED,
    varies=SOME_ATTEND,
    requires=(H.n_shortconv_l_cache.name,),
    reads=(EXPERT_WIDTH, H.gating_func.name, H.n_shortconv_l_cache.name, *DENSE),
)
GRANITEHYBRID = Architecture(
    "granitehybrid",
    rope="norm",
    divides_logits=True,
    states=States("mamba2"),
    router=NORMALIZED,
    varies=SOME_ATTEND,
    requires=SSM,
    reads=(H.rope_finetuned.name, *SCALES, *SHARED, *SSM),
)
_SCAN = tuple(name for name in SSM if name != H.ssm_n_group.name)
MAMBA = Architecture(
    "mamba",
    rope=None,
    is_one_part=True,
    needs=("attn_norm.weight",),
    states=States("mamba"),
    varies={**SOME_ATTEND, H.n_ff.name: 0},
    requires=_SCAN,
    reads=(*_SCAN, H.has_ssm_dt_b_c_rms.name),
)
JAMBA = Architecture(
    "jamba",
    rope=None,
    states=States("mamba", has_rate_norms=True),
    has_experts_by_tensors=True,
    router=Router(),
    varies=SOME_ATTEND,
    requires=_SCAN,
    reads=_SCAN,
)
MAMBA2 = replace(MAMBA, name="mamba2", states=States("mamba2"), requires=SSM, reads=SSM)
FALCON_H1 = Architecture(
    "falcon-h1",
    needs=("attn_norm.weight", "ffn_norm"),
    ffn_norm="ffn_norm",
    states=States("mamba2", is_beside_attention=True),
    requires=SSM,
    reads=SSM,
)
NEMOTRON_H = Architecture(
    "nemotron_h",
    rope=None,
    is_one_part=True,
    needs=("attn_norm.weight",),
    activation="relu2",
    states=States("mamba2"),
    varies={**SOME_ATTEND, H.n_ff.name: 0},
    requires=SSM,
    reads=SSM,
)
NEMOTRON_H_MOE = Architecture(
    "nemotron_h_moe",
    rope=None,
    is_one_part=True,
    needs=("attn_norm.weight",),
    may_have=CHOICE_BIAS,
    activation="relu2",
    states=States("mamba2"),
    router=Router("sigmoid"),
    varies=NEMOTRON_H.varies,
    requires=SSM,
    reads=(
        EXPERT_WIDTH,
        H.n_embd_moe.name,
        H.weights_norm.name,
        H.weights_scale.name,
        *SHARED,
        *NEXTN,
        *SSM,
    ),
    ignores=(H.gating_func.name,),  # always a sigmoid
)
