"""Dense models of before 2025: InternLM, EXAONE, ChatGLM, Qwen 1 and others."""

from __future__ import annotations

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
