"""How Ollama's converter writes each architecture that llama.cpp writes otherwise.

An architecture that is not here is one that both write alike, or that does not run here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from gguf_hub.gguf.hparams import GraphHyperParameters as H
from gguf_hub.gguf.ollama.draft import VOCABULARY, Dialect, Draft, UnclearError
from gguf_hub.gguf.strings import StringArray


def _called(name: str) -> Callable[[Draft], str]:
    return lambda draft: name


def _always(value: bool | float) -> Callable[[Draft], bool | float]:
    return lambda draft: value


def _read_expert_width(draft: Draft) -> None:
    """Take the width of experts from their matrices: the converter writes none, or the dense."""
    if draft.whole(H.n_expert.name) and (width := draft.n_rows("ffn_gate_exps.weight")):
        draft.default(H.n_ff_exp.name, width)


# -- gpt-oss ---------------------------------------------------------------------------------------


def _refuse_interleaved(draft: Draft) -> None:
    if draft.has_in_blocks("ffn_gate_up_exps.weight"):
        raise UnclearError(
            "rows of gate and up take turns in `ffn_gate_up_exps`, as in Ollama's first files of "
            "gpt-oss: `ollama pull` fetches today's"
        )


GPTOSS = Dialect(
    name=_called("gpt-oss"),
    defaults={H.rope_scaling.name: "yarn"},
    tensors={
        "attn_out.weight": "attn_output.weight",
        "attn_out.bias": "attn_output.bias",
        "attn_sinks": "attn_sinks.weight",
        "ffn_norm.weight": "post_attention_norm.weight",
    },
    pre="gpt-4o",
    more=(_refuse_interleaved, _read_expert_width),
)

# -- Gemma -----------------------------------------------------------------------------------------

_STRETCHED = 131_072
"""The context of Gemma 3's models that were stretched eightfold; smaller ones have 32,768."""


def _stretch(draft: Draft) -> None:
    """Add the scaling of positions, which the converter leaves away."""
    is_stretched = draft.whole(H.n_ctx_train.name) >= _STRETCHED or draft.whole(
        f"vision.{H.n_layer.name}"
    )
    if is_stretched and draft.get(H.rope_factor.name) is None:
        draft.default(H.rope_scaling.name, "linear")
        draft.set(H.rope_factor.name, 8.0)


def _cut_vocabulary(draft: Draft) -> None:
    """Leave out the tokens behind the last row of the embeddings: they stand for images."""
    n_rows = draft.n_rows("token_embd.weight")
    for name in ("tokens", "scores", "token_type"):
        values = draft.of_vocabulary(name)
        if not isinstance(values, (StringArray, np.ndarray)) or not 0 < n_rows < len(values):
            continue
        first = values.first(n_rows) if isinstance(values, StringArray) else values[:n_rows]
        draft.fields[VOCABULARY + name] = replace(draft.fields[VOCABULARY + name], value=first)


GEMMA3 = Dialect(
    keys={
        "rope.local.freq_base": H.rope_freq_base_swa.name,
        "rope.global.freq_base": H.rope_freq_base.name,
    },
    defaults={
        H.rms_epsilon.name: 1e-6,
        H.head_dim.name: 256,
        H.n_embd_head_v.name: 256,
        H.rope_freq_base.name: 1_000_000.0,
    },
    vocabulary={"add_space_prefix": False},
    more=(_stretch, _cut_vocabulary),
)


def _has_merges(draft: Draft) -> bool:
    is_spm = draft.of_vocabulary("model") == "llama"
    return is_spm and isinstance(draft.of_vocabulary("merges"), StringArray)


def _take_merges(draft: Draft) -> None:
    """Call the vocabulary what it is: byte-pair encoding, of which the merges are there."""
    if _has_merges(draft):
        draft.set_vocabulary("model", "gemma4")


GEMMA4 = Dialect(
    tensors={"ffn_gate_inp.per_expert_scale": "ffn_down_exps.scale"},
    more=(_take_merges,),
    is_marked=_has_merges,
)

# -- Mistral, Llama --------------------------------------------------------------------------------

MISTRAL3 = Dialect(
    keys={
        "rope.scaling.beta_fast": H.yarn_beta_fast.name,
        "rope.scaling.beta_slow": H.yarn_beta_slow.name,
        "rope.scaling.mscale_all_dim": H.yarn_log_multiplier.name,
        "rope.scaling_beta": H.temperature_scale.name,
    },
    agrees={"rope.scaling.mscale": lambda draft: draft.get(H.yarn_log_multiplier.name)},
    pre="tekken",
)


def _head_dim(draft: Draft) -> int:
    n_head = draft.whole(H.n_head.name)
    usual = draft.whole(H.n_embd.name) // n_head if n_head else 0
    return draft.whole(H.head_dim.name) or usual


LLAMA4 = Dialect(
    agrees={
        # Maverick alone does not norm its heads; its experts tell it
        "use_qk_norm": lambda draft: draft.whole(H.n_expert.name) != 128,
        "attention.chunk_size": _always(8192),
        "attention.head_dim": _head_dim,
    },
    pre="llama4",
    vocabulary={"add_bos_token": True},
)

# -- Qwen ------------------------------------------------------------------------------------------

QWEN25VL = Dialect(name=_called("qwen2vl"))
QWEN3MOE = Dialect(agrees={"norm_top_k_prob": _always(True)}, more=(_read_expert_width,))


def _tell_which_attend(draft: Draft) -> None:
    """Give all layers the heads of those that attend, and name the others."""
    heads = draft.get(H.n_head_kv.name)
    if isinstance(heads, np.ndarray) and heads.dtype.kind in "iu" and (heads == 0).any():
        draft.set(H.n_head_kv.name, int(heads.max()))
        draft.default(H.is_recurrent.name, heads == 0)


def _forget_no_width(draft: Draft) -> None:
    """Drop the width of dense layers where there are none."""
    if draft.get(H.n_ff.name) == 0 and draft.whole(H.n_expert.name):
        draft.drop(H.n_ff.name)


QWEN35 = Dialect(
    agrees={"ssm.v_head_reordered": _always(True), "norm_top_k_prob": _always(True)},
    tensors={"ssm_dt": "ssm_dt.bias"},
    more=(_tell_which_attend, _forget_no_width),
)
QWEN3NEXT = replace(
    QWEN35, agrees={"ssm.v_head_reordered": _always(False), "norm_top_k_prob": _always(True)}
)

# -- others ----------------------------------------------------------------------------------------


def _read_dense_width(draft: Draft) -> None:
    """Take the width of dense layers from their matrices: some files name another one."""
    if width := draft.n_rows("ffn_gate.weight"):
        draft.set(H.n_ff.name, width)


LFM2 = Dialect(
    tensors={"output_norm.weight": "token_embd_norm.weight"},
    pre="lfm2",
    more=(_read_dense_width,),
)


def _absorb_latents(draft: Draft) -> None:
    """Say of latent attention what llama.cpp says: lengths of the latent, then those of heads."""
    if not draft.has_in_blocks("attn_k_b.weight"):
        raise UnclearError(
            "keys and values are in one matrix, as in Ollama's first files of GLM 4.7 Flash: "
            "`ollama pull` fetches today's"
        )
    rank, n_rot = draft.whole(H.n_lora_kv.name), draft.whole(H.n_rot.name)
    lengths = ((H.head_dim, H.head_dim_mla, rank + n_rot),
               (H.n_embd_head_v, H.n_embd_head_v_mla, rank))  # fmt: skip
    for length, of_heads, absorbed in lengths:
        draft.default(of_heads.name, draft.whole(length.name))
        draft.set(length.name, absorbed)
    draft.set(H.n_head_kv.name, 1)


def _name_ends(draft: Draft) -> None:
    """Name the tokens that end an answer beside the first one."""
    ids = draft.of_vocabulary("eos_token_ids")
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        return
    for name, end in zip(("eot_token_id", "eom_token_id"), ids[1:3].tolist(), strict=False):
        if end >= 0 and draft.of_vocabulary(name) is None:
            draft.set_vocabulary(name, end)


GLM4MOELITE = Dialect(name=_called("deepseek2"), pre="glm4", more=(_absorb_latents, _name_ends))
OLMO3 = Dialect(name=_called("olmo2"), pre="dbrx", vocabulary={"add_bos_token": False})


def _read_latent_width(draft: Draft) -> None:
    """Take the width of what experts read, where it is not the model's, from what makes it."""
    if width := draft.n_rows("ffn_latent_in.weight"):
        draft.default(H.n_embd_moe.name, width)


NEMOTRON_H_MOE = Dialect(
    tensors={
        "ffn_latent_in.weight": "ffn_latent_down.weight",
        "ffn_latent_out.weight": "ffn_latent_up.weight",
    },
    more=(_read_latent_width,),
)
NEMOTRON_H_OMNI = replace(
    NEMOTRON_H_MOE,
    name=lambda draft: "nemotron_h_moe" if draft.whole(H.n_expert.name) else "nemotron_h",
)

DIALECTS: Mapping[str, Dialect] = {
    "gptoss": GPTOSS,
    "gemma3": GEMMA3,
    "gemma4": GEMMA4,
    "mistral3": MISTRAL3,
    "llama4": LLAMA4,
    "qwen25vl": QWEN25VL,
    "qwen3vlmoe": QWEN3MOE,
    "qwen3moe": QWEN3MOE,
    "qwen35": QWEN35,
    "qwen35moe": QWEN35,
    "qwen3next": QWEN3NEXT,
    "lfm2": LFM2,
    "lfm2moe": LFM2,
    "glm4moelite": GLM4MOELITE,
    "olmo3": OLMO3,
    "nemotron_h_moe": NEMOTRON_H_MOE,
    "nemotron_h_omni": NEMOTRON_H_OMNI,
}
"""What Ollama calls an architecture -> how its converter writes it."""
