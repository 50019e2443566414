"""Llama, Mistral and what is close to them; Granite, MiniCPM."""

from __future__ import annotations

import math

from gguf_hub.gguf.arch.architecture import (
    HEAD_NORMS,
    NORMS,
    Architecture,
    H,
    Router,
    Temperature,
    Windows,
)
from gguf_hub.gguf.arch.families.keys import (
    AFTER,
    CHOICE_BIAS,
    DENSE,
    EXPERT_WIDTH,
    NORMALIZED,
    SCALES,
    SHARED,
    WINDOW,
)

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
    reads=(EXPERT_WIDTH, H.moe_step.name, *WINDOW, *SHARED),
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
    may_have=CHOICE_BIAS,
    router=NORMALIZED,
    reads=(EXPERT_WIDTH, H.moe_step.name, *DENSE, *SHARED),
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
    router=NORMALIZED,
    reads=(EXPERT_WIDTH, *SHARED),
)
NEMOTRON = Architecture(
    "nemotron",
    needs=(*NORMS, "attn_norm.bias", "ffn_norm.bias"),
    has_layer_norm=True,
    activation="relu2",
)
EXAONE4 = Architecture(
    "exaone4",
    needs=(*HEAD_NORMS, *AFTER),
    rope_windows_only=True,
    windows=Windows(4, default=4096, only_of=64),
    reads=WINDOW,
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
    reads=(H.logit_scale.name, *WINDOW),
)

GRANITE = Architecture(
    "granite",
    rope="norm",
    divides_logits=True,
    router=NORMALIZED,
    reads=SCALES,
)
GRANITEMOE = Architecture(
    "granitemoe",
    rope="norm",
    divides_logits=True,
    router=NORMALIZED,
    reads=(*SCALES, *SHARED),
)
MINICPM = Architecture(
    "minicpm",
    rope="norm",
    divides_logits=True,
    router=NORMALIZED,
    defaults={
        H.embedding_scale.name: lambda h: 12.0,
        H.residual_scale.name: lambda h: 1.4 / math.sqrt(h.n_layer),
        H.logit_scale.name: lambda h: 256.0 / h.n_embd,
    },
    reads=SCALES,
)
