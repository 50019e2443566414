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
from typing import Any

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.experts import group_split
from gguf_hub.gguf.format import AnyTensor, Field, TensorInfo, ValueType
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.hparams import (
    HPARAMS,
    REQUIRED,
    CacheHyperParameters,
    HyperParameters,
    Number,
    WholeNumber,
    architecture,
)
from gguf_hub.gguf.metadata import is_uniform, whole_number
from gguf_hub.gguf.roles import role_of_header
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import RUNNABLE_TYPES, QuantType
from gguf_hub.gguf.vocabulary import NO_VOCABULARY, vocabulary_problems

H, C = HyperParameters, CacheHyperParameters
ARCHITECTURES = ("llama",)
"""Values of ``general.architecture`` that the runner computes: Llama, Mistral and Mixtral."""
NOT_RUNNABLE = "valid GGUF, but not runnable here"

VECTOR_TYPES = frozenset({QuantType.F32, QuantType.F16})
"""Types of vectors that the runner reads; they are never quantised."""
_MOST_TOLD = 8
_DIGITS = re.compile(r"\d+")

# -- keys, after the architecture's name -----------------------------------------------------

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    H.rope_scaling.name: H.rope_scaling.words,
    "rope.scaling.alpha": (0, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.output_scale": (1,),
    C.n_swa.name: (0,),
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
    C.n_layer_nextn.name: (0,),
    "swin_norm": (False,),
    "use_parallel_residual": (False,),
}
"""Keys that change the graph, and the values with which the graph is the runner's."""
WITHOUT_EFFECT = frozenset(
    {H.vocab_size.name, H.pooling_type.name, "tensor_data_layout", "classifier.output_labels",
     "rope.scaling.finetuned", "attention.layer_norm_epsilon",
     # of a window and a temperature that keys of their own would turn on
     C.swa_pattern.name, "attention.temperature_length"}
)  # fmt: skip
"""Keys that change no logits of a ``llama``, whatever they hold."""
_EQUAL = (H.n_embd_head_v.name, "attention.scale", H.n_ff_exp.name, "embedding_length_out")
"""Keys that say what follows from others: they may say nothing else."""
_UNREAD = {*WITHOUT_EFFECT, *_EQUAL}
SIZES = {name: hparam for name, hparam in HPARAMS.items()
         if isinstance(hparam, WholeNumber) and name not in _UNREAD}  # fmt: skip
"""Whole numbers that the runner reads."""
NUMBERS = {name: hparam for name, hparam in HPARAMS.items() if isinstance(hparam, Number)}
"""Other numbers that it reads."""


def find_obstacles(header: Header, tensors: Mapping[str, AnyTensor]) -> tuple[str, ...]:
    """Return what keeps gguf-hub from running a model, each with its name; empty where it runs.

    Args:
        header: Of the file, or of the first shard.
        tensors: Of the whole model, by name.
    """
    obstacles = find_graph_obstacles(header.fields, tensors)
    if architecture(header.fields) not in ARCHITECTURES:
        return obstacles
    if header.byte_order == "big":
        obstacles = ("big-endian", *obstacles)
    return (*obstacles, *_tokenizer_obstacles(header.fields))


def lacks_vocabulary(fields: Mapping[str, Field]) -> bool:
    """Tell whether a model knows no text: it takes and gives token ids."""
    field = fields.get("tokenizer.ggml.model")
    return field is None or _is_one_of(field, NO_VOCABULARY)


def _tokenizer_obstacles(fields: Mapping[str, Field]) -> list[str]:
    """Judge the vocabulary, if there is one."""
    if lacks_vocabulary(fields):
        return []
    return vocabulary_problems(fields)


def find_graph_obstacles(
    fields: Mapping[str, Field], tensors: Mapping[str, AnyTensor]
) -> tuple[str, ...]:
    """Return what keeps the runner from computing logits from token ids."""
    hparams = HyperParameters(fields, tensors)
    if obstacle := role_of_header(fields, tensors).obstacle:
        return (obstacle,)
    if hparams.architecture not in ARCHITECTURES:
        expected = " or ".join(f"`{name}`" for name in ARCHITECTURES)
        return (f"architecture `{shown(hparams.architecture)}`, expected {expected}",)
    if not tensors:
        return ("no tensors",)
    obstacles = _key_obstacles(fields, hparams)
    problem = _size_problem(hparams)
    if not problem:
        obstacles += _equality_obstacles(fields, hparams)
        obstacles += _tensor_obstacles(hparams, tensors)
    if hparams.n_embd_rows and not hparams.n_vocab:
        obstacles.append(f"key `{hparams.key(H.vocab_size)}` is 0, expected a number of tokens")
    return tuple(obstacles or filter(None, [problem]))


def join_obstacles(obstacles: Sequence[str]) -> str:
    """Return obstacles as one text, the first few in full."""
    more = len(obstacles) - _MOST_TOLD
    return "; ".join(obstacles[:_MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")


# -- keys ------------------------------------------------------------------------------------


def _key_obstacles(fields: Mapping[str, Field], hparams: HyperParameters) -> list[str]:
    """Judge every key of the architecture by itself."""
    prefix = f"{hparams.architecture}."
    missing = [hparams.key(hparam) for hparam in REQUIRED if not hparams.has(hparam)]
    obstacles = [f"missing key `{key}`" for key in missing]
    for key, field in fields.items():
        problem = _key_problem(key[len(prefix) :], field) if key.startswith(prefix) else ""
        if problem == "unknown":
            obstacles.append(f"unknown key `{shown(key)}`")
        elif problem:
            obstacles.append(f"key `{shown(key)}` {problem}")
    return obstacles


def _key_problem(name: str, field: Field) -> str:
    """Return what is wrong with a key's value; empty for nothing."""
    if name in WITHOUT_EFFECT or name in _EQUAL:
        return ""
    if name in NEUTRAL:
        expected = NEUTRAL[name]
        return "" if _is_one_of(field, expected) else _differs(field, expected)
    if name not in NUMBERS and name not in SIZES:
        return "unknown"
    value = field.value
    if is_uniform(value) and "array of uint32" in HPARAMS[name].types:
        value = value[0]  # one number for each layer, all of them the same
    elif not field.type.is_number:
        return f"is {field.type_name}, expected one number"
    if name in NUMBERS:
        expectation = f"a finite number{NUMBERS[name].bounds}"
        is_right = NUMBERS[name].allows(value)
    else:
        expectation = f"a whole number >= {SIZES[name].least}"
        number = whole_number(value)
        is_right = number is not None and SIZES[name].least <= number <= SIZES[name].most
    return "" if is_right else f"is {value:.10g}, expected {expectation}"


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


def _size_problem(hparams: HyperParameters) -> str:
    """Return why the shapes of tensors cannot be known; empty where they can."""
    try:
        for hparam in SIZES.values():
            hparams.get(hparam)
    except UnsupportedGgufError as error:
        return error.message
    return ""


def _equality_obstacles(fields: Mapping[str, Field], hparams: HyperParameters) -> list[str]:
    """Judge the keys whose only possible value follows from others."""
    values: tuple[tuple[float, ...], ...] = (
        (hparams.head_dim,), (0, 1 / math.sqrt(hparams.head_dim)), (hparams.n_ff,),
        (0, hparams.n_embd),
    )  # fmt: skip
    obstacles = []
    for name, expected in zip(_EQUAL, values, strict=True):
        key = f"{hparams.architecture}.{name}"
        field = fields.get(key)
        if field is not None and not _is_close_to_one_of(field, expected):
            obstacles.append(f"key `{key}` {_differs(field, expected)}")
    return obstacles


def _is_close_to_one_of(field: Field, values: Iterable[float]) -> bool:
    """Tell whether a number is one of these but for the rounding to 32 bits."""
    return field.type.is_number and any(
        math.isclose(field.value, value, rel_tol=1e-6) for value in values
    )


# -- tensors ---------------------------------------------------------------------------------


def _tensor_obstacles(hparams: HyperParameters, tensors: Mapping[str, AnyTensor]) -> list[str]:
    """Compare the tensors with those that the runner uses: names, shapes and types."""
    used: set[str] = set()
    missing, types, shapes = [], [], []
    for name, expected in _expected_tensors(hparams, tensors):
        info = tensors.get(name)
        if info is None:
            missing.append(name)
            continue
        used.add(name)
        if tuple(info.shape) != expected:
            shapes.append(
                f"tensor `{name}` has shape {list(info.shape)}, expected {list(expected)}"
            )
        if not _has_right_type(info):
            types.append(info)
    unused = [name for name in tensors if name not in used]
    return [
        *(f"missing tensor {group}" for group in _groups(missing)),
        *(f"unused tensor {group}" for group in _groups(unused)),
        *shapes,
        *_type_obstacles(types),
    ]


def _expected_tensors(
    hparams: HyperParameters, tensors: Mapping[str, AnyTensor]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors of the runner's graph with their shapes.

    No more blocks than a header has tensors, and one: so many cannot all be there.
    """
    d, n_ff, n_expert = hparams.n_embd, hparams.n_ff, hparams.n_expert
    yield "token_embd.weight", (d, hparams.n_embd_rows)  # padded, or else refused when opened
    yield "output_norm.weight", (d,)
    if "output.weight" in tensors:
        yield "output.weight", (d, hparams.n_embd_rows)
    if "rope_freqs.weight" in tensors:
        yield "rope_freqs.weight", (hparams.n_rot // 2,)
    # the runner takes merged experts where there are both
    split = {name: parts for name, parts in group_split(tensors).items() if name not in tensors}
    attention = _attention(hparams)
    planes = {"gate": (d, n_ff), "up": (d, n_ff), "down": (n_ff, d)}
    for i in range(min(hparams.n_layer, len(tensors) + 1)):
        for name, shape in attention.items():
            yield f"blk.{i}.{name}.weight", shape
        for part, plane in planes.items():
            stem = f"blk.{i}.ffn_{part}"
            merged = f"{stem}_exps.weight"
            if not n_expert:
                yield f"{stem}.weight", plane
            elif merged in split:
                yield from _wanted_experts(stem, plane, n_expert, split[merged])
            else:
                yield merged, (*plane, n_expert)


def _attention(hparams: HyperParameters) -> dict[str, tuple[int, ...]]:
    """Return the matrices and norms of a block, without its feed-forward network."""
    d, d_kv = hparams.n_embd, hparams.n_head_kv * hparams.head_dim
    d_head = hparams.n_head * hparams.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (d,),
        "attn_q": (d, d_head),
        "attn_k": (d, d_kv),
        "attn_v": (d, d_kv),
        "attn_output": (d_head, d),
        "ffn_norm": (d,),
    }
    return shapes | ({"ffn_gate_inp": (d, hparams.n_expert)} if hparams.n_expert else {})


def _wanted_experts(
    stem: str, plane: tuple[int, int], n_expert: int, there: Mapping[int, str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the experts that are there, and of those that are not the first."""
    absent = next((expert for expert in range(n_expert) if expert not in there), n_expert)
    experts = [expert for expert in there if expert < n_expert] + [absent] * (absent < n_expert)
    for expert in experts:
        yield f"{stem}.{expert}.weight", plane


def _has_right_type(info: AnyTensor) -> bool:
    """Tell whether the runner computes with a tensor's type; vectors are never quantised."""
    if not isinstance(info, TensorInfo):
        return False
    return info.type in (VECTOR_TYPES if len(info.shape) == 1 else RUNNABLE_TYPES)


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
