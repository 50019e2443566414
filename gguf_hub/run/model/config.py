"""What a llama-family model is, read from its GGUF metadata.

Knows the keys and their defaults; knows nothing of tensors or arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.keys import MORE_THAN
from gguf_hub.gguf.metadata import Metadata
from gguf_hub.gguf.runnable import ARCHITECTURES
from gguf_hub.gguf.strings import shown
from gguf_hub.run.model.rope import SCALINGS, RopeConfig

_ROPE = "llama.rope"


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a model, under llama.cpp's names."""

    name: str
    n_vocab: int
    n_ctx_train: int
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_expert: int
    n_expert_used: int
    rms_epsilon: float
    rope: RopeConfig

    @property
    def n_embd_kv(self) -> int:
        """Width of a token's keys (and of its values) in one layer."""
        return self.n_head_kv * self.head_dim


def read_config(metadata: Mapping[str, Any], n_vocab: int) -> ModelConfig:
    """Return the configuration of a model.

    Args:
        metadata: Keys and plain values of a GGUF file.
        n_vocab: Rows of the embedding matrix.

    Raises:
        UnsupportedGgufError: Another architecture, or a key that is missing or makes no sense.
    """
    keys = Metadata.of(metadata)
    _check_architecture(keys)
    n_embd = keys.uint("llama.embedding_length", least=1)
    n_head = keys.uint("llama.attention.head_count", least=1)
    head_dim = keys.uint("llama.attention.key_length", n_embd // n_head, least=1)
    config = ModelConfig(
        name=keys.text("general.name", "unnamed"),
        n_vocab=n_vocab,
        n_ctx_train=keys.uint("llama.context_length", least=1),
        n_layer=keys.uint("llama.block_count", least=1),
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=keys.uint("llama.attention.head_count_kv", n_head, least=1),
        head_dim=head_dim,
        n_ff=keys.uint("llama.feed_forward_length", least=1),
        n_expert=keys.uint("llama.expert_count", 0),
        n_expert_used=keys.uint("llama.expert_used_count", 0),
        rms_epsilon=keys.number("llama.attention.layer_norm_rms_epsilon", least=0),
        rope=_read_rope(keys, head_dim),
    )
    _check(config)
    return config


def _check_architecture(keys: Metadata) -> None:
    architecture = keys.text("general.architecture", "")
    if architecture not in ARCHITECTURES:
        raise UnsupportedGgufError(
            f"architecture `{shown(architecture)}` is not one that runs here: expected "
            + " or ".join(f"`{name}`" for name in ARCHITECTURES),
            hint="llama.cpp runs many other architectures",
        )


def _read_rope(keys: Metadata, head_dim: int) -> RopeConfig:
    n_ctx_train = keys.uint("llama.context_length", least=1)
    # as llama.cpp reads it: linear where no type is named, which is plain with a factor of 1
    scaling = keys.text(f"{_ROPE}.scaling.type", "linear")
    if scaling not in SCALINGS:
        raise UnsupportedGgufError(
            f"metadata `{_ROPE}.scaling.type`: expected none, linear or yarn, "
            f"found `{shown(scaling)}`"
        )

    def more_than(name: str, default: float) -> float:
        return keys.number(f"llama.{name}", default, above=MORE_THAN[name])

    old_factor = keys.number(f"{_ROPE}.scale_linear", 1.0)
    return RopeConfig(
        n_rot=keys.uint(f"{_ROPE}.dimension_count", head_dim, least=1),
        freq_base=more_than("rope.freq_base", 10000.0),
        scaling=scaling,
        factor=keys.number(f"{_ROPE}.scaling.factor", old_factor) or 1.0,
        n_ctx_orig=keys.uint(f"{_ROPE}.scaling.original_context_length", n_ctx_train, least=1),
        attn_factor=keys.number(f"{_ROPE}.scaling.attn_factor", 1.0),
        yarn_attn_factor=keys.number(f"{_ROPE}.scaling.yarn_attn_factor", 1.0),
        ext_factor=keys.number(f"{_ROPE}.scaling.yarn_ext_factor", -1.0),
        beta_fast=more_than("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=more_than("rope.scaling.yarn_beta_slow", 1.0),
    )


def _check(config: ModelConfig) -> None:
    """Raise for sizes that cannot go together."""
    problem = None
    if config.n_head % config.n_head_kv:
        problem = f"{config.n_head} heads cannot share {config.n_head_kv} key/value heads"
    elif config.rope.n_rot % 2 or config.rope.n_rot > config.head_dim:
        problem = (
            f"rope.dimension_count {config.rope.n_rot}: expected an even number up to the head's "
            f"{config.head_dim}"
        )
    elif config.rope.factor <= 0:
        problem = f"rope.scaling.factor {config.rope.factor}: expected more than 0"
    elif bool(config.n_expert) != bool(config.n_expert_used) or (
        config.n_expert_used > config.n_expert
    ):
        problem = f"{config.n_expert_used} of {config.n_expert} experts used"
    if problem:
        raise UnsupportedGgufError(f"metadata: {problem}")
