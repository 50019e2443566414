"""Small models that are well-formed files, but whose values, shapes, types or weights are wrong."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.gguf.format import Field, TensorSpec, ValueType
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from tests.synth import RECIPES, Shape, blocks, metadata, tensors, vocabulary

T = QuantType
SHAPES = [
    (Shape(1, 64, 4, 2, 96, 0, 0, 263, 64), "F32"),
    (Shape(1, 64, 4, 2, 96, 3, 2, 263, 64), "F32"),
    (Shape(2, 64, 4, 2, 96, 0, 0, 263, 64), "F32"),
    (Shape(1, 96, 3, 1, 32, 0, 0, 263, 40), "F16"),
    (Shape(1, 30, 5, 1, 33, 0, 0, 260, 31), "F32"),
    (Shape(1, 64, 2, 2, 64, 0, 0, 263, 64), "Q8_0"),
    (Shape(1, 256, 2, 1, 256, 2, 1, 263, 64), "Q6_K"),
    (Shape(1, 64, 4, 2, 96, 0, 0, 8, 64), "F32"),
]
NUMBERS = [
    0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 63, 64, 65, 96, 128, 255, 256, 257, 262, 263, 264, 300,
    512, 1000, 1024, 4096, 2**15, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62,
    2**63 - 1, 2**63, 2**64 - 1,
]  # fmt: skip
REALS = [0.0, -0.0, 1.0, -1.0, 1e-5, 0.5, 2.0, 1e-30, 1e30, 3e38, 10000.0,
         float("inf"), float("-inf"), float("nan")]  # fmt: skip
TEXTS = ["llama", "yarn", "linear", "none", "x", "", "gpt2", "\x1b[31m", "{{ 1 }}", "{{", "\0"]
WHOLE = (ValueType.UINT8, ValueType.UINT16, ValueType.UINT32, ValueType.INT32, ValueType.UINT64,
         ValueType.INT64)  # fmt: skip
MORE_KEYS = [
    *("llama." + name for name in (
        "attention.key_length", "attention.value_length", "rope.scaling.type",
        "rope.scaling.factor", "rope.scale_linear", "rope.scaling.original_context_length",
        "rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
        "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor", "vocab_size",
        "expert_count", "expert_used_count", "expert_feed_forward_length", "pooling_type",
    )),
    *("tokenizer.ggml." + name for name in (
        "eot_token_id", "eom_token_id", "padding_token_id", "add_space_prefix", "merges",
    )),
    "tokenizer.chat_template", "split.count", "split.no", "general.alignment",
]  # fmt: skip
DIMENSIONS = (0, 1, 2, 8, 32, 64, 256, 263)


@dataclass
class Model:
    """What is to be written: fields, tensors, and how these are filled."""

    fields: dict[str, Field]
    specs: list[TensorSpec]
    fill: str
    written: dict[str, Any]


def make_model(rng: random.Random, types: Sequence[str]) -> Model:
    """Return a sound model with a few faults, or none."""
    shape, type_ = rng.choice([each for each in SHAPES if each[1] in types])
    kind = T[type_]
    RECIPES[f"all {type_}"] = (kind, kind, kind, kind, 0)
    layout = rng.choice(("split", "merged"))
    model = Model(metadata(shape, f"all {type_}"), tensors(shape, layout, f"all {type_}"),
                  rng.choice(("usual", "usual", "bytes", "zeros", "extremes")), {})  # fmt: skip
    if rng.random() < 0.1:  # another vocabulary than rows
        values = vocabulary(rng.choice((3, 250, 600)))
        for name, value in zip(("tokens", "scores", "token_type"), values, strict=True):
            model.fields[f"tokenizer.ggml.{name}"] = Field.of(value)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        change_field(model.fields, rng)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        change_tensor(model.specs, rng, types)
    if rng.random() < 0.1:
        model.specs.append(TensorSpec("rope_freqs.weight", (rng.choice((4, 8, 16)),), T.F32))
    if rng.random() < 0.15:
        model.written["alignment"] = rng.choice((1, 2, 4, 8, 64))
    return model


def change_field(fields: dict[str, Field], rng: random.Random) -> None:
    """Give a key another value, add one, or take one away."""
    key = rng.choice([*fields, *MORE_KEYS])
    if key in fields and rng.random() < 0.1:
        del fields[key]
    elif key in fields and rng.random() < 0.2:
        fields[key] = other_entries(fields[key], rng)
    else:
        fields[key] = any_value(rng)


def any_value(rng: random.Random) -> Field:
    """Return a value of any type."""
    kind = rng.randrange(10)
    if kind < 5:
        number = rng.choice(NUMBERS)
        return Field(rng.choice([t for t in WHOLE if number <= np.iinfo(t.dtype).max]), number)
    if kind == 5:
        return Field(rng.choice((ValueType.FLOAT32, ValueType.FLOAT64)), rng.choice(REALS))
    if kind == 6:
        return Field.of(rng.choice(TEXTS))
    if kind == 7:
        return Field.of(rng.random() < 0.5)
    if kind == 8:
        numbers = [rng.choice(NUMBERS[:28]) for _ in range(rng.choice((0, 1, 2, 5, 263)))]
        types = (np.int32, np.uint64, np.float32, np.uint8)
        return Field.of(np.array(numbers).astype(rng.choice(types)))
    return Field.of(rng.choice(([], ["a"], ["a"] * 263, ["<s>", "</s>", ""])))


def other_entries(field: Field, rng: random.Random) -> Field:
    """Return an array with a few other entries; another value for what is no array."""
    value = field.value
    if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iuf":
        changed = value.copy()
        real = changed.dtype.kind == "f"
        for _ in range(rng.choice((1, 3, 100))):
            entry = rng.choice(REALS) if real else rng.choice((-1, 0, 1, 2, 3, 4, 5, 6, 7, 99))
            changed[rng.randrange(len(changed))] = np.array(entry).astype(changed.dtype)
        return Field.of(changed)
    if not isinstance(value, (str, int, float)) and len(value):
        texts = list(value)
        for _ in range(rng.choice((1, 3, 100))):
            entry = rng.choice(("", "a", "<0x00>", "<0xZZ>", "\u2581" * 9, "z" * 9999, texts[0]))
            texts[rng.randrange(len(texts))] = entry
        return Field.of(texts)
    return any_value(rng)


def change_tensor(specs: list[TensorSpec], rng: random.Random, types: Sequence[str]) -> None:
    """Give a tensor another type, shape or place, or take it away."""
    i = rng.randrange(len(specs))
    name, shape, kind = specs[i].name, list(specs[i].shape), specs[i].type
    change = rng.randrange(6)
    if change == 0:
        kind = T[rng.choice(types)]
    elif change == 1:
        shape[rng.randrange(len(shape))] = rng.choice(DIMENSIONS)
    elif change == 2:
        shape.reverse()
    elif change == 3:
        shape.append(1)
    elif change == 4:
        specs.insert(rng.randrange(len(specs)), specs.pop(i))
        return
    else:
        del specs[i]
        return
    if shape[0] % kind.block_size:
        kind = T.F32
    specs[i] = TensorSpec(name, tuple(shape), kind)


def write_model(path: Path, model: Model, seed: int) -> None:
    """Write a model with its weights."""
    rng = np.random.default_rng(seed)
    data = [(spec, content(spec, model.fill, rng)) for spec in model.specs]
    write_gguf(path, model.fields, data, **model.written)


def content(spec: TensorSpec, fill: str, rng: np.random.Generator) -> Any:
    """Return the bytes of a tensor: as a model has them, or any."""
    n_elements = int(np.prod(spec.shape, dtype=np.int64))
    size_bytes = n_elements // spec.type.block_size * spec.type.type_size
    if fill == "usual" and n_elements:
        return blocks(spec, rng)
    if fill == "extremes" and spec.type is T.F32:
        return rng.choice(np.array(REALS, np.float32), n_elements).view(np.uint8)
    if fill == "bytes":
        return rng.integers(0, 256, size_bytes, np.uint8)
    return np.zeros(size_bytes, np.uint8)
