"""What a llama-family model is, read from its GGUF metadata.

Knows the keys and their defaults; knows nothing of tensors or arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.runnable import ARCHITECTURES
from gguf_hub.model.rope import SCALINGS, RopeConfig


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


class _Keys:
    """Typed access to metadata, with errors that name the key."""

    def __init__(self, metadata: Mapping[str, Any], prefix: str) -> None:
        self._metadata = metadata
        self._prefix = prefix

    def number(self, key: str, default: float | None = None) -> float:
        value = self._metadata.get(f"{self._prefix}.{key}", default)
        if value is None:
            raise UnsupportedGgufError(
                f"metadata has no `{self._prefix}.{key}`", hint="`gguf-hub verify` checks the file"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnsupportedGgufError(
                f"metadata `{self._prefix}.{key}`: expected one number, found {value!r:.60}"
            )
        return value

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.number(key, default)
        if value != int(value) or value < least:
            raise UnsupportedGgufError(
                f"metadata `{self._prefix}.{key}`: expected an integer >= {least}, found {value}"
            )
        return int(value)


def read_config(metadata: Mapping[str, Any], n_vocab: int) -> ModelConfig:
    """Return the configuration of a model.

    Args:
        metadata: Keys and plain values of a GGUF file.
        n_vocab: Rows of the embedding matrix.

    Raises:
        UnsupportedGgufError: Another architecture, or a key that is missing or makes no sense.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedGgufError(
            f"architecture `{architecture}` is not one that runs here: expected "
            + " or ".join(f"`{name}`" for name in ARCHITECTURES),
            hint="llama.cpp runs many other architectures",
        )
    keys = _Keys(metadata, architecture)
    n_embd = keys.integer("embedding_length")
    n_head = keys.integer("attention.head_count")
    head_dim = keys.integer("attention.key_length", n_embd // n_head)
    n_expert = keys.integer("expert_count", 0, least=0)
    config = ModelConfig(
        name=str(metadata.get("general.name", "unnamed")),
        n_vocab=n_vocab,
        n_ctx_train=keys.integer("context_length"),
        n_layer=keys.integer("block_count"),
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=keys.integer("attention.head_count_kv", n_head),
        head_dim=head_dim,
        n_ff=keys.integer("feed_forward_length"),
        n_expert=n_expert,
        n_expert_used=keys.integer("expert_used_count", 0, least=0),
        rms_epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        rope=_read_rope(keys, metadata, architecture, head_dim),
    )
    _check(config)
    return config


def _read_rope(
    keys: _Keys, metadata: Mapping[str, Any], architecture: str, head_dim: int
) -> RopeConfig:
    n_ctx_train = keys.integer("context_length")
    # as llama.cpp reads it: linear where no type is named, which is plain with a factor of 1
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "linear")
    if scaling not in SCALINGS:
        raise UnsupportedGgufError(
            f"metadata `{architecture}.rope.scaling.type`: expected none, linear or yarn, "
            f"found `{scaling}`"
        )
    old_factor = keys.number("rope.scale_linear", 1.0)
    return RopeConfig(
        n_rot=keys.integer("rope.dimension_count", head_dim),
        freq_base=keys.number("rope.freq_base", 10000.0),
        scaling=scaling,
        factor=keys.number("rope.scaling.factor", old_factor) or 1.0,
        n_ctx_orig=keys.integer("rope.scaling.original_context_length", n_ctx_train),
        attn_factor=keys.number("rope.scaling.attn_factor", 1.0),
        yarn_attn_factor=keys.number("rope.scaling.yarn_attn_factor", 1.0),
        ext_factor=keys.number("rope.scaling.yarn_ext_factor", -1.0),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
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
    elif not (config.rope.freq_base > 1 and config.rope.factor > 0):
        problem = (
            f"rope.freq_base {config.rope.freq_base} and rope.scaling.factor {config.rope.factor}: "
            "expected more than 1 and more than 0"
        )
    elif bool(config.n_expert) != bool(config.n_expert_used) or (
        config.n_expert_used > config.n_expert
    ):
        problem = f"{config.n_expert_used} of {config.n_expert} experts used"
    if problem:
        raise UnsupportedGgufError(f"metadata: {problem}")
