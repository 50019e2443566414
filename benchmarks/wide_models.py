"""Models of real width and few layers, for ``vs_llama_cpp.py``: random weights in real types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from tests.synth import Shape, blocks, metadata

T = QuantType


@dataclass(frozen=True)
class Wide:
    """A model's architecture and sizes.

    Attributes:
        head_dim: Length of a head.
        base: Type of all matrices but the experts.
        experts: Type of the experts.
        vectors: Names of a layer's vectors -> what stands for their lengths: ``d``, ``head``.
        biases: Matrices that have biases.
        keys: Beyond those of every model.
    """

    arch: str
    shape: Shape
    head_dim: int
    base: QuantType
    experts: QuantType
    vectors: dict[str, str] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    keys: dict[str, Any] = field(default_factory=dict)
    is_tied: bool = False


_NORMS = {"attn_norm.weight": "d", "ffn_norm.weight": "d"}
_HEADS = {"attn_q_norm.weight": "head", "attn_k_norm.weight": "head"}
_AFTER = {"post_attention_norm.weight": "d", "post_ffw_norm.weight": "d"}
_QKV = ("attn_q", "attn_k", "attn_v", "attn_output")

MODELS: dict[str, Wide] = {
    "llama-3.1-8b": Wide(
        "llama", Shape(n_embd=4096, n_head=32, n_head_kv=8, n_ff=14336, n_expert=0), 128,
        T.Q4_K, T.Q4_K, _NORMS, keys={"rope.freq_base": 5e5}),
    "qwen3-30b-a3b": Wide(
        "qwen3moe", Shape(n_embd=2048, n_head=32, n_head_kv=4, n_ff=768, n_expert=128,
                          n_expert_used=8), 128,
        T.Q4_K, T.Q4_K, {**_NORMS, **_HEADS}, keys={"expert_feed_forward_length": 768}),
    "gpt-oss-20b": Wide(
        "gpt-oss", Shape(n_embd=2880, n_head=64, n_head_kv=8, n_ff=2880, n_expert=32,
                         n_expert_used=4), 64,
        T.Q8_0, T.MXFP4,
        {"attn_norm.weight": "d", "post_attention_norm.weight": "d", "attn_sinks.weight": "heads"},
        (*_QKV, "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
        {"expert_feed_forward_length": 2880, "attention.sliding_window": 128}),
    "gemma-3-12b": Wide(
        "gemma3", Shape(n_embd=3840, n_head=16, n_head_kv=8, n_ff=15360, n_expert=0), 256,
        T.Q4_K, T.Q4_K, {**_NORMS, **_HEADS, **_AFTER}, keys={"attention.sliding_window": 1024},
        is_tied=True),
    **{
        f"mixtral-{type_.name}": Wide("llama", Shape(), 128, type_, type_, _NORMS)
        for type_ in (T.IQ4_XS, T.IQ3_S, T.IQ2_XS)
    },
}  # fmt: skip
"""Name -> model; vocabularies are cut to 32,000 tokens, so that layers count for more."""


def write_wide(path: Path, name: str, n_layer: int) -> Path:
    """Write a model of ``MODELS``."""
    model = MODELS[name]
    shape, prefix = model.shape, f"{model.arch}."
    fields = {key.replace("llama.", prefix, 1): value for key, value in metadata(shape).items()}
    more: dict[str, Any] = {
        "attention.key_length": model.head_dim, "attention.value_length": model.head_dim,
        "rope.dimension_count": model.head_dim, **model.keys,
    }  # fmt: skip
    fields |= {prefix + key: _field(value) for key, value in more.items()}
    fields[f"{prefix}block_count"] = _field(n_layer)
    fields["general.architecture"] = Field.of(model.arch)
    rng = np.random.default_rng(0)
    specs = list(_specs(model, n_layer))
    write_gguf(path, fields, [(spec, blocks(spec, rng)) for spec in specs])
    return path


def _field(value: Any) -> Field:
    from tests.synth import u32

    return u32(value) if isinstance(value, int) else Field.of(value)


def _specs(model: Wide, n_layer: int) -> Iterator[TensorSpec]:
    s = model.shape
    d, n_q, n_kv = s.n_embd, s.n_head * model.head_dim, s.n_head_kv * model.head_dim
    lengths = {"d": d, "head": model.head_dim, "heads": s.n_head}
    yield TensorSpec("token_embd.weight", (d, s.n_vocab), model.base)
    yield TensorSpec("output_norm.weight", (d,), T.F32)
    if not model.is_tied:
        yield TensorSpec("output.weight", (d, s.n_vocab), T.Q6_K if d % 256 == 0 else T.Q8_0)
    planes = {"attn_q": (d, n_q), "attn_k": (d, n_kv), "attn_v": (d, n_kv),
              "attn_output": (n_q, d)}  # fmt: skip
    parts = {"gate": (d, s.n_ff), "up": (d, s.n_ff), "down": (s.n_ff, d)}
    if s.n_expert:
        planes["ffn_gate_inp"] = (d, s.n_expert)
    for i in range(n_layer):
        for name, plane in planes.items():
            type_ = T.F32 if name == "ffn_gate_inp" else model.base
            yield TensorSpec(f"blk.{i}.{name}.weight", plane, type_)
            if name in model.biases:
                yield TensorSpec(f"blk.{i}.{name}.bias", plane[1:], T.F32)
        for part, plane in parts.items():
            stem = f"blk.{i}.ffn_{part}"
            if not s.n_expert:
                yield TensorSpec(f"{stem}.weight", plane, model.experts)
                continue
            yield TensorSpec(f"{stem}_exps.weight", (*plane, s.n_expert), model.experts)
            if f"ffn_{part}_exps" in model.biases:
                yield TensorSpec(f"{stem}_exps.bias", (plane[1], s.n_expert), T.F32)
        for name, length in model.vectors.items():
            yield TensorSpec(f"blk.{i}.{name}", (lengths[length],), T.F32)
