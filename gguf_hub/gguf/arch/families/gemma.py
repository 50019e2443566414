"""Gemma."""

from __future__ import annotations

import math

from gguf_hub.gguf.arch.architecture import HEAD_NORMS, NORMS, Architecture, H, Windows
from gguf_hub.gguf.arch.families.keys import AFTER, EXPERT_WIDTH, NORMALIZED, WINDOW
from gguf_hub.gguf.arch.residuals import ALTUP_VECTORS


def _of_27b(n_layer: int) -> dict[str, object]:
    """Gemma's largest model scales scores by another length than that of its heads."""

    def scale(h: H) -> float:
        """Return what scores are multiplied by."""
        length = h.n_embd // h.n_head if h.n_layer == n_layer else h.head_dim
        return 1 / math.sqrt(length)

    return {"score_scale": scale}


GEMMA = Architecture("gemma", activation="gelu", scales_embeddings=True)
GEMMA2 = Architecture(
    "gemma2",
    needs=(*NORMS, *AFTER),
    activation="gelu",
    scales_embeddings=True,
    windows=Windows(2, default=4096),
    reads=(H.score_cap.name, H.logit_cap.name, *WINDOW),
    defaults={H.score_cap.name: lambda h: 50.0, H.logit_cap.name: lambda h: 30.0},
    **_of_27b(46),  # type: ignore[arg-type]
)
GEMMA3 = Architecture(
    "gemma3",
    needs=(*NORMS, *HEAD_NORMS, *AFTER),
    activation="gelu",
    scales_embeddings=True,
    windows=Windows(6, is_plain=True, freq_base=10000.0),
    reads=(H.logit_cap.name, *WINDOW),
    **_of_27b(62),  # type: ignore[arg-type]
)

GEMMA3N = Architecture(
    "gemma3n",
    needs=(*NORMS, *HEAD_NORMS, *AFTER, "post_norm.weight", *ALTUP_VECTORS),
    has_altup=True,
    n_layer_sparse=10,
    has_value_norms=True,
    activation="gelu",
    scales_embeddings=True,
    windows=Windows(5, is_plain=True, freq_base=10000.0),
    score_scale=lambda h: 1.0,
    varies={H.n_ff.name: 1},
    requires=(H.n_swa.name, H.n_embd_per_layer.name),
    reads=(H.n_altup.name, H.n_embd_per_layer.name, H.n_layer_kv_shared.name, H.logit_cap.name,
           *WINDOW),
    defaults={
        H.logit_cap.name: lambda h: 30.0,
        H.n_layer_kv_shared.name: lambda h: max(0, h.n_layer - 20),
    },
    ignores=("activation_sparsity_scale",),  # that of the models that there are, as in llama.cpp
)  # fmt: skip
GEMMA4 = Architecture(
    "gemma4",
    needs=(*NORMS, *HEAD_NORMS, *AFTER, "post_norm.weight", "ffn_gate_inp.scale",
           "pre_ffw_norm_2.weight", "post_ffw_norm_1.weight", "post_ffw_norm_2.weight"),
    may_have=("layer_output_scale.weight", "ffn_down_exps.scale"),
    has_value_norms=True,
    may_share_values=True,
    has_dense_beside=True,
    activation="gelu",
    scales_embeddings=True,
    windows=Windows(6, has_own_heads=True),
    router=NORMALIZED,
    score_scale=lambda h: 1.0,
    varies={H.n_head.name: 1, H.n_head_kv.name: 1, H.n_ff.name: 1},
    requires=(H.n_swa.name, H.swa_pattern.name, H.head_dim_swa.name, H.n_embd_head_v_swa.name,
              H.n_embd_per_layer.name),
    reads=(EXPERT_WIDTH, H.logit_cap.name, H.head_dim_swa.name, H.n_embd_head_v_swa.name,
           H.n_rot_swa.name, H.n_layer_kv_shared.name, H.n_embd_per_layer.name, *WINDOW),
)  # fmt: skip
