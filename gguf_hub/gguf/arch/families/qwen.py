"""Qwen."""

from __future__ import annotations

from gguf_hub.gguf.arch.architecture import HEAD_NORMS, NORMS, Architecture, H, Router, States
from gguf_hub.gguf.arch.families.keys import EXPERT_WIDTH, NEXTN, NORMALIZED, SHARED, SSM, TEXT_ONLY

QWEN2 = Architecture("qwen2")
QWEN2VL = Architecture("qwen2vl", ignores=TEXT_ONLY)
QWEN2MOE = Architecture(
    "qwen2moe",
    may_have=("ffn_gate_inp_shexp.weight",),
    router=Router(),
    reads=(EXPERT_WIDTH, *SHARED),
)
QWEN3 = Architecture("qwen3", needs=(*NORMS, *HEAD_NORMS))
QWEN3VL = Architecture("qwen3vl", needs=QWEN3.needs, ignores=TEXT_ONLY)
QWEN3MOE = Architecture(
    "qwen3moe",
    needs=QWEN3.needs,
    router=NORMALIZED,
    reads=(EXPERT_WIDTH, H.weights_scale.name),
)
QWEN3VLMOE = Architecture(
    "qwen3vlmoe",
    needs=QWEN3.needs,
    router=NORMALIZED,
    reads=QWEN3MOE.reads,
    ignores=TEXT_ONLY,
)

_DELTA_NET = (*SSM, H.full_attention_interval.name, H.is_recurrent.name, *NEXTN)
_GATED = ("attn_norm.weight", "post_attention_norm.weight", *HEAD_NORMS)
QWEN3NEXT = Architecture(
    "qwen3next",
    needs=_GATED,
    may_have=("ffn_gate_inp_shexp.weight",),
    post_attention_norm_is_before_ffn=True,
    has_query_gates=True,
    states=States("delta_net", period=4, has_joint_rates=True),
    router=NORMALIZED,
    requires=SSM,
    reads=(EXPERT_WIDTH, H.weights_scale.name, *SHARED, *_DELTA_NET),
)
QWEN35 = Architecture(
    "qwen35",
    needs=_GATED,
    post_attention_norm_is_before_ffn=True,
    has_query_gates=True,
    states=States("delta_net", period=4, is_tiled=True),
    requires=SSM,
    reads=_DELTA_NET,
    ignores=TEXT_ONLY,
)
QWEN35MOE = Architecture(
    "qwen35moe",
    needs=_GATED,
    may_have=("ffn_gate_inp_shexp.weight",),
    post_attention_norm_is_before_ffn=True,
    has_query_gates=True,
    states=QWEN35.states,
    router=NORMALIZED,
    requires=SSM,
    reads=QWEN3NEXT.reads,
    ignores=TEXT_ONLY,
)
