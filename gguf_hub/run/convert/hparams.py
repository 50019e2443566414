"""The sizes in ``config.json``, and the GGUF metadata for them.

Source: LlamaConfig, MistralConfig and MixtralConfig of transformers; the keys are those that
conversion/llama.py of llama.cpp at 0274f0fc writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.format import MAX_STRINGS
from gguf_hub.gguf.memory.sizes import ModelSizes

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
}
"""``architectures`` of config.json -> family; all three are ``llama`` in GGUF."""

# defaults of config.json
_ROPE_THETA = {"llama": 10000.0, "mistral": 10000.0, "mixtral": 1000000.0}
_MAX_INTEGER = 2**31 - 1


@dataclass(frozen=True)
class RopeScaling:
    """How rotary embedding is scaled to longer contexts: ``linear``, ``yarn`` or ``llama3``."""

    kind: str
    factor: float
    n_ctx_orig: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0


@dataclass(frozen=True)
class HParams(ModelSizes):
    """Sizes of a model, and what else a GGUF says of it.

    Attributes:
        window: Sliding window of config.json, which GGUF files of this kind cannot
            express; None for none.
    """

    family: str
    n_ctx_train: int
    rms_epsilon: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    has_tied_output: bool
    window: int | None

    @property
    def has_own_head_dim(self) -> bool:
        """Whether a head's size does not follow from the other sizes."""
        return self.head_dim * self.n_head != self.n_embd

    def metadata(self) -> dict[str, Any]:
        """Return the ``llama.*`` keys and their values."""
        values: dict[str, Any] = {
            "llama.vocab_size": self.n_vocab,
            "llama.context_length": self.n_ctx_train,
            "llama.embedding_length": self.n_embd,
            "llama.block_count": self.n_layer,
            "llama.feed_forward_length": self.n_ff,
            "llama.rope.dimension_count": self.head_dim,
            "llama.attention.head_count": self.n_head,
            "llama.attention.head_count_kv": self.n_head_kv,
        }
        if self.has_own_head_dim:
            values["llama.attention.key_length"] = self.head_dim
            values["llama.attention.value_length"] = self.head_dim
        if self.n_expert:
            values["llama.expert_count"] = self.n_expert
            values["llama.expert_used_count"] = self.n_expert_used
        values["llama.attention.layer_norm_rms_epsilon"] = self.rms_epsilon
        values["llama.rope.freq_base"] = self.rope_theta
        return values | self._scaling_metadata()

    def _scaling_metadata(self) -> dict[str, Any]:
        """Return the keys of a scaled context; llama3's scaling is a tensor."""
        scaling = self.rope_scaling
        if scaling is None or scaling.kind == "llama3":
            return {}
        values: dict[str, Any] = {
            "llama.rope.scaling.type": scaling.kind,
            "llama.rope.scaling.factor": scaling.factor,
        }
        if scaling.kind == "yarn":
            values["llama.rope.scaling.original_context_length"] = scaling.n_ctx_orig
        return values

    def rope_factors(self) -> list[float]:
        """Return the divisor of each frequency, [head_dim / 2]; empty unless ``llama3``.

        Slow frequencies are interpolated by the full factor, fast ones not at all, others mixed.

        Source: transformers, ``_compute_llama3_parameters``; llama.cpp stores the same numbers as
        ``rope_freqs.weight``.
        """
        scaling = self.rope_scaling
        if scaling is None or scaling.kind != "llama3":
            return []
        factors = []
        for i in range(self.head_dim // 2):
            wavelength = 2 * math.pi * self.rope_theta ** (2 * i / self.head_dim)
            turns = scaling.n_ctx_orig / wavelength
            spread = scaling.high_freq_factor - scaling.low_freq_factor
            ramp = min(1.0, max(0.0, (turns - scaling.low_freq_factor) / spread))
            factors.append(1 / (ramp + (1 - ramp) / scaling.factor))
        return factors


def read_hparams(config: Mapping[str, Any], path: Path) -> HParams:
    """Return the sizes that ``config.json`` states.

    Args:
        config: Its contents.
        path: The file, for messages.

    Raises:
        CheckpointError: Another architecture, or numbers that are missing or cannot be.
    """
    family = _family(config, path)
    reader = _Reader(config)
    n_embd, n_head = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    is_mixture = family == "mixtral"
    n_ctx_train = reader.integer("max_position_embeddings")
    hparams = HParams(
        family=family,
        n_vocab=reader.integer("vocab_size"),
        n_ctx_train=n_ctx_train,
        n_layer=reader.integer("num_hidden_layers"),
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=reader.integer("num_key_value_heads", n_head),
        head_dim=reader.integer("head_dim", max(1, n_embd // n_head)),
        n_ff=reader.integer("intermediate_size"),
        n_expert=reader.integer("num_local_experts") if is_mixture else 0,
        n_expert_used=reader.integer("num_experts_per_tok") if is_mixture else 0,
        rms_epsilon=reader.positive("rms_norm_eps"),
        rope_theta=reader.positive("rope_theta", _ROPE_THETA[family], among=reader.rope),
        rope_scaling=_rope_scaling(reader, n_ctx_train),
        has_tied_output=config.get("tie_word_embeddings") is True,
        window=reader.integer("sliding_window") if config.get("sliding_window") else None,
    )
    reader.issues += _find_contradictions(hparams, config)
    if reader.issues:
        raise CheckpointError(path, reader.issues)
    return hparams


def _family(config: Mapping[str, Any], path: Path) -> str:
    value = config.get("architectures")
    names = value if isinstance(value, list) else [value]
    for name in names:
        if isinstance(name, str) and name in ARCHITECTURES:
            return ARCHITECTURES[name]
    listed = ", ".join(f"`{name}`" for name in names)
    raise CheckpointError(
        path,
        [f"architecture {listed}: expected one of {', '.join(f'`{n}`' for n in ARCHITECTURES)}"],
        hint="llama.cpp's convert_hf_to_gguf.py knows many other architectures",
    )


class _Reader:
    """Takes numbers out of config.json and collects every problem on the way."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.issues: list[str] = []
        # transformers 5 has one object for the rotary embedding
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        self.rope: Mapping[str, Any] = rope if isinstance(rope, dict) else {}
        if rope and not self.rope:
            self.issues.append(f"rope scaling: expected an object, found {rope!r:.40}")

    def _get(self, key: str, default: float | None, among: Mapping[str, Any] | None) -> Any:
        value = (among or {}).get(key)
        value = self.config.get(key) if value is None else value
        return default if value is None else value

    def integer(
        self, key: str, default: int | None = None, *, among: Mapping[str, Any] | None = None
    ) -> int:
        """Return a positive integer, from ``among`` or else the top level; 1 if unusable."""
        value = self._get(key, default, among)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_INTEGER:
            self.issues.append(f"`{key}`: expected a positive integer, found {value!r:.40}")
            return 1
        return value

    def positive(
        self, key: str, default: float | None = None, *, among: Mapping[str, Any] | None = None
    ) -> float:
        """Return a positive number, from ``among`` or else the top level; 1 if unusable."""
        value = self._get(key, default, among)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
            self.issues.append(f"`{key}`: expected a positive number, found {value!r:.40}")
            return 1.0
        return float(value)


def _rope_scaling(reader: _Reader, n_ctx_train: int) -> RopeScaling | None:
    rope = reader.rope
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "yarn", "llama3"):
        reader.issues.append(f"rope scaling: expected linear, yarn or llama3, found {kind!r:.40}")
        return None
    low, high = 1.0, 4.0
    if kind == "llama3":
        low = reader.positive("low_freq_factor", low, among=rope)
        high = reader.positive("high_freq_factor", high, among=rope)
        if high <= low:
            reader.issues.append(f"`high_freq_factor` {high}: expected more than {low}")
    n_ctx_orig = reader.integer("original_max_position_embeddings", n_ctx_train, among=rope)
    factor = reader.positive("factor", among=rope)
    return RopeScaling(kind, factor, n_ctx_orig, low, high)


def _find_contradictions(hparams: HParams, config: Mapping[str, Any]) -> list[str]:
    issues = []
    if hparams.n_head % hparams.n_head_kv:
        issues.append(
            f"`num_key_value_heads` {hparams.n_head_kv}: expected a divisor of "
            f"{hparams.n_head} heads"
        )
    if hparams.rope_theta <= 1:
        issues.append(f"`rope_theta` {hparams.rope_theta}: expected more than 1")
    if hparams.n_vocab > MAX_STRINGS:
        issues.append(f"`vocab_size` {hparams.n_vocab:,}: expected at most {MAX_STRINGS:,}")
    if hparams.head_dim % 2:
        issues.append(f"`head_dim` {hparams.head_dim}: expected an even number")
    if hparams.n_expert_used > hparams.n_expert:
        issues.append(
            f"`num_experts_per_tok` {hparams.n_expert_used}: expected at most "
            f"{hparams.n_expert} experts"
        )
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        issues.append(f"`hidden_act`: expected silu, found {config['hidden_act']!r:.40}")
    return issues
