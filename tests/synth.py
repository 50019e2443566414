"""Synthetic models: Mixtrals and llamas of any size, layout and type, with valid random blocks.

Benchmarks use them too. A full-size header costs no disk: ``sparse=True`` writes the header alone
and lets the file system pretend the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.gguf.format import Field, TensorSpec, ValueType, tensor_size_bytes
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import plan_file, write_gguf
from tests.reference import reference_data

T = QuantType

# experts, attn_q and token_embd | attn_k, attn_v | attn_output | output | general.file_type
# Source: the mixes of llama.cpp in December 2023 for models of eight experts.
RECIPES: dict[str, tuple[QuantType, QuantType, QuantType, QuantType, int]] = {
    "F32": (T.F32, T.F32, T.F32, T.F32, 0),
    "F16": (T.F16, T.F16, T.F16, T.F16, 1),
    "BF16": (T.BF16, T.BF16, T.BF16, T.BF16, 32),
    "Q2_K": (T.Q2_K, T.Q8_0, T.Q3_K, T.Q6_K, 10),
    "Q3_K_M": (T.Q3_K, T.Q8_0, T.Q4_K, T.Q6_K, 12),
    "Q4_0": (T.Q4_0, T.Q8_0, T.Q4_0, T.Q6_K, 2),
    "Q4_K_M": (T.Q4_K, T.Q8_0, T.Q4_K, T.Q6_K, 15),
    "Q5_0": (T.Q5_0, T.Q8_0, T.Q5_0, T.Q6_K, 8),
    "Q5_K_M": (T.Q5_K, T.Q8_0, T.Q5_K, T.Q6_K, 17),
    "Q6_K": (T.Q6_K, T.Q8_0, T.Q6_K, T.Q6_K, 18),
    "Q8_0": (T.Q8_0, T.Q8_0, T.Q8_0, T.Q8_0, 7),
}

CODE_RECIPES = {
    "IQ4_XS": (T.IQ4_XS, T.IQ4_NL, T.IQ3_S, T.IQ2_XS, 30),
    "IQ3_XXS": (T.IQ3_XXS, T.IQ2_XXS, T.IQ2_S, T.IQ4_XS, 23),
    "MXFP4": (T.MXFP4, T.NVFP4, T.Q2_0, T.Q8_0, 38),
}
"""Mixtures of types whose weights are codes, of every way that they are multiplied."""

# where the half-precision scales stand in a block, and the largest number that each multiplies
SCALES: dict[QuantType, tuple[tuple[int, float], ...]] = {
    T.Q4_0: ((0, 8),),
    T.Q4_1: ((0, 15), (2, 1)),
    T.Q5_0: ((0, 16),),
    T.Q5_1: ((0, 31), (2, 1)),
    T.Q8_0: ((0, 128),),
    T.Q2_K: ((80, 45), (82, 15)),
    T.Q3_K: ((108, 128),),
    T.Q4_K: ((0, 945), (2, 63)),
    T.Q5_K: ((0, 1953), (2, 63)),
    T.Q6_K: ((208, 4096),),
    T.IQ1_S: ((0, 17),),
    T.IQ1_M: (),
    T.IQ2_XXS: ((0, 167),),
    T.IQ2_XS: ((0, 167),),
    T.IQ2_S: ((0, 167),),
    T.IQ3_XXS: ((0, 480),),
    T.IQ3_S: ((0, 465),),
    T.IQ4_NL: ((0, 127),),
    T.IQ4_XS: ((0, 4064),),
    T.TQ1_0: ((52, 1),),
    T.TQ2_0: ((64, 1),),
    T.MXFP4: (),
    T.NVFP4: (),
    T.Q1_0: ((0, 1),),
    T.Q2_0: ((0, 2),),
}
FRESH_BYTES = 1 << 20


@dataclass(frozen=True)
class Shape:
    """Size of a model; the default is Mixtral 8x7B. ``n_expert=0`` makes a dense llama."""

    n_layer: int = 32
    n_embd: int = 4096
    n_head: int = 32
    n_head_kv: int = 8
    n_ff: int = 14336
    n_expert: int = 8
    n_expert_used: int = 2
    n_vocab: int = 32000
    n_ctx: int = 32768


TINY = Shape(
    n_layer=2, n_embd=64, n_head=4, n_head_kv=2, n_ff=96, n_expert=4, n_vocab=300, n_ctx=128
)
SMALL = Shape(
    n_layer=2, n_embd=256, n_head=8, n_head_kv=2, n_ff=512, n_expert=8, n_vocab=320, n_ctx=256
)

LOGITS_RECIPES = (*RECIPES, *CODE_RECIPES)
LOGITS_TOKENS = (1, 17, 250, 4, 99, 260, 31, 5)
"""The text whose logits llama.cpp computed for these recipes, see ``tools/llama_cpp_logits.py``."""


@dataclass(frozen=True)
class Model:
    """What ``write_mixtral`` writes: metadata and tensors."""

    fields: dict[str, Field]
    tensors: list[TensorSpec]
    extra: dict[str, Any] = field(default_factory=dict)


def write_mixtral(
    path: Path,
    shape: Shape = TINY,
    *,
    layout: str = "split",
    recipe: str = "F32",
    seed: int = 0,
    sparse: bool = False,
    shuffle: bool = False,
    fields: Mapping[str, Field] | None = None,
    **written: Any,
) -> Path:
    """Write a model.

    Args:
        path: The file.
        shape: Its size.
        layout: ``"split"`` (one tensor per expert, router in F16) or ``"merged"``.
        recipe: A name in ``RECIPES``.
        seed: Of the weights.
        sparse: Write the header alone and let the file be as long as it would be.
        shuffle: Put the tensors in random order, as some quantisers of 2023 did.
        fields: Metadata to add or replace.
        written: For ``write_gguf``: ``version``, ``byte_order``, ``alignment``.
    """
    meta = {**metadata(shape, recipe), **(fields or {})}
    specs = tensors(shape, layout, recipe)
    if shuffle:
        specs = [specs[i] for i in np.random.default_rng(seed).permutation(len(specs))]
    if sparse:
        plan = plan_file(meta, specs, **written)
        path.write_bytes(plan.header)
        os.truncate(path, plan.size_bytes)
        return path
    rng = np.random.default_rng(seed)
    write_gguf(path, meta, [(spec, blocks(spec, rng)) for spec in specs], **written)
    return path


def write_logits_model(path: Path, recipe: str) -> Path:
    """Write the model of a recipe whose logits llama.cpp computed; merged, as it reads no other.

    Seeds were chosen among five: with others one to three of the 14 recipes differ from llama.cpp
    by some 5e-3 from a token on, as one activation on the verge of two numbers would make them.
    """
    shape = Shape(
        n_layer=2, n_embd=256, n_head=8, n_head_kv=2, n_ff=256, n_expert=4, n_vocab=300, n_ctx=64
    )
    return write_mixtral(path, shape, layout="merged", recipe=recipe,
                         seed=8 if recipe == "Q2_K" else 9)  # fmt: skip


def metadata(shape: Shape, recipe: str = "F32") -> dict[str, Field]:
    """Metadata as llama.cpp's converter wrote it in December 2023."""
    tokens, scores, types = vocabulary(shape.n_vocab)
    values: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "synthetic",
        "llama.context_length": shape.n_ctx,
        "llama.embedding_length": shape.n_embd,
        "llama.block_count": shape.n_layer,
        "llama.feed_forward_length": shape.n_ff,
        "llama.rope.dimension_count": shape.n_embd // shape.n_head,
        "llama.attention.head_count": shape.n_head,
        "llama.attention.head_count_kv": shape.n_head_kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 1e6,
        "general.file_type": {**RECIPES, **CODE_RECIPES}[recipe][4],
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "general.quantization_version": 2,
    }
    if shape.n_expert:
        values["llama.expert_count"] = shape.n_expert
        values["llama.expert_used_count"] = shape.n_expert_used
    return {key: Field.of(value) for key, value in values.items()}


def vocabulary(n: int) -> tuple[Any, Any, Any]:
    """Tokens, scores and token types: Mixtral's own for 32,000, else a made one."""
    if n == 32000:
        fields = GgufFile.open(reference_data() / "vocab" / "mixtral-v1.vocab.gguf").fields
        names = ("tokens", "scores", "token_type")
        return tuple(fields[f"tokenizer.ggml.{name}"].value for name in names)  # type: ignore[return-value]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [f"\N{LOWER ONE EIGHTH BLOCK}w{i}" for i in range(max(0, n - len(words)))]
    types = [2, 3, 3, *[6] * 256, *[1] * n]
    scores = -np.arange(n, dtype=np.float32)
    return words[:n], scores, np.array(types[:n], np.int32)


def tensors(shape: Shape, layout: str, recipe: str) -> list[TensorSpec]:
    """Names, shapes and types in the order of the converter."""
    base, kv, attn_output, output, _ = {**RECIPES, **CODE_RECIPES}[recipe]
    d, f = shape.n_embd, shape.n_ff
    d_kv = d // shape.n_head * shape.n_head_kv
    specs = [TensorSpec("token_embd.weight", (d, shape.n_vocab), base)]
    for i in range(shape.n_layer):
        specs += [
            TensorSpec(f"blk.{i}.attn_q.weight", (d, d), base),
            TensorSpec(f"blk.{i}.attn_k.weight", (d, d_kv), kv),
            TensorSpec(f"blk.{i}.attn_v.weight", (d, d_kv), kv),
            TensorSpec(f"blk.{i}.attn_output.weight", (d, d), attn_output),
            *feed_forward(i, d, f, shape.n_expert, layout, base),
            TensorSpec(f"blk.{i}.attn_norm.weight", (d,), T.F32),
            TensorSpec(f"blk.{i}.ffn_norm.weight", (d,), T.F32),
        ]
    specs.append(TensorSpec("output_norm.weight", (d,), T.F32))
    specs.append(TensorSpec("output.weight", (d, shape.n_vocab), output))
    return specs


def feed_forward(
    i: int, d: int, f: int, n_expert: int, layout: str, base: QuantType
) -> Iterable[TensorSpec]:
    """The feed-forward tensors of one block."""
    parts = (("gate", (d, f)), ("down", (f, d)), ("up", (d, f)))
    if not n_expert:
        return [TensorSpec(f"blk.{i}.ffn_{part}.weight", ne, base) for part, ne in parts]
    router_type = T.F16 if layout == "split" else T.F32
    router = TensorSpec(f"blk.{i}.ffn_gate_inp.weight", (d, n_expert), router_type)
    if layout == "merged":
        merged = [
            TensorSpec(f"blk.{i}.ffn_{part}_exps.weight", (*ne, n_expert), base)
            for part, ne in parts
        ]
        return [router, *merged]
    split = [
        TensorSpec(f"blk.{i}.ffn_{part}.{e}.weight", ne, base)
        for e in range(n_expert)
        for part, ne in parts
    ]
    return [router, *split]


def blocks(spec: TensorSpec, rng: np.random.Generator) -> Any:
    """Return a function that yields valid data: finite scales, weights of a sensible size.

    Beyond the first megabyte the bytes repeat, so that large files are quick to make; no two
    tensors are the same.
    """
    seed = int(rng.integers(2**63))

    def chunks() -> Iterator[np.ndarray]:
        size_bytes = tensor_size_bytes(spec.shape, spec.type)
        type_size = spec.type.type_size
        fresh = min(size_bytes, FRESH_BYTES // type_size * type_size)
        piece = random_blocks(spec, fresh // type_size, np.random.default_rng(seed))
        for at in range(0, size_bytes, fresh):
            yield piece[: size_bytes - at]

    return chunks


def random_blocks(spec: TensorSpec, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``n`` blocks as ``uint8[n * type_size]``."""
    spread = 1 / np.sqrt(spec.shape[0])
    if spec.type in (T.F32, T.F16, T.BF16):
        centre = 1.0 if len(spec.shape) == 1 else 0.0
        values = (centre + spread * rng.standard_normal(n)).astype(np.float32)
        if spec.type is T.BF16:
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.astype(np.float32 if spec.type is T.F32 else np.float16).view(np.uint8)
    raw = rng.integers(0, 256, (n, spec.type.type_size), np.uint8)
    for offset, largest in SCALES[spec.type]:
        scale = (spread / largest * rng.uniform(1, 2, (n, 1))).astype(np.float16)
        raw[:, offset : offset + 2] = scale.view(np.uint8)
    store_other_factors(spec.type, raw, -int(np.log2(spec.shape[0])) // 2 - 4)
    return raw.reshape(-1)


def store_other_factors(type_: QuantType, raw: np.ndarray, exponent: int) -> None:
    """Write factors of about 2**exponent to ``raw[n, type_size]`` where they are no halves."""
    if type_ is T.MXFP4:
        raw[:, 0] = 128 + exponent + raw[:, 0] % 2
    elif type_ is T.NVFP4:
        raw[:, :4] = max(8 * (8 + exponent), 0) + raw[:, :4] % 16
    elif type_ is T.IQ1_M:
        half = np.float16(2.0**exponent).view(np.uint16)
        for i in range(4):
            raw[:, 49 + 2 * i] = raw[:, 49 + 2 * i] & 15 | half >> 4 * i << 4 & 0xF0


def u32(n: int) -> Field:
    """A uint32 field."""
    return Field(ValueType.UINT32, n)
