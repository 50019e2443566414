"""DeepSeek and what has its latents of keys and values."""

from __future__ import annotations

from dataclasses import replace

from gguf_hub.gguf.arch.architecture import NORMS, Architecture, H, Router, Temperature
from gguf_hub.gguf.arch.families.keys import (
    CHOICE,
    CHOICE_BIAS,
    DENSE,
    EXPERT_WIDTH,
    GROUPS,
    SHARED,
)

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
    may_have=CHOICE_BIAS,
    has_latents=True,
    yarn_scales_scores=True,
    router=Router(),
    temperature=Temperature(),
    defaults={H.gating_func.name: _gating_func},
    requires=(H.n_lora_kv.name,),
    reads=(EXPERT_WIDTH, *_LATENTS, *CHOICE, *GROUPS, *DENSE, *SHARED),
)
MISTRAL4 = replace(DEEPSEEK2, name="mistral4", yarn_scales_scores=False)
