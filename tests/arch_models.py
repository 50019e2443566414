"""Writes tiny models, with weights that are the same everywhere.

They are those of ``tests/arch_recipes.py`` and of ``tests/encoder_recipes.py``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice, product
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.gguf.format import Field, TensorInfo, TensorSpec
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import plan_file
from tests.arch_recipes import RECIPES, Recipe
from tests.encoder_recipes import ENCODERS
from tests.run.tokenizer.small import small_metadata

N_EMBD = N_VOCAB = 64
N_HEAD = 4
N_CTX = 64
TOKENS = (1, 17, 50, 4, 4, 39, 60, 31, 5, 7, 23, 62, 13, 44, 28, 9, 51, 36, 2, 58, 11, 47)
POSITIONS = (9, 18, 19, 20, 21)
"""Where the logits are compared: far behind the start of a window of 6, and one in the middle."""
KEPT = slice(None, None, 2)
"""Of whose tokens: every other one, as any part of a graph changes all of them."""

# shapes as GGUF has them: what a matrix takes stands first; every other tensor has n_embd numbers
SHAPES = {
    name: shape
    for line in """
        token_embd output|D,V  output.bias|V  token_types|D,2  position_embd|D,CTX
        rope_freqs rope_factors_long rope_factors_short|R
        per_layer_token_embd|PL,V  per_layer_model_proj|D,PL  per_layer_proj_norm|P
        inp_gate|D,P  proj|P,D  layer_output_scale|1
        altup_proj altup_unembd_proj|D,D,3  altup_router|D,4  altup_correct_coef|4,4
        altup_predict_coef|4,16  laurel_l|D,64  laurel_r|64,D
        attn_q|D,Q  attn_k|D,KV  attn_v|D,KV  attn_qkv|D,QKV  attn_output|O,D
        attn_q.bias|Q  attn_k.bias attn_v.bias|KV  attn_qkv.bias|QKV
        attn_q_norm attn_k_norm|d  attn_sinks|H  attn_sub_norm|Q
        attn_q_a|D,LQ  attn_q_a_norm|LQ  attn_q_b|LQ,Q  attn_kv_a_mqa|D,LR  attn_kv_a_norm|LK
        attn_k_b|N,LK,H  attn_v_b|LK,e,H  attn_kv_b|LK,NE
        ffn_gate ffn_up|D,F  ffn_down|F,D  ffn_gate.bias ffn_up.bias ffn_sub_norm|F
        ffn_gate_inp|D,E  ffn_gate_inp.bias exp_probs_b.bias ffn_down_exps.scale|E
        ffn_gate_exps ffn_up_exps|M,X,E  ffn_down_exps|X,M,E  ffn_gate_up_exps|M,2X,E
        ffn_latent_down|D,M  ffn_latent_up|M,D
        ffn_gate_exps.bias ffn_up_exps.bias|X,E  ffn_down_exps.bias|D,E
        ffn_gate_shexp ffn_up_shexp|D,Y  ffn_down_shexp|Y,D
        ssm_in|D,SI  ssm_conv1d|CK,C  ssm_conv1d.bias|C  ssm_dt.bias ssm_a|T  ssm_norm|S
        ssm_out|I,D  attn_gate|D,I  ssm_beta ssm_alpha|D,T  ssm_ba|D,2T
        ssm_x|I,TS  ssm_dt|T,I  ssm_dt_norm|T  ssm_b_norm ssm_c_norm|S
        shortconv.conv|CC,D  shortconv.in_proj|D,3D  shortconv.out_proj|D,D  nextn.eh_proj|2D,D
    """.splitlines()
    for names, shape in (entry.split("|") for entry in re.split(r"\s{2,}", line.strip()) if entry)
    for name in names.split()
}


_NO_VOCABULARY = {"tokenizer.ggml.model": "no_vocab"}


def write_arch_model(
    path: Path,
    name: str,
    *,
    changed: str | None = None,
    keys: dict[str, Any] | None = None,
    tensors: Callable[[list[TensorSpec]], list[TensorSpec]] = list,
    vocabulary: dict[str, Any] | None = None,
) -> Path:
    """Write the model of a row of ``RECIPES`` or ``ENCODERS``, F32 throughout.

    Args:
        path: The file.
        name: The row.
        changed: The group (name without the layer's number) whose tensors get other values.
        keys: Replaces keys of the row; None takes one away.
        tensors: What is written instead of the row's tensors.
        vocabulary: Keys of one with ``N_VOCAB`` tokens; without any, none.
    """
    recipe = recipe_of(name)
    merged = {**keys_of(recipe), **(keys or {})}
    fields = {
        "general.architecture": Field.of(recipe.arch),
        **{
            key if key.startswith("xielu.") else f"{recipe.arch}.{key}": _field(value)
            for key, value in merged.items()
            if value is not None
        },
        **{key: Field.of(value) for key, value in (vocabulary or _NO_VOCABULARY).items()},
    }  # fmt: skip
    if name in ENCODERS:
        fields["tokenizer.ggml.token_type_count"] = Field.of(2)
    plan = plan_file(fields, tensors(tensor_specs(recipe)))
    data = bytearray(plan.size_bytes)
    data[: len(plan.header)] = plan.header
    known = _unchanged(name)
    for info in plan.tensors:
        found = known.get(info.name)
        if found is None or group_of(info.name) == changed:
            found = values(recipe, info, recipe.seed + 1000)
        start = plan.data_offset + info.offset
        data[start : start + info.size_bytes] = found.tobytes()
    path.write_bytes(data)  # many are written: none waits for the disk as ``write_gguf`` does
    return path


def recipe_of(name: str) -> Recipe:
    """Return a row of ``RECIPES`` or ``ENCODERS``."""
    return RECIPES[name] if name in RECIPES else ENCODERS[name]


def letters() -> dict[str, Any]:
    """Return the keys of a vocabulary of ``N_VOCAB`` tokens: letters, and pairs of them."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    pairs = ["".join(pair) for pair in islice(product(alphabet, "abcdef"), 34)]
    pieces = {"\u2581": -5.0, **dict.fromkeys(alphabet, -6.0), **dict.fromkeys(pairs, -1.0)}
    keys = small_metadata(pieces, bytes_too=False)
    for name, dtype in (("scores", np.float32), ("token_type", np.int32)):
        keys[f"tokenizer.ggml.{name}"] = np.array(keys[f"tokenizer.ggml.{name}"], dtype)
    return keys


@lru_cache(maxsize=2)
def _unchanged(name: str) -> dict[str, np.ndarray]:
    """Return the values of a row's tensors: the same model is written many times in a row."""
    recipe = recipe_of(name)
    return {spec.name: values(recipe, spec, recipe.seed) for spec in tensor_specs(recipe)}


def group_of(name: str) -> str:
    """Return a tensor's name without its layer's number."""
    return re.sub(r"^blk\.\d+\.", "", name)


def tensor_specs(recipe: Recipe) -> list[TensorSpec]:
    """Return names and shapes of a row's tensors."""
    specs = [_spec("", token, sizes(recipe, 0)) for token in ["token_embd", *recipe.other.split()]]
    for i, layer in enumerate(recipe.layers):
        specs += [_spec(f"blk.{i}.", token, sizes(recipe, i)) for token in layer.split()]
    return specs


def sizes(recipe: Recipe, layer: int) -> dict[str, int]:
    """Return what the symbols of shapes mean in a layer.

    ``D`` n_embd, ``V`` n_vocab, ``H`` heads, ``HK`` those of keys, ``d`` length of keys, ``e`` of
    values, ``Q`` and ``O`` all heads', ``KV`` all keys', ``N`` part of a key without positions,
    ``R`` pairs that are rotated, ``LQ`` and ``LK`` ranks of latents, ``F``, ``X``, ``Y`` widths of
    feed-forward, expert and shared expert, ``HF`` half of the first, ``E`` experts, ``M`` width of
    what they read, ``P`` width of per-layer embeddings; of state-space layers ``I`` inner width,
    ``S`` state, ``G`` groups, ``T`` heads, ``J`` width of a group, ``C`` channels of the
    convolution, ``CK`` its length; ``CC`` length of a short convolution,
    ``CTX`` positions.
    """
    keys = keys_of(recipe)

    def key(name: str, default: Any = 0) -> int:
        value = keys.get(name, default)
        return int(value[layer] if isinstance(value, list) else value)

    d = key("attention.key_length_mla", key("attention.key_length", N_EMBD // N_HEAD))
    e = key("attention.value_length_mla", key("attention.value_length", d))
    rotated = key("rope.dimension_count")
    if "attention.key_length_swa" in keys and key("attention.sliding_window_pattern"):
        d = e = key("attention.key_length_swa")
    h, kv = key("attention.head_count"), key("attention.head_count_kv") * d
    x = key("expert_feed_forward_length", key("feed_forward_length"))
    inner, state, groups = (key(f"ssm.{n}") for n in ("inner_size", "state_size", "group_count"))
    return {
        "TS": key("ssm.time_step_rank") + 2 * state, "1": 1, "D": N_EMBD, "V": N_VOCAB, "H": h,
        "HK": key("attention.head_count_kv"),
        "d": d, "e": e, "Q": h * d, "O": h * e, "KV": kv, "QKV": h * d + 2 * kv,
        "QKE": h * d + kv + key("attention.head_count_kv") * e,
        "N": d - rotated, "R": rotated // 2,
        "NE": h * (d - rotated + e), "LQ": key("attention.q_lora_rank"),
        "LK": key("attention.kv_lora_rank"), "LR": key("attention.kv_lora_rank") + rotated,
        "F": key("feed_forward_length"), "HF": key("feed_forward_length") // 2, "X": x,
        "E": key("expert_count"),
        "Y": key("expert_shared_feed_forward_length", key("expert_shared_count", 1) * x),
        "M": key("moe_latent_size", N_EMBD), "P": key("embedding_length_per_layer_input"),
        "PL": key("embedding_length_per_layer_input") * len(recipe.layers),
        "I": inner, "S": state, "G": groups, "T": key("ssm.time_step_rank"),
        "J": inner // max(1, groups), "C": inner + 2 * groups * state, "CK": key("ssm.conv_kernel"),
        "SI": 2 * inner + 2 * groups * state + key("ssm.time_step_rank"),
        "CC": key("shortconv.l_cache"), "CTX": key("context_length"),
    }  # fmt: skip


def values(recipe: Recipe, spec: TensorSpec | TensorInfo, seed: int) -> np.ndarray:
    """Return a tensor's values, ``float32``, of a spread that makes every tensor matter.

    They come from a tensor's name and the seed alone, by exact arithmetic: raw bits of PCG64, one
    product and one sum in float32, so that they are the same whatever computes them.
    """
    shape = tuple(reversed(spec.shape))
    if spec.name in recipe.fixed and seed == recipe.seed:
        return np.array(recipe.fixed[spec.name], np.float32).reshape(shape)
    bits = np.random.PCG64([zlib.crc32(spec.name.encode()), seed]).random_raw(int(np.prod(shape)))
    unit = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    centre, half = _centre_and_half_width(recipe, spec)
    array: np.ndarray = unit * np.float32(half) + np.float32(centre)
    return array.reshape(shape)


def _centre_and_half_width(recipe: Recipe, spec: TensorSpec | TensorInfo) -> tuple[float, float]:
    name = group_of(spec.name)
    by_name = {
        "ssm_a": (-0.7, 0.5),  # negative: what is remembered decays
        "ssm_d": (1.0, 0.5),
        "ssm_dt.bias": (-1.0, 1.0),
        "exp_probs_b.bias": (0.0, 0.3),
        "attn_sinks.weight": (0.0, 2.0),
        "altup_predict_coef.weight": (0.0, 0.1),
        "altup_correct_coef.weight": (0.0, 0.3),
        "rope_freqs.weight": (3.0, 2.0),
        "rope_factors_long.weight": (3.0, 2.0),
        "rope_factors_short.weight": (1.5, 0.5),
        "token_embd.weight": (0.0, recipe.embedding * sqrt(3)),
    }
    if name in by_name:
        return by_name[name]
    if name.endswith(".bias"):
        return 0.0, 0.5
    if len(spec.shape) == 1 or "norm" in name:
        return 1.0, 0.5
    gain = {"ffn_gate_inp.weight": 3.0, "output.weight": 2.0}.get(name, 1.4)
    return 0.0, gain * sqrt(3 / spec.shape[0])


def keys_of(recipe: Recipe) -> dict[str, Any]:
    """Return a row's keys and the common ones, without the architecture's name before them."""
    common = {
        "vocab_size": N_VOCAB, "context_length": 256, "embedding_length": N_EMBD,
        "block_count": len(recipe.layers), "feed_forward_length": 96,
        "attention.head_count": N_HEAD, "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-3, "rope.freq_base": 10000.0,
        "rope.dimension_count": N_EMBD // N_HEAD,
    }  # fmt: skip
    return {k: value for k, value in {**common, **recipe.keys}.items() if value is not None}


def _field(value: Any) -> Field:
    if isinstance(value, list):
        types = {bool: np.bool_, float: np.float32}
        return Field.of(np.array(value, types.get(type(value[0]), np.int32)))
    return Field.of(value)


def _spec(prefix: str, token: str, size: dict[str, int]) -> TensorSpec:
    name, _, shape = token.partition(":")
    symbols = (shape or SHAPES.get(name, "D")).split(",")
    if "." not in name.removeprefix("shortconv.").removeprefix("nextn.") and name not in (
        "ssm_a", "ssm_d",
    ):  # fmt: skip
        name += ".weight"
    return TensorSpec(prefix + name.rstrip("."), tuple(_times(symbols, size)), QuantType.F32)


def _times(symbols: list[str], size: dict[str, int]) -> Iterator[int]:
    for symbol in symbols:
        factor, letters = re.fullmatch(r"(\d*)(.*)", symbol).groups()  # type: ignore[union-attr]
        yield int(factor or 1) * (size[letters] if letters else 1)
