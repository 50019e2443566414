"""Keys and tensors that several families have."""

from __future__ import annotations

from gguf_hub.gguf.arch.architecture import H, Router

EXPERT_WIDTH = H.n_ff_exp.name
SHARED = (H.n_expert_shared.name, H.n_ff_shexp.name)
CHOICE = (H.gating_func.name, H.weights_norm.name, H.weights_scale.name)
GROUPS = (H.n_group.name, H.n_group_used.name)
DENSE = (H.n_dense_lead.name,)
NEXTN = (H.n_layer_nextn.name,)
SCALES = (
    H.embedding_scale.name, H.residual_scale.name, H.attention_scale.name, H.logit_scale.name,
)  # fmt: skip
SSM = (
    H.ssm_d_conv.name, H.ssm_d_inner.name, H.ssm_d_state.name, H.ssm_dt_rank.name,
    H.ssm_n_group.name,
)  # fmt: skip
SOME_ATTEND = {H.n_head.name: 0, H.n_head_kv.name: 0}
NORMALIZED = Router(is_normalized=True)
CHOICE_BIAS = ("exp_probs_b.bias",)
AFTER = ("post_attention_norm.weight", "post_ffw_norm.weight")
WINDOW = (H.n_swa.name, H.swa_pattern.name, H.rope_freq_base_swa.name)
TEXT_ONLY = (H.rope_sections.name, "n_deepstack_layers")
