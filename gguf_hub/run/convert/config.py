"""Numbers out of ``config.json``: every problem is collected, and every key that nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_INTEGER = 2**31 - 1

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish"),
    "mlp_hidden_act": ("silu",),
    "alibi": (False,),
    "attn_logit_softcapping": (0,),
    "clip_qkv": (0,),
    "conv_bias": (False,),
    "embedding_multiplier": (1,),
    "attention_multiplier": (),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "final_logit_softcapping": (0,),
    "logit_scale": (),
    "is_causal": (True,),
    "layer_norm_type": (),
    "mlp_only_layers": ([],),
    "decoder_sparse_step": (1,),
    "moe_layer_freq": (1,),
    "partial_rotary_factor": (1,),
    "parallel_attn": (False,),
    "position_embedding_type": ("rope",),
    "qk_layernorm": (False,),
    "rope_interleave": (True,),
    "rotary_pct": (1,),
    "scale_depth": (),
    "scale_emb": (1,),
    "use_alibi": (False,),
    "use_bidirectional_attention": (False,),
    "use_double_wide_mlp": (False,),
    "use_mrope": (False,),
    "use_parallel_residual": (False,),
    "use_sliding_window": (False,),
    "per_layer_config": ({},),
}
"""Keys that change what is computed, and the values with which nothing changes."""


class ConfigReader:
    """Takes values out of config.json and collects every problem on the way, and what is not kept.

    Args:
        config: Its contents; a ``text_config`` in it counts first, and ``whole`` is all of it.
        defaults: What counts last.
    """

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        text = config.get("text_config")
        self.config = {**defaults, **config, **(text if isinstance(text, dict) else {})}
        self.whole = config
        self.issues: list[str] = []
        self.notes: list[str] = []
        self._read: set[str] = set()
        # transformers 5 has one object for the rotary embedding
        rope = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        self.rope: Mapping[str, Any] = rope if isinstance(rope, dict) else {}
        self.rope_windows: Mapping[str, Any] = {}
        if rope and not self.rope:
            self.issues.append(f"rope scaling: expected an object, found {rope!r:.40}")
        if isinstance(self.rope.get("full_attention"), dict):  # one for each kind of layer
            windows = self.rope.get("sliding_attention")
            self.rope_windows = windows if isinstance(windows, dict) else {}
            self.rope = self.rope["full_attention"]

    def get(self, key: str, default: Any = None, *, among: Mapping[str, Any] | None = None) -> Any:
        """Return a value of whatever kind, from ``among`` or else the top level."""
        self._read.add(key)
        value = (among or {}).get(key)
        value = self.config.get(key) if value is None else value
        return default if value is None else value

    def first(self, *keys: str) -> str:
        """Return the first of some names that is there, or the first of all."""
        self._read.update(keys)
        return next((key for key in keys if self.config.get(key) is not None), keys[0])

    def integer(
        self,
        key: str,
        default: int | None = None,
        *,
        among: Mapping[str, Any] | None = None,
        least: int = 1,
    ) -> int:
        """Return a positive integer, from ``among`` or else the top level; 1 if unusable."""
        value = self.get(key, default, among=among)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not least <= value <= _MAX_INTEGER:
            kind = "a positive integer" if least else "an integer >= 0"
            self.issues.append(f"`{key}`: expected {kind}, found {value!r:.40}")
            return 1
        return int(value)

    def positive(
        self, key: str, default: float | None = None, *, among: Mapping[str, Any] | None = None
    ) -> float:
        """Return a positive number, from ``among`` or else the top level; 1 if unusable."""
        value = self.get(key, default, among=among)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
            self.issues.append(f"`{key}`: expected a positive number, found {value!r:.40}")
            return 1.0
        return float(value)

    def number(self, key: str, *, among: Mapping[str, Any] | None = None) -> float:
        """Return a number of at least 0, from ``among`` or else the top level; 0 for none."""
        value = self.get(key, 0, among=among)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e30:
            self.issues.append(f"`{key}`: expected a number >= 0, found {value!r:.40}")
            return 0.0
        return float(value)

    def sections(self, n_pair: int) -> list[int]:
        """Return how many rotated pairs are for each kind of position; all are one for text."""
        value = self.rope.get("mrope_section") or [n_pair]
        is_right = isinstance(value, list) and len(value) <= 4
        if not is_right or not all(type(n) is int and 0 <= n <= _MAX_INTEGER for n in value):
            self.issues.append(f"`mrope_section`: expected up to 4 numbers, found {value!r:.40}")
            return [0, 0, 0, 0]
        return [*value, 0, 0, 0][:4]

    def flag(self, key: str, default: bool = False) -> bool:
        """Return true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.issues.append(f"`{key}`: expected true or false, found {value!r:.40}")
            return default
        return value

    def expect(self, key: str, *values: Any) -> None:
        """Note a problem if a key is there and is none of these."""
        found = self.get(key)
        if found is not None and found not in values:
            shown = " or ".join(str(value) for value in values) or "no such key"
            self.issues.append(f"`{key}`: expected {shown}, found {found!r:.40}")

    def layers(self, key: str, n_layer: int, words: Mapping[str, bool]) -> list[bool]:
        """Return a flag for each layer, of words; empty where the key is not there."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) != n_layer:
            self.issues.append(f"`{key}`: expected {n_layer} words, found {value!r:.60}")
            return []
        for word in value:
            if not isinstance(word, str) or word not in words:
                self.issues.append(f"`{key}`: expected {' or '.join(words)}, found {word!r:.40}")
                return []
        return [words[word] for word in value]

    def check_unread(self) -> None:
        """Note every key that would change what is computed and that nobody asked for."""
        for key, values in NEUTRAL.items():
            found = self.config.get(key)
            if key not in self._read and found is not None and found not in values:
                shown = " or ".join(str(value) for value in values) or "no such key"
                self.issues.append(f"`{key}`: expected {shown}, found {found!r:.40}")
