"""Does gguf-hub compute the model of a file? The one judgement that all of the program shares.

The rule is positive: every tensor must be one that the runner uses, and every key of the
architecture one that it reads, or one that changes nothing. A bias, a head norm or a scale that
nobody multiplies with would give text that looks right and is not.

Source: load_hparams, load_arch_tensors and the graph of the architecture ``llama`` in llama.cpp
(src/llama-model.cpp, src/models/llama.cpp); which keys there are: LLM_KV_NAMES in llama-arch.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf_hub.gguf.experts import group_split
from gguf_hub.gguf.format import AnyTensor, Field, TensorInfo, ValueType
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.keys import MORE_THAN, architecture, number
from gguf_hub.gguf.metadata import MAX_UINT, whole
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import RUNNABLE_TYPES, QuantType

ARCHITECTURES = ("llama",)
"""Values of ``general.architecture`` that the runner computes: Llama, Mistral and Mixtral."""
NOT_RUNNABLE = "valid GGUF, but not runnable here"

_TOKENIZERS = ("llama", "no_vocab", "none", "")
_VECTOR_TYPES = frozenset({QuantType.F32, QuantType.F16})
_MOST_TOLD = 8
_DIGITS = re.compile(r"\d+")

# -- keys, after the architecture's name -----------------------------------------------------

SIZES: Mapping[str, int] = {
    "context_length": 1,
    "embedding_length": 1,
    "block_count": 1,
    "feed_forward_length": 1,
    "attention.head_count": 1,
    "attention.head_count_kv": 1,
    "attention.key_length": 1,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.dimension_count": 1,
    "rope.scaling.original_context_length": 1,
}
"""Whole numbers that the runner reads, and the least that makes sense."""
NUMBERS = frozenset(
    {"attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scale_linear",
     "rope.scaling.factor", "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor",
     "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"}
)  # fmt: skip
"""Other numbers that it reads."""
REQUIRED = (
    "context_length", "embedding_length", "block_count", "feed_forward_length",
    "attention.head_count", "attention.layer_norm_rms_epsilon",
)  # fmt: skip
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none", "linear", "yarn"),
    "rope.scaling.alpha": (0, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.output_scale": (1,),
    "attention.sliding_window": (0,),
    "attention.temperature_scale": (0,),
    "attention.value_scale": (1,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "router_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "logit_scale": (0, 1),
    "expert_gating_func": (0, 1),  # none told, softmax
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0, 1),
    "hidden_activation": ("silu",),
    "interleave_moe_layer_step": (1,),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "swin_norm": (False,),
    "use_parallel_residual": (False,),
}
"""Keys that change the graph, and the values with which the graph is the runner's."""
WITHOUT_EFFECT = frozenset(
    {"vocab_size", "tensor_data_layout", "pooling_type", "classifier.output_labels",
     "rope.scaling.finetuned", "attention.layer_norm_epsilon",
     # of a window and a temperature that keys of their own would turn on
     "attention.sliding_window_pattern", "attention.temperature_length"}
)  # fmt: skip
"""Keys that change no logits of a ``llama``, whatever they hold."""


@dataclass(frozen=True)
class _Shape:
    """Sizes that the shapes of tensors follow from."""

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_expert: int
    n_rot: int
    n_vocab: int


def find_obstacles(header: Header, tensors: Mapping[str, AnyTensor]) -> tuple[str, ...]:
    """Return what keeps gguf-hub from running a model, each with its name; empty where it runs.

    Args:
        header: Of the file, or of the first shard.
        tensors: Of the whole model, by name.
    """
    found = find_graph_obstacles(header.fields, tensors)
    if architecture(header.fields) not in ARCHITECTURES:
        return found
    if header.byte_order == "big":
        found = ("big-endian", *found)
    field = header.fields.get("tokenizer.ggml.model")
    if field is not None and not _is_one_of(field, _TOKENIZERS):
        name = field.value if field.type is ValueType.STRING else field.type_name
        found = (*found, f"tokenizer `{shown(name)}`, expected `llama`")
    return found


def find_graph_obstacles(
    fields: Mapping[str, Field], tensors: Mapping[str, AnyTensor]
) -> tuple[str, ...]:
    """Return what keeps the runner from computing logits from token ids."""
    arch = architecture(fields)
    if arch not in ARCHITECTURES:
        expected = " or ".join(f"`{name}`" for name in ARCHITECTURES)
        return (f"architecture `{shown(arch)}`, expected {expected}",)
    if not tensors:
        return ("a vocabulary without a model",)
    found = _key_obstacles(fields, arch)
    shape = _shape(fields, arch, tensors)
    if shape is not None:
        found += _equality_obstacles(fields, arch, shape)
        found += _tensor_obstacles(shape, tensors)
    return tuple(found)


def told(obstacles: Sequence[str]) -> str:
    """Return obstacles as one text, the first few in full."""
    more = len(obstacles) - _MOST_TOLD
    return "; ".join(obstacles[:_MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")


# -- keys ------------------------------------------------------------------------------------


def _key_obstacles(fields: Mapping[str, Field], arch: str) -> list[str]:
    """Judge every key of the architecture by itself."""
    prefix = f"{arch}."
    found = [f"missing key `{prefix}{name}`" for name in REQUIRED if prefix + name not in fields]
    for key, field in fields.items():
        problem = _key_problem(key[len(prefix) :], field) if key.startswith(prefix) else ""
        if problem == "unknown":
            found.append(f"unknown key `{shown(key)}`")
        elif problem:
            found.append(f"key `{shown(key)}` {problem}")
    return found


def _key_problem(name: str, field: Field) -> str:
    """Return what is wrong with a key's value; empty for nothing."""
    if name in WITHOUT_EFFECT or name in _EQUAL:
        return ""
    if name in NEUTRAL:
        expected = NEUTRAL[name]
        return "" if _is_one_of(field, expected) else _differs(field, expected)
    if name not in NUMBERS and name not in SIZES:
        return "unknown"
    if not field.type.is_number:
        return f"is {field.type_name}, expected one number"
    if name in NUMBERS:
        least = MORE_THAN.get(name, -math.inf)
        is_right = math.isfinite(field.value) and field.value > least
        bound = f" > {least}" if name in MORE_THAN else ""
        return "" if is_right else f"is {field.value:.10g}, expected a finite number{bound}"
    found = whole(field.value)
    is_right = found is not None and SIZES[name] <= found <= MAX_UINT
    return "" if is_right else f"is {field.value:.10g}, expected a whole number >= {SIZES[name]}"


def _is_one_of(field: Field, values: tuple[Any, ...]) -> bool:
    return field.type is not ValueType.ARRAY and field.value in values


def _differs(field: Field, expected: Iterable[Any]) -> str:
    value = field.type_name if field.type is ValueType.ARRAY else _text(field.value)
    return f"is {value}, expected {' or '.join(map(_text, expected))}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return f"`{shown(value)}`"
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}"


# -- sizes -----------------------------------------------------------------------------------

_EQUAL = ("attention.value_length", "attention.scale", "expert_feed_forward_length",
          "embedding_length_out")  # fmt: skip
"""Keys that say what follows from others: they may say nothing else."""


def _shape(
    fields: Mapping[str, Field], arch: str, tensors: Mapping[str, AnyTensor]
) -> _Shape | None:
    """Return the sizes; None where they are not told, which is an obstacle of its own."""

    def size(name: str, default: int | None = None) -> int:
        if f"{arch}.{name}" not in fields and default is not None:
            return default
        value = number(fields, f"{arch}.{name}")
        if value is None or not SIZES[name] <= value <= MAX_UINT:
            raise ValueError(name)
        return value

    embedding = tensors.get("token_embd.weight")
    try:
        n_embd, n_head = size("embedding_length"), size("attention.head_count")
        head_dim = size("attention.key_length", n_embd // n_head)
        return _Shape(
            n_layer=size("block_count"),
            n_embd=n_embd,
            n_head=n_head,
            n_head_kv=size("attention.head_count_kv", n_head),
            head_dim=head_dim,
            n_ff=size("feed_forward_length"),
            n_expert=size("expert_count", 0),
            n_rot=size("rope.dimension_count", head_dim),
            n_vocab=embedding.shape[1] if embedding and len(embedding.shape) == 2 else 0,
        )
    except ValueError:
        return None


def _equality_obstacles(fields: Mapping[str, Field], arch: str, shape: _Shape) -> list[str]:
    """Judge the keys whose only possible value follows from others."""
    values: tuple[tuple[float, ...], ...] = (
        (shape.head_dim,), (0, 1 / math.sqrt(max(1, shape.head_dim))), (shape.n_ff,),
        (0, shape.n_embd),
    )  # fmt: skip
    found = []
    for name, expected in zip(_EQUAL, values, strict=True):
        field = fields.get(f"{arch}.{name}")
        if field is not None and not _is_close_to_one_of(field, expected):
            found.append(f"key `{arch}.{name}` {_differs(field, expected)}")
    return found


def _is_close_to_one_of(field: Field, values: Iterable[float]) -> bool:
    """Tell whether a number is one of these but for the rounding to 32 bits."""
    return field.type.is_number and any(
        math.isclose(field.value, value, rel_tol=1e-6) for value in values
    )


# -- tensors ---------------------------------------------------------------------------------


def _tensor_obstacles(shape: _Shape, tensors: Mapping[str, AnyTensor]) -> list[str]:
    """Compare the tensors with those that the runner uses: names, shapes and types."""
    used: set[str] = set()
    missing, types, found = [], [], []
    for name, expected in _wanted(shape, tensors):
        info = tensors.get(name)
        if info is None:
            missing.append(name)
            continue
        used.add(name)
        if tuple(info.shape) != expected:
            found.append(f"tensor `{name}` has shape {list(info.shape)}, expected {list(expected)}")
        if not _has_right_type(info):
            types.append(info)
    unused = [name for name in tensors if name not in used]
    return [
        *(f"missing tensor {group}" for group in _groups(missing)),
        *(f"unused tensor {group}" for group in _groups(unused)),
        *found,
        *_type_obstacles(types),
    ]


def _wanted(
    shape: _Shape, tensors: Mapping[str, AnyTensor]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors of the runner's graph with their shapes.

    No more blocks than a header has tensors, and one: so many cannot all be there.
    """
    yield "token_embd.weight", (shape.n_embd, shape.n_vocab)
    yield "output_norm.weight", (shape.n_embd,)
    if "output.weight" in tensors:
        yield "output.weight", (shape.n_embd, shape.n_vocab)
    if "rope_freqs.weight" in tensors:
        yield "rope_freqs.weight", (shape.n_rot // 2,)
    # the runner takes merged experts where there are both
    split = {name: parts for name, parts in group_split(tensors).items() if name not in tensors}
    for i in range(min(shape.n_layer, len(tensors) + 1)):
        yield from _wanted_of_block(shape, i, split)


def _wanted_of_block(
    shape: _Shape, i: int, split: Mapping[str, Mapping[int, str]]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    d, d_kv = shape.n_embd, shape.n_head_kv * shape.head_dim
    d_head = shape.n_head * shape.head_dim
    yield f"blk.{i}.attn_norm.weight", (d,)
    yield f"blk.{i}.attn_q.weight", (d, d_head)
    yield f"blk.{i}.attn_k.weight", (d, d_kv)
    yield f"blk.{i}.attn_v.weight", (d, d_kv)
    yield f"blk.{i}.attn_output.weight", (d_head, d)
    yield f"blk.{i}.ffn_norm.weight", (d,)
    if shape.n_expert:
        yield f"blk.{i}.ffn_gate_inp.weight", (d, shape.n_expert)
    for part, plane in (
        ("gate", (d, shape.n_ff)), ("up", (d, shape.n_ff)), ("down", (shape.n_ff, d)),
    ):  # fmt: skip
        stem = f"blk.{i}.ffn_{part}"
        merged = f"{stem}_exps.weight"
        if not shape.n_expert:
            yield f"{stem}.weight", plane
        elif merged in split:
            yield from _wanted_experts(stem, plane, shape.n_expert, split[merged])
        else:
            yield merged, (*plane, shape.n_expert)


def _wanted_experts(
    stem: str, plane: tuple[int, int], n_expert: int, there: Mapping[int, str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the experts that are there, and of those that are not the first."""
    absent = next((expert for expert in range(n_expert) if expert not in there), n_expert)
    wanted = [expert for expert in there if expert < n_expert] + [absent] * (absent < n_expert)
    for expert in wanted:
        yield f"{stem}.{expert}.weight", plane


def _has_right_type(info: AnyTensor) -> bool:
    """Tell whether the runner computes with a tensor's type; vectors are never quantised."""
    if not isinstance(info, TensorInfo):
        return False
    return info.type in (_VECTOR_TYPES if len(info.shape) == 1 else RUNNABLE_TYPES)


def _type_obstacles(infos: Iterable[AnyTensor]) -> Iterator[str]:
    """Name each type once, by the example of its first tensor."""
    names: dict[str, list[str]] = {}
    for info in infos:
        names.setdefault(info.type_name.removeprefix("type "), []).append(info.name)
    for type_name in sorted(names):
        first, *others = names[type_name]
        more = f" and {len(others):,} more" if others else ""
        yield f"tensor type {type_name} (`{first}`{more})"


def _groups(names: Iterable[str]) -> Iterator[str]:
    """Say names that differ in numbers alone as one: the first, and how many are like it."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_DIGITS.sub("N", name), []).append(name)
    for first, *others in groups.values():
        yield f"`{shown(first)}`" + (f" (and {len(others):,} like it)" if others else "")
