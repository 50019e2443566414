"""What ``config.json`` says as GGUF keys: those that all architectures have, and the rotation's.

Source: the configuration classes and modeling_rope_utils of transformers 5.24; TextModel in
conversion/base.py of llama.cpp as bundled with llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.arch import ARCHITECTURES
from gguf_hub.gguf.format import MAX_STRINGS
from gguf_hub.run.convert.config import ConfigReader
from gguf_hub.run.convert.families import FAMILIES, Family

_CLASSES = {name: [f for f in FAMILIES if name in f.classes]
            for family in FAMILIES for name in family.classes}  # fmt: skip
_MOST_LAYERS = 10_000
"""Lists have an entry for each layer, before it is known that there are tensors of them."""
_MOST_PAIRS = 1 << 16
"""Rotated pairs of a head; no model has more."""
_WITHOUT_DENSE = ("moe_intermediate_size",)
"""The width of mixtures all of whose layers have experts, as Qwen 3.5's."""
_YARN = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}


@dataclass(frozen=True)
class ModelKeys:
    """What a configuration says.

    Attributes:
        family: The architecture.
        values: GGUF keys, with the architecture before them.
        factors: Tensors that hold factors of the rotation, by their names.
        notes: What is not kept.
        is_tied: Whether the embeddings are the output matrix, too.
        n_predicting: How many layers, behind those that are computed, predict further tokens.
    """

    family: Family
    values: Mapping[str, Any]
    factors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_tied: bool = False
    n_predicting: int = 0

    def number(self, key: str) -> int:
        """Return a whole number; 0 where there is no such key."""
        value = self.values.get(f"{self.family.arch}.{key}", 0)
        return int(value if not isinstance(value, (list, np.ndarray)) else max(value, default=0))


def read_keys(config: Mapping[str, Any], path: Path) -> ModelKeys:
    """Return what ``config.json`` states.

    Args:
        config: Its contents.
        path: The file, for messages.

    Raises:
        CheckpointError: Another architecture, numbers that are missing or cannot be, or keys that
            would change what is computed.
    """
    family = family_of(config, path)
    reader = ConfigReader(config, family.defaults)
    keys = _sizes(reader, family)
    keys |= _experts(reader, family)
    factors: dict[str, NDArray[np.float32]] = {}
    if ARCHITECTURES[family.arch].rope is not None:
        keys |= _rotation(reader, family, keys)
        family.add_keys(reader, keys)
        factors = _factors(reader, keys)
    else:
        family.add_keys(reader, keys)
    window = reader.integer("sliding_window", 0, least=0)
    has_windows = ARCHITECTURES[family.arch].windows is not None
    notes = () if has_windows else tuple(_window_note(window, keys["context_length"]))
    is_tied = reader.flag("tie_word_embeddings", family.is_tied)
    if isinstance(stated := config.get("tie_word_embeddings"), bool):
        is_tied = stated  # of a model with vision, not that of its text_config
    key = reader.first("num_nextn_predict_layers", "num_mtp_modules")
    n_predicting = reader.integer(key, 0, least=0)
    _check(reader, family, keys)
    reader.check_unread()
    if reader.issues:
        raise CheckpointError(path, reader.issues)
    notes += tuple(reader.notes)
    if n_predicting:
        notes += (f"what predicts further tokens (`{key}`) is not kept",)
    values = {f"{family.arch}.{key}": value for key, value in keys.items()}
    if reader.rope.get("truncate") is False and reader.rope.get("rope_type") == "yarn":
        notes += ("`truncate` of YaRN is not kept: programs round its bounds to whole pairs",)
    return ModelKeys(family, values, factors, notes, is_tied, n_predicting)


def family_of(config: Mapping[str, Any], path: Path) -> Family:
    """Return the record of a configuration's architecture.

    Raises:
        CheckpointError: There is none.
    """
    value = config.get("architectures")
    names = value if isinstance(value, list) else [value]
    for name in names:
        for family in _CLASSES.get(name, ()) if isinstance(name, str) else ():
            if family.matches(config):
                return family
    listed = ", ".join(f"`{name}`" for name in names)
    known = ", ".join(f"`{name}`" for name in _CLASSES)
    raise CheckpointError(
        path,
        [f"architecture {listed}: expected one of {known}"],
        hint="llama.cpp's convert_hf_to_gguf.py knows many other architectures",
    )


def _sizes(reader: ConfigReader, family: Family) -> dict[str, Any]:
    n_embd, n_head = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    head_dim = reader.integer("head_dim", max(1, n_embd // n_head))
    kinds = reader.get("layers_block_type")
    n_layer = len(kinds) if isinstance(kinds, list) else None
    keys: dict[str, Any] = {
        "vocab_size": reader.integer("vocab_size"),
        "context_length": reader.integer(
            reader.first("max_position_embeddings", "max_sequence_length")  # Llama 1
        ),
        "embedding_length": n_embd,
        "block_count": _n_layer(reader, n_layer),
        "feed_forward_length": reader.integer(
            reader.first(family.n_ff, "intermediate_size", *_WITHOUT_DENSE[: family.is_mixture])
        ),
        "attention.head_count": n_head,
        "attention.head_count_kv": reader.integer("num_key_value_heads", n_head),
    }
    if head_dim * n_head != n_embd:
        keys["attention.key_length"] = keys["attention.value_length"] = head_dim
    name, key = family.epsilon
    keys[key] = reader.positive(reader.first(name, "norm_eps", "layer_norm_eps"))
    reader.expect(reader.first("hidden_act", "hidden_activation"), *family.activations)
    reader.get("hidden_act")
    return keys


def _n_layer(reader: ConfigReader, default: int | None) -> int:
    """Return the number of layers; 1 where there are more than any model has."""
    n_layer = reader.integer("num_hidden_layers", default)
    if n_layer > _MOST_LAYERS:
        reader.issues.append(f"`num_hidden_layers` {n_layer:,}: expected at most {_MOST_LAYERS:,}")
        return 1
    return n_layer


def _experts(reader: ConfigReader, family: Family) -> dict[str, Any]:
    if not family.is_mixture:
        return {}
    return {
        "expert_count": reader.integer(reader.first(*family.n_expert)),
        "expert_used_count": reader.integer(reader.first(*family.n_expert_used)),
    }


def _rotation(reader: ConfigReader, family: Family, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far and how fast heads are rotated."""
    share = reader.get(
        reader.first("partial_rotary_factor", "rotary_pct"), family.rotary_share, among=reader.rope
    )
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        reader.issues.append(f"`partial_rotary_factor`: expected a share, found {share!r:.40}")
        share = 1.0
    head_dim = head_length(keys)
    found: dict[str, Any] = {
        "rope.dimension_count": int(head_dim * share),
        "rope.freq_base": reader.positive("rope_theta", family.rope_theta, among=reader.rope),
    }
    if reader.rope_windows.get("rope_theta"):
        found["rope.freq_base_swa"] = reader.positive("rope_theta", among=reader.rope_windows)
    return found | _scaling(reader, family, keys)


def head_length(keys: Mapping[str, Any]) -> int:
    """Return the elements of a head."""
    stated = keys.get("attention.key_length")
    heads = keys["attention.head_count"]
    return int(stated or keys["embedding_length"] // heads)


_SCALINGS = ("default", "linear", "yarn", "llama3", "longrope", "su")


def _scaling(reader: ConfigReader, family: Family, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a context that is longer than it was."""
    rope = reader.rope
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in (*_SCALINGS, *family.scalings):
        reader.issues.append(f"rope scaling: expected linear, yarn or llama3, found {kind!r:.40}")
    if kind == "linear":
        factor = reader.positive("factor", among=rope)
        return {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
    if kind == "yarn":
        return _yarn(reader, keys)
    if kind in ("longrope", "su"):
        return _longrope(reader, keys)
    return {}


def _yarn(reader: ConfigReader, keys: Mapping[str, Any]) -> dict[str, Any]:
    rope, factor = reader.rope, reader.positive("factor", among=reader.rope)
    found: dict[str, Any] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": reader.integer(
            "original_max_position_embeddings", keys["context_length"], among=rope
        ),
    }
    for name, key in _YARN.items():
        if rope.get(name) is not None:
            found[f"rope.scaling.{key}"] = reader.positive(name, among=rope)
    # programs take YaRN's own factor on cosine and sine, 1 + 0.1 ln(factor)
    own = 1 + 0.1 * math.log(max(factor, 1.0))
    stated = reader.number("attention_factor", among=rope)
    mscale = reader.number("mscale", among=rope)
    all_dim = reader.number("mscale_all_dim", among=rope)
    if not stated and mscale and all_dim:
        log = math.log(max(factor, 1.0))
        stated = (1 + 0.1 * mscale * log) / (1 + 0.1 * all_dim * log)
    if stated and abs(stated / own - 1) > 1e-6:
        found["rope.scaling.attn_factor"] = stated / own
    return found


def _longrope(reader: ConfigReader, keys: Mapping[str, Any]) -> dict[str, Any]:
    rope = reader.rope
    n_ctx_orig = reader.integer("original_max_position_embeddings", among=rope)
    scale = reader.number("factor", among=rope) or keys["context_length"] / n_ctx_orig
    attention = reader.number("attention_factor", among=rope)
    if not attention:
        is_longer = scale > 1 and n_ctx_orig > 1
        attention = math.sqrt(1 + math.log(scale) / math.log(n_ctx_orig)) if is_longer else 1.0
    return {
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": n_ctx_orig,
        "rope.scaling.attn_factor": attention,
    }


def _factors(reader: ConfigReader, keys: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Return the divisors of frequencies that a configuration states, by the tensor's name."""
    rope = reader.rope
    kind = rope.get("rope_type", rope.get("type", "default"))
    n_pair = keys["rope.dimension_count"] // 2
    if n_pair > _MOST_PAIRS:
        reader.issues.append(f"heads of {2 * n_pair:,}: expected at most {2 * _MOST_PAIRS:,}")
    if reader.issues:
        return {}
    if kind == "llama3":
        base = keys["rope.freq_base"]
        return {"rope_freqs.weight": np.array(_llama3(reader, keys, base), np.float32)}
    if kind == "proportional":
        n_turned = int(n_pair * min(1.0, reader.number("partial_rotary_factor", among=rope) or 1.0))
        # a frequency divided by so much turns nothing
        divisors = [1.0] * n_turned + [1e30] * (n_pair - n_turned)
        return {"rope_freqs.weight": np.array(divisors, np.float32)}
    if kind not in ("longrope", "su"):
        return {}
    found = {}
    for word in ("long", "short"):
        values = rope.get(f"{word}_factor")
        values = values if isinstance(values, list) else []
        are_numbers = all(isinstance(v, (int, float)) and v > 0 for v in values)
        if len(values) != n_pair or not are_numbers:
            reader.issues.append(f"`{word}_factor`: expected {n_pair} positive numbers")
            return {}
        found[f"rope_factors_{word}.weight"] = np.array(values, np.float32)
    return found


def _llama3(reader: ConfigReader, keys: Mapping[str, Any], base: float) -> list[float]:
    """Return the divisor of each frequency, [rotated / 2].

    Slow frequencies are interpolated by the full factor, fast ones not at all, others mixed.

    Source: transformers, ``_compute_llama3_parameters``; llama.cpp stores the same numbers.
    """
    rope = reader.rope
    n_rot, factor = keys["rope.dimension_count"], reader.positive("factor", among=rope)
    low = reader.positive("low_freq_factor", 1.0, among=rope)
    high = reader.positive("high_freq_factor", 4.0, among=rope)
    n_ctx_orig = reader.integer(
        "original_max_position_embeddings", keys["context_length"], among=rope
    )
    if high < low:
        reader.issues.append(f"`high_freq_factor` {high}: expected at least {low}")
        return []
    factors = []
    for i in range(n_rot // 2):
        turns = n_ctx_orig / (2 * math.pi * base ** (2 * i / n_rot))
        # Llama 4 Scout's bounds are the same: nothing is mixed
        ramp = min(1.0, max(0.0, (turns - low) / (high - low))) if high > low else turns >= low
        factors.append(1 / (ramp + (1 - ramp) / factor))
    return factors


def _window_note(window: int, n_ctx_train: int) -> list[str]:
    if not 0 < window < n_ctx_train:
        return []
    return [
        f"the sliding window of {window:,} tokens is not kept: programs attend to the whole "
        "context, as with every GGUF of this architecture"
    ]


def _check(reader: ConfigReader, family: Family, keys: Mapping[str, Any]) -> None:
    """Note numbers that cannot be together."""
    n_head, n_head_kv = keys["attention.head_count"], keys["attention.head_count_kv"]
    least = n_head_kv if isinstance(n_head_kv, int) else max([1, *n_head_kv])
    if isinstance(n_head, int) and n_head % least:
        reader.issues.append(f"`num_key_value_heads` {least}: expected a divisor of {n_head} heads")
    theta = keys.get("rope.freq_base", 2.0)
    if theta <= 1:
        reader.issues.append(f"`rope_theta` {theta}: expected more than 1")
    if keys["vocab_size"] > MAX_STRINGS:
        reader.issues.append(
            f"`vocab_size` {keys['vocab_size']:,}: expected at most {MAX_STRINGS:,}"
        )
    if head_length(keys) % 2:
        reader.issues.append(f"`head_dim` {head_length(keys)}: expected an even number")
    n_expert, n_used = keys.get("expert_count", 0), keys.get("expert_used_count", 0)
    if n_used > n_expert:
        name = family.n_expert_used[0]
        reader.issues.append(f"`{name}` {n_used}: expected at most {n_expert} experts")
