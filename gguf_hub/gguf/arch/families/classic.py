"""Dense models of before 2025: InternLM, EXAONE, ChatGLM, Qwen 1 and others."""

from __future__ import annotations

from dataclasses import replace

from gguf_hub.gguf.arch.architecture import HEAD_NORMS, NORMS, Architecture, H

_BIASED_NORMS = (*NORMS, "attn_norm.bias", "ffn_norm.bias")

INTERNLM2 = Architecture("internlm2", rope="norm")
EXAONE = Architecture("exaone")
CHATGLM = Architecture("chatglm", rope="norm", has_fused_gate=True)
XVERSE = Architecture("xverse", rope="norm")
ARCEE = Architecture("arcee", rope="norm", activation="relu2")
ORION = Architecture("orion", needs=_BIASED_NORMS, has_layer_norm=True)
QWEN = Architecture("qwen", n_ff_divisor=2)
PLAMO = Architecture("plamo", needs=("attn_norm.weight",), is_parallel=True)
OPENELM = Architecture(
    "openelm",
    needs=(*NORMS, *HEAD_NORMS),
    varies={H.n_head.name: 1, H.n_head_kv.name: 1, H.n_ff.name: 1},
)

GPTNEOX = Architecture(
    "gptneox",
    needs=_BIASED_NORMS,
    has_layer_norm=True,
    activation="plain_gelu",
    requires=(H.parallel_residual.name,),
    reads=(H.parallel_residual.name,),
)
STARCODER2 = Architecture(
    "starcoder2", needs=_BIASED_NORMS, has_layer_norm=True, activation="plain_gelu"
)
CODESHELL = replace(STARCODER2, name="codeshell")
FALCON = Architecture(
    "falcon",
    needs=("attn_norm.weight", "attn_norm.bias"),
    may_have=("attn_norm_2.weight", "attn_norm_2.bias"),
    has_layer_norm=True,
    is_parallel=True,
    activation="plain_gelu",
)
PHI2 = Architecture(
    "phi2",
    needs=("attn_norm.weight", "attn_norm.bias"),
    has_layer_norm=True,
    has_head_bias=True,
    is_parallel=True,
    activation="plain_gelu",
)
STABLELM = Architecture(
    "stablelm",
    needs=("attn_norm.weight", "attn_norm.bias"),
    may_have=("ffn_norm.weight", "ffn_norm.bias", *HEAD_NORMS),
    has_layer_norm=True,
    has_own_norms=True,
    is_parallel=True,
    ignores=(H.parallel_residual.name,),  # converters set it whatever the model
)
COMMAND_R = Architecture(
    "command-r",
    rope="norm",
    needs=("attn_norm.weight",),
    may_have=HEAD_NORMS,
    has_layer_norm=True,
    has_own_norms=True,
    is_parallel=True,
    reads=(H.logit_scale.name,),
)

GPT2 = Architecture(
    "gpt2",
    rope=None,
    needs=_BIASED_NORMS,
    has_layer_norm=True,
    has_positions=True,
    activation="plain_gelu",
)
STARCODER = replace(GPT2, name="starcoder")
OLMO = Architecture(
    "olmo",
    rope="norm",
    needs=(),
    has_layer_norm=True,
    has_weightless_norms=True,
    reads=(H.clamp_kqv.name,),
)
DECI = Architecture(
    "deci",
    rope="norm",
    may_lack_parts=True,
    varies={H.n_head.name: 0, H.n_head_kv.name: 0, H.n_ff.name: 0},
)
_XIELU = (
    H.xielu_alpha_n.name, H.xielu_alpha_p.name, H.xielu_beta.name, H.xielu_eps.name,
)  # fmt: skip
APERTUS = Architecture(
    "apertus", needs=(*NORMS, *HEAD_NORMS), activation="xielu", requires=_XIELU, reads=_XIELU
)
BITNET = Architecture("bitnet", needs=(*NORMS, "attn_sub_norm.weight", "ffn_sub_norm.weight"))

# -- scores that fall with the distance ------------------------------------------------------------

_ALIBI = (H.max_alibi_bias.name,)
BLOOM = Architecture(
    "bloom",
    rope=None,
    needs=_BIASED_NORMS,
    has_layer_norm=True,
    has_embedding_norm=True,
    activation="plain_gelu",
    defaults={H.max_alibi_bias.name: lambda h: 8.0},
    reads=_ALIBI,
)
MPT = Architecture(
    "mpt",
    rope=None,
    may_have=("attn_norm.bias", "ffn_norm.bias"),
    has_layer_norm=True,
    activation="plain_gelu",
    reads=(*_ALIBI, H.clamp_kqv.name),
)
JAIS = Architecture(
    "jais",
    rope=None,
    needs=_BIASED_NORMS,
    has_layer_norm=True,
    score_scale=lambda h: 1 / h.head_dim,
    reads=_ALIBI,
)
REFACT = Architecture(
    "refact", rope=None, defaults={H.max_alibi_bias.name: lambda h: 8.0}, reads=_ALIBI
)
BAICHUAN = Architecture(  # of its two sizes, the larger one has slopes in place of rotations
    "baichuan",
    rope="norm",
    defaults={H.max_alibi_bias.name: lambda h: 8.0 if h.n_layer == 40 else 0.0},
    reads=_ALIBI,
)
