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
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch import ARCHITECTURES, Architecture
from gguf_hub.gguf.arch.encoders import dense_width
from gguf_hub.gguf.arch.graph import Graph
from gguf_hub.gguf.arch.graph_tensors import GraphTensor, tensors_of
from gguf_hub.gguf.arch.states import state_sizes
from gguf_hub.gguf.floats import FLOAT_TYPES
from gguf_hub.gguf.format import AnyTensor, Field, TensorInfo, ValueType
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.hparams import (
    CAUSAL,
    CLASSIFIER_LABELS,
    GRAPH_HPARAMS,
    HPARAMS,
    CacheHyperParameters,
    Flag,
    GraphHyperParameters,
    HyperParameter,
    HyperParameters,
    LayerNumber,
    Number,
    WholeNumber,
    Word,
    architecture,
)
from gguf_hub.gguf.metadata import MAX_UINT, is_uniform, whole_number
from gguf_hub.gguf.ollama import unclear
from gguf_hub.gguf.roles import role_of_header
from gguf_hub.gguf.senses import is_for_senses, left_out
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import RUNNABLE_TYPES
from gguf_hub.gguf.vocabulary import NO_VOCABULARY, vocabulary_problems

H, C = HyperParameters, CacheHyperParameters
NOT_RUNNABLE = "valid GGUF, but not runnable here"

"""Types of vectors that the runner reads; they are never quantised."""
_MOST_TOLD = 8
_DIGITS = re.compile(r"\d+")

# -- keys, after the architecture's name -----------------------------------------------------

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    H.rope_scaling.name: H.rope_scaling.words,
    "rope.scaling.alpha": (0, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
    "altup.active_idx": (0,),
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
    {H.vocab_size.name, H.pooling_type.name, GraphHyperParameters.classifier_pooling.name,
     CLASSIFIER_LABELS, "tensor_data_layout",
     "rope.scaling.finetuned", "attention.layer_norm_epsilon",
     # of a window and a temperature that keys of their own would turn on
     C.swa_pattern.name, "attention.temperature_length"}
)  # fmt: skip
"""Keys that change no logits, whatever they hold, where the architecture does not read them."""
_EQUAL = (H.n_embd_head_v.name, "attention.scale", H.n_ff_exp.name, "embedding_length_out")
"""Keys that say what follows from others: they may say nothing else."""
_FLAGS = (C.swa_pattern, C.is_recurrent)
"""What may be one flag for each layer."""
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
    hparams = GraphHyperParameters(fields, tensors)
    if obstacle := role_of_header(fields, tensors).obstacle:
        return (obstacle,)
    arch = ARCHITECTURES.get(hparams.architecture)
    if arch is None:
        why = unclear(fields, {name: tuple(info.shape) for name, info in tensors.items()})
        unknown = f"architecture `{shown(hparams.architecture)}` is not one that runs here"
        return (f"{unknown}: {why}" if why else unknown,)
    arch, hparams = arch.with_norms_of(hparams), hparams.of_graph(arch.varies)
    if not tensors:
        return ("no tensors",)
    obstacles = _key_obstacles(fields, arch, hparams)
    problem = _size_problem(arch, hparams)
    if not problem:
        obstacles += _equality_obstacles(fields, arch, hparams)
        groups = left_out(fields, hparams.architecture, tensors).values()
        others = {name for group in groups for name in group}
        obstacles += _tensor_obstacles(Graph(arch, hparams), tensors, others)
    if hparams.n_embd_rows and not hparams.n_vocab:
        obstacles.append(f"key `{hparams.key(H.vocab_size)}` is 0, expected a number of tokens")
    return tuple(obstacles or filter(None, [problem]))


def join_obstacles(obstacles: Sequence[str]) -> str:
    """Return obstacles as one text, the first few in full."""
    more = len(obstacles) - _MOST_TOLD
    return "; ".join(obstacles[:_MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")


# -- keys ------------------------------------------------------------------------------------


def _key_obstacles(
    fields: Mapping[str, Field], arch: Architecture, hparams: GraphHyperParameters
) -> list[str]:
    """Judge every key of the architecture by itself."""
    prefix = f"{hparams.architecture}."
    needed = [hparam.name for hparam in hparams.missing if hparam is not H.rms_epsilon]
    epsilon = GraphHyperParameters.layer_norm_epsilon if arch.has_layer_norm else H.rms_epsilon
    wanted = (*needed, epsilon.name, *arch.requires)
    keys = [hparams.key(GRAPH_HPARAMS[name]) for name in wanted]
    obstacles = [f"missing key `{key}`" for key in keys if key not in fields]
    for key, field in fields.items():
        is_own = key.startswith(prefix) or key in keys
        problem = _key_problem(arch, key.removeprefix(prefix), field) if is_own else ""
        if problem == "unknown":
            obstacles.append(f"unknown key `{shown(key)}`")
        elif problem:
            obstacles.append(f"key `{shown(key)}` {problem}")
    return obstacles


def _key_problem(arch: Architecture, name: str, field: Field) -> str:
    """Return what is wrong with a key's value; empty for nothing."""
    if name in arch.arrays:
        return _numbers_problem(field)
    if name in arch.reads:
        return _value_problem(GRAPH_HPARAMS[name], field)
    if name == H.n_expert.name and arch.router is None:
        return "" if _is_one_of(field, (0,)) else _differs(field, (0,))
    if name == CAUSAL:
        expected = (not arch.is_encoder,)
        return "" if _is_one_of(field, expected) else _differs(field, expected)
    if name in WITHOUT_EFFECT or name in _EQUAL or name in arch.ignores or is_for_senses(name):
        return ""
    if name in NEUTRAL:
        expected = NEUTRAL[name]
        return "" if _is_one_of(field, expected) else _differs(field, expected)
    if name in arch.varies and isinstance(field.value, np.ndarray):
        return _array_problem(arch.varies[name], field)
    if arch.varies.get(name) == 0 and _is_one_of(field, (0,)):
        return ""
    if name not in NUMBERS and name not in SIZES:
        return "unknown"
    return _value_problem(HPARAMS[name], field)


def _value_problem(hparam: HyperParameter[Any], field: Field) -> str:
    """Return what is wrong with a value that is read; empty for nothing."""
    value = field.value
    if isinstance(hparam, LayerNumber) and field.type is ValueType.ARRAY:
        odd = [number for number in value if not _is_finite(number)]
        return f"holds {shown(str(odd[0]))}, expected finite numbers" if odd else ""
    if isinstance(hparam, Flag):
        return "" if field.type is ValueType.BOOL else f"is {field.type_name}, expected a bool"
    if isinstance(hparam, Word):
        return "" if _is_one_of(field, hparam.words) else _differs(field, hparam.words)
    if hparam in _FLAGS and field.type is ValueType.ARRAY:
        return ""  # of flags or numbers, one for each layer
    if is_uniform(value) and "array of uint32" in hparam.types:
        value = value[0]  # one number for each layer, all of them the same
    elif not field.type.is_number:
        return f"is {field.type_name}, expected one number"
    if isinstance(hparam, Number):
        expectation = f"a finite number{hparam.bounds}"
        is_right = hparam.allows(value)
    else:
        assert isinstance(hparam, WholeNumber)
        number, least, most = whole_number(value), hparam.least, hparam.most
        is_right = number is not None and least <= number <= most
        expectation = f"a whole number >= {least}"
        if number is not None and number > most:
            expectation = f"a whole number in [{least}, {most}]"
    found = f"{value:.10g}" if isinstance(value, float) else str(value)
    return "" if is_right else f"is {found}, expected {expectation}"


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    return is_number and not isinstance(value, bool) and bool(np.isfinite(value))


def _array_problem(least: int, field: Field) -> str:
    """Return what is wrong with numbers of which each layer has its own; empty for nothing."""
    for value in field.value:
        number = whole_number(value)
        if number is None or not least <= number <= MAX_UINT:
            return f"holds {value}, expected whole numbers >= {least}"
    return ""


def _numbers_problem(field: Field) -> str:
    """Return what is wrong with numbers of layers, which may be any from 0; empty for nothing."""
    values = np.atleast_1d(np.asarray(field.value))
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        return f"is {field.type_name}, expected numbers"
    wrong = [value for value in values if not (np.isfinite(value) and value >= 0)]
    return f"holds {wrong[0]}, expected finite numbers >= 0" if wrong else ""


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


def _size_problem(arch: Architecture, hparams: GraphHyperParameters) -> str:
    """Return why the shapes of tensors cannot be known; empty where they can."""
    wanted = [GRAPH_HPARAMS[name] for name in arch.reads]
    try:
        for hparam in (*SIZES.values(), *(h for h in wanted if h not in _FLAGS)):
            hparams.get(hparam)
        state_sizes(arch, hparams)
        dense_width(arch, hparams)
    except UnsupportedGgufError as error:
        return error.message
    return ""


def _equality_obstacles(
    fields: Mapping[str, Field], arch: Architecture, hparams: GraphHyperParameters
) -> list[str]:
    """Judge the keys whose only possible value follows from others."""
    values: tuple[tuple[float, ...], ...] = (
        (hparams.head_dim,), (0, 1 / math.sqrt(hparams.head_dim)), (hparams.n_ff,),
        (0, hparams.n_embd),
    )  # fmt: skip
    obstacles = []
    for name, expected in zip(_EQUAL, values, strict=True):
        key = f"{hparams.architecture}.{name}"
        field = fields.get(key)
        if field is None or name in arch.reads:
            continue
        if not _is_close_to_one_of(field, expected):
            obstacles.append(f"key `{key}` {_differs(field, expected)}")
    return obstacles


def _is_close_to_one_of(field: Field, values: Iterable[float]) -> bool:
    """Tell whether a number is one of these but for the rounding to 32 bits."""
    return field.type.is_number and any(
        math.isclose(field.value, value, rel_tol=1e-6) for value in values
    )


# -- tensors ---------------------------------------------------------------------------------


def _tensor_obstacles(
    graph: Graph, tensors: Mapping[str, AnyTensor], others: Container[str]
) -> list[str]:
    """Compare the tensors but ``others`` with those that the graph uses: names, shapes, types."""
    used: set[str] = set()
    missing, types, shapes = [], [], []
    for spec in tensors_of(graph, tensors):
        info = tensors.get(spec.name)
        if info is None:
            missing.append(spec.name)
            continue
        used.add(spec.name)
        if tuple(info.shape) != spec.shape:
            shapes.append(
                f"tensor `{spec.name}` has shape {list(info.shape)}, expected {list(spec.shape)}"
            )
        if not _has_right_type(info, spec):
            types.append(info)
    unused = [name for name in tensors
              if name not in used and name not in others and not graph.ignored(name)]  # fmt: skip
    return [
        *(f"missing tensor {group}" for group in _groups(missing)),
        *(f"unused tensor {group}" for group in _groups(unused)),
        *shapes,
        *_type_obstacles(types),
    ]


def _has_right_type(info: AnyTensor, spec: GraphTensor) -> bool:
    """Tell whether the runner computes with a tensor's type; vectors are never quantised."""
    if not isinstance(info, TensorInfo):
        return False
    return info.type in (FLOAT_TYPES if spec.is_vector else RUNNABLE_TYPES)


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
