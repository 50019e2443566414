"""What a llama-family model is, read from its GGUF metadata.

Knows the keys and their defaults; knows nothing of tensors or arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf_hub.errors import UnsupportedGgufError

ARCHITECTURES = ("llama",)
"""Values of ``general.architecture`` that this runner computes: Llama, Mistral and Mixtral."""


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding (arXiv 2104.09864) and its stretching to longer contexts.

    Attributes:
        n_rot: Rotated elements of each head.
        freq_base: Base of the geometric series of frequencies.
        scaling: ``none``, ``linear`` (arXiv 2306.15595) or ``yarn`` (arXiv 2309.00071).
        factor: How many times longer the context is than the one trained on.
        n_ctx_orig: Context that the model was trained on before stretching.
        attn_factor: Extra factor on cosine and sine.
        beta_fast: Turns within ``n_ctx_orig`` above which a frequency is left alone (yarn).
        beta_slow: Turns below which a frequency is interpolated fully (yarn).
    """

    n_rot: int
    freq_base: float
    scaling: str = "none"
    factor: float = 1.0
    n_ctx_orig: int = 0
    attn_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def frequencies(self) -> list[float]:
        """Return the angle per position of each rotated pair, [n_rot / 2].

        Source: rope_yarn in ggml/src/ggml-cpu/ops.cpp at ggml c2cdd2b2; its interpolation between
        stretched and plain angle is linear in the position, so it is done here once.
        """
        plain = [self.freq_base ** (-2 * i / self.n_rot) for i in range(self.n_rot // 2)]
        if self.scaling == "none":
            return plain
        if self.scaling == "linear":
            return [frequency / self.factor for frequency in plain]
        mixes = [self._plain_share(i) for i in range(self.n_rot // 2)]
        return [
            frequency * (mix + (1 - mix) / self.factor)
            for frequency, mix in zip(plain, mixes, strict=True)
        ]

    def magnitude(self) -> float:
        """Return the factor on cosine and sine; yarn raises it to keep attention's entropy."""
        if self.scaling != "yarn":
            return self.attn_factor
        return self.attn_factor * (1 + 0.1 * math.log(self.factor))

    def _plain_share(self, pair: int) -> float:
        """Return how far a pair keeps its plain angle: 1 for fast pairs, 0 for slow ones."""
        low = max(0, math.floor(self._pair_with(self.beta_fast)))
        high = min(self.n_rot - 1, math.ceil(self._pair_with(self.beta_slow)))
        ramp = (pair - low) / max(0.001, high - low)
        return 1 - min(1.0, max(0.0, ramp))

    def _pair_with(self, turns: float) -> float:
        """Return the pair that makes so many turns within the original context."""
        period = math.log(self.n_ctx_orig / (turns * 2 * math.pi))
        return self.n_rot * period / (2 * math.log(self.freq_base))


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
    old_linear = keys.number("rope.scale_linear", 1.0)
    default = "linear" if old_linear != 1.0 else "none"
    scaling = metadata.get(f"{architecture}.rope.scaling.type", default)
    if scaling not in ("none", "linear", "yarn"):
        raise UnsupportedGgufError(
            f"metadata `{architecture}.rope.scaling.type`: expected none, linear or yarn, "
            f"found `{scaling}`"
        )
    return RopeConfig(
        n_rot=keys.integer("rope.dimension_count", head_dim),
        freq_base=keys.number("rope.freq_base", 10000.0),
        scaling=scaling,
        factor=keys.number("rope.scaling.factor", old_linear) or 1.0,
        n_ctx_orig=keys.integer("rope.scaling.original_context_length", n_ctx_train),
        attn_factor=keys.number("rope.scaling.attn_factor", 1.0),
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
    elif bool(config.n_expert) != bool(config.n_expert_used) or (
        config.n_expert_used > config.n_expert
    ):
        problem = f"{config.n_expert_used} of {config.n_expert} experts used"
    if problem:
        raise UnsupportedGgufError(f"metadata: {problem}")
