"""Which kernels a model needs, before it is run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gguf_hub.gguf.arch.graph import LayerGraph
from gguf_hub.gguf.memory.layout import N_BATCH, Limits
from gguf_hub.gguf.shards import Gguf
from gguf_hub.gguf.types import FileType, QuantType
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.config import ModelConfig
from gguf_hub.run.model.residency import is_advisable
from gguf_hub.run.model.rope import RopeConfig
from gguf_hub.run.model.weights import Experts, Layer, Matrix, Weights, read_model
from gguf_hub.run.quants.recipes import ModelShape, choose_types

CacheTypes = tuple[str, str]
"""Types of keys and values in the cache."""

_MIXTRAL = ModelConfig(
    name="mixtral",
    n_vocab=32000,
    n_ctx_train=32768,
    n_layer=1,
    n_embd=4096,
    n_head=32,
    n_head_kv=8,
    head_dim=128,
    n_ff=14336,
    n_expert=8,
    n_expert_used=2,
    epsilon=1e-5,
    rope=RopeConfig(n_rot=128, freq_base=1e6),
)


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, int]
    type: QuantType = QuantType.F16


def kernels_of_file(file: Gguf, cache_types: CacheTypes = ("F16", "F16")) -> list[str]:
    """Return the kernels that a file needs.

    Raises:
        UnsupportedGgufError: Not a model that runs here.
    """
    return _kernels(*read_model(file), cache_types)


def kernels_of_card(file_type: FileType, cache_types: CacheTypes = ("F16", "F16")) -> list[str]:
    """Return the kernels that a Mixtral of the catalog needs; the file need not exist."""
    return _kernels(_MIXTRAL, _card_weights(file_type), cache_types)


def _kernels(config: ModelConfig, weights: Weights, cache_types: CacheTypes) -> list[str]:
    key_type, value_type = cache_types
    n_batch = min(N_BATCH, config.n_ctx_train)
    limits = Limits(
        config.n_ctx_train,
        n_batch,
        n_outputs=1,
        n_threads=1,
        n_slots=2,  # with what several texts at once need besides
        key_type=key_type,
        value_type=value_type,
        prefetch_experts=is_advisable(),  # as for a file larger than memory
    )
    return ProgramBuilder(config, weights, limits).build().kernels


def _card_weights(file_type: FileType) -> Weights:
    """Return the matrices of a Mixtral of one layer in the types of the card's mix."""
    d, d_kv, n_ff, n_expert = 4096, 1024, 14336, 8
    shapes = {
        "token_embd": (d, 32000),
        "output": (d, 32000),
        "blk.0.attn_q": (d, d),
        "blk.0.attn_k": (d, d_kv),
        "blk.0.attn_v": (d, d_kv),
        "blk.0.attn_output": (d, d),
        "blk.0.ffn_gate_inp": (d, n_expert),
    }
    for e in range(n_expert):
        for part, shape in (("gate", (d, n_ff)), ("up", (d, n_ff)), ("down", (n_ff, d))):
            shapes[f"blk.0.ffn_{part}.{e}"] = shape
    tensors = [_Tensor(f"{name}.weight", shape) for name, shape in shapes.items()]
    model = ModelShape(n_layer=1, n_head=32, n_head_kv=8, n_expert=n_expert)
    choices = choose_types(tensors, model, file_type, recipe="card")
    matrices = {
        choice.name.removesuffix(".weight"): Matrix(choice.type, 0, *tensor.shape)
        for choice, tensor in zip(choices, tensors, strict=True)
    }

    def experts(part: str) -> Experts:
        return Experts(tuple(matrices[f"blk.0.ffn_{part}.{e}"] for e in range(n_expert)))

    norm = np.ones(d, np.float32)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp")
    layer = Layer(
        LayerGraph(**vars(_MIXTRAL.layer_sizes[0]), has_experts=True),
        vectors={"attn_norm.weight": norm, "ffn_norm.weight": norm},
        matrices={name: matrices[f"blk.0.{name}"] for name in names},
        experts={part: experts(part) for part in ("gate", "up", "down")},
    )
    return Weights(matrices["token_embd"], (layer,), {"output_norm.weight": norm},
                   matrices["output"], {})  # fmt: skip
