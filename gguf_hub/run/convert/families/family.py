"""A record of how checkpoints of an architecture differ from Llama's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf_hub.run.convert.config import ConfigReader
from gguf_hub.run.convert.families.makes import (
    FIRST_HALF,
    ONE_ROW,
    PLAIN,
    PLUS_ONE,
    ROTATED,
    SECOND_HALF,
    Make,
)

Keys = dict[str, Any]
"""GGUF keys, without the architecture before them."""


@dataclass(frozen=True)
class Source:
    """Where a tensor of the file comes from.

    Attributes:
        name: In the checkpoint, after ``model.layers.N.`` in a layer; ``{e}`` stands for each
            expert. Of a whole name nothing is put behind it, of another ``.weight`` or ``.bias``.
        make: What is done to it.
        is_whole: Whether it is a whole name.
    """

    name: str
    make: Make = PLAIN
    is_whole: bool = False


def whole(name: str, make: Make = PLAIN) -> Source:
    """Return a source whose name has no ``.weight`` behind it."""
    return Source(name, make, True)


Names = Mapping[str, "str | Source | tuple[str | Source, ...]"]
"""Name in the file, without ``blk.N.`` and without or with ``.weight`` -> where it comes from."""

NAMES: Names = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
"""Llama's names."""
EXPERTS: Names = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{e}.gate_proj", "ffn_up_exps": "mlp.experts.{e}.up_proj",
    "ffn_down_exps": "mlp.experts.{e}.down_proj",
}  # fmt: skip
"""Those of most mixtures."""
FUSED_EXPERTS: Names = {
    "ffn_gate_exps": ("mlp.experts.{e}.gate_proj", whole("mlp.experts.gate_up_proj", FIRST_HALF)),
    "ffn_up_exps": ("mlp.experts.{e}.up_proj", whole("mlp.experts.gate_up_proj", SECOND_HALF)),
    "ffn_down_exps": ("mlp.experts.{e}.down_proj", whole("mlp.experts.down_proj")),
}
SIGMOID = 2
"""``expert_gating_func`` of a sigmoid."""
QWEN_SHARED: Names = {
    **EXPERTS,
    **FUSED_EXPERTS,
    "ffn_gate_inp_shexp": Source("mlp.shared_expert_gate", ONE_ROW),
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
"""Those of Qwen's mixtures, with a shared expert."""
TURNED: Names = {
    "attn_q": Source("self_attn.q_proj", ROTATED),
    "attn_k": Source("self_attn.k_proj", ROTATED),
}


def shifted(names: Names) -> Names:
    """Return names of norms to which 1 is added."""
    return {
        f"{name}.weight": Source(source, PLUS_ONE)
        for name, source in {**NAMES, **names}.items()
        if name.endswith("norm") and isinstance(source, str)
    }


def _no_keys(config: ConfigReader, keys: Keys) -> None:
    """Most have none of their own."""


def _always(config: Mapping[str, Any]) -> bool:
    """Most share their classes with none."""
    return True


def add_granite_scales(config: ConfigReader, keys: Keys) -> None:
    """Add the four factors of Granite's models."""
    for name, key in (
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ):
        keys[key] = config.positive(name, 1.0)


@dataclass(frozen=True)
class Family:
    """How checkpoints of an architecture differ from Llama's.

    Attributes:
        arch: In GGUF.
        classes: Entries of ``architectures`` in config.json.
        names: Of tensors.
        add_keys: Adds or changes GGUF keys that are of this architecture.
        rope_theta: Where config.json has none.
        activations: What ``hidden_act`` may be.
        epsilon: Name of the norms' epsilon, and its key.
        n_expert: Names for the number of experts.
        n_expert_used: Names for the number of those that a token meets.
        n_ff: Name for the width of a dense feed-forward network.
        ignored: Tensors that have no effect; patterns.
        scalings: Kinds of longer contexts that only this one has.
        rotary_share: How much of a head is rotated, where config.json does not tell.
        is_mixture: Whether it has experts.
        matches: Whether a configuration is of this one, where others share its classes.
        is_tied: Whether the output is the embeddings' where config.json does not tell.
        defaults: What the ``text_config`` of published models leaves out, as it is the default of
            the class in transformers.
    """

    arch: str
    classes: tuple[str, ...]
    names: Names = field(default_factory=dict)
    add_keys: Callable[[ConfigReader, Keys], None] = _no_keys
    rope_theta: float = 10000.0
    activations: tuple[str, ...] = ("silu", "swish")
    epsilon: tuple[str, str] = ("rms_norm_eps", "attention.layer_norm_rms_epsilon")
    n_expert: tuple[str, ...] = ("num_local_experts", "num_experts", "n_routed_experts")
    n_expert_used: tuple[str, ...] = ("num_experts_per_tok",)
    n_ff: str = "intermediate_size"
    ignored: str = ""
    scalings: tuple[str, ...] = ()
    rotary_share: float = 1.0
    is_mixture: bool = False
    matches: Callable[[Mapping[str, Any]], bool] = _always
    is_tied: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def sources(self, name: str) -> tuple[Source, ...]:
        """Return where a tensor may come from, the best first.

        Args:
            name: In the file, without ``blk.N.``.
        """
        stem, _, suffix = name.rpartition(".")
        for key in (name, stem):
            for names in (self.names, NAMES):
                if key in names:
                    found = names[key]
                    entries = found if isinstance(found, tuple) else (found,)
                    return tuple(_completed(entry, suffix) for entry in entries)
        return ()


def _completed(entry: str | Source, suffix: str) -> Source:
    source = Source(entry) if isinstance(entry, str) else entry
    if source.is_whole:
        return source
    return Source(f"{source.name}.{suffix}", source.make, True)
