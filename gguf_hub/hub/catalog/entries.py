"""What a catalog holds, and how many bytes a model shape takes in a recipe of tensor types."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from gguf_hub.gguf.memory.sizes import ModelSizes
from gguf_hub.gguf.types import QuantType

Layout = Literal["split", "merged"]


@dataclass(frozen=True)
class ModelShape(ModelSizes):
    """Sizes of a model, and the positions that it was trained on."""

    n_ctx_train: int


@dataclass(frozen=True)
class Recipe:
    """The type of each kind of tensor; ``ffn`` is gate, up and down of every expert."""

    token_embd: QuantType
    attn_q: QuantType
    attn_k: QuantType
    attn_v: QuantType
    attn_output: QuantType
    ffn_gate_inp: QuantType | None
    ffn: QuantType
    norm: QuantType
    output: QuantType


@dataclass(frozen=True)
class Perplexity:
    """How surprised the file is by wiki text: lower is better, and who measured it."""

    value: float
    source: str
    is_estimated: bool
    note: str


@dataclass(frozen=True)
class CatalogFile:
    """One GGUF file.

    Attributes:
        size_bytes: As the model card gives it, so rounded; the hub knows the exact size.
        tensor_bytes: The exact bytes of all tensors; ``size_bytes`` where no recipe is given.
        max_ram_bytes: The card's "max RAM required", or None.
        is_recommended: The card recommends it.
        layout: One tensor per expert (``split``) or one for all (``merged``).
    """

    quant: str
    filename: str
    bits: int | None
    size_bytes: int
    tensor_bytes: int
    max_ram_bytes: int | None
    use_case: str
    is_recommended: bool
    recipe: Recipe | None
    layout: Layout
    perplexity: Perplexity | None


@dataclass(frozen=True)
class Catalog:
    """One repository and its files; ``path`` is where this was read from."""

    repo_id: str
    revision: str
    license: str
    languages: tuple[str, ...]
    base_model: str
    prompt_template: str
    notice: str
    architecture: ModelShape
    files: tuple[CatalogFile, ...]
    path: Path

    def find(self, quant: str) -> CatalogFile | None:
        """Return the file of that quant, in any case of letters, or None."""
        name = quant.casefold()
        return next((file for file in self.files if file.quant.casefold() == name), None)


@dataclass(frozen=True)
class TensorGroup:
    """Tensors of one role and one size: ``n_rows`` rows of ``row_length`` weights in each."""

    role: str
    n_tensors: int
    n_rows: int
    row_length: int

    @property
    def n_weights(self) -> int:
        """Weights of the whole group."""
        return self.n_tensors * self.n_rows * self.row_length

    def size_bytes(self, type_: QuantType) -> int:
        """Return the bytes of the whole group when its rows are of that type."""
        return self.n_tensors * self.n_rows * type_.row_bytes(self.row_length)


def tensor_groups(shape: ModelShape) -> tuple[TensorGroup, ...]:
    """Return every tensor of a llama-family model; the roles are the fields of ``Recipe``.

    E.g. ``ffn_gate`` has ``n_ff`` rows of ``n_embd`` weights: its ``ne`` is ``[n_embd, n_ff]``.

    Source: the tensors that llama.cpp at commit 948ff13 creates for LLM_ARCH_LLAMA.
    """
    n_layer, n_embd, n_ff = shape.n_layer, shape.n_embd, shape.n_ff
    n_q, n_kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    n_ffn = n_layer * max(1, shape.n_expert)
    groups = [
        TensorGroup("token_embd", 1, shape.n_vocab, n_embd),
        TensorGroup("attn_q", n_layer, n_q, n_embd),
        TensorGroup("attn_k", n_layer, n_kv, n_embd),
        TensorGroup("attn_v", n_layer, n_kv, n_embd),
        TensorGroup("attn_output", n_layer, n_embd, n_q),
        TensorGroup("ffn", 2 * n_ffn, n_ff, n_embd),  # gate and up
        TensorGroup("ffn", n_ffn, n_embd, n_ff),  # down
        TensorGroup("norm", 2 * n_layer + 1, 1, n_embd),
        TensorGroup("output", 1, shape.n_vocab, n_embd),
    ]
    if shape.n_expert:
        groups.append(TensorGroup("ffn_gate_inp", n_layer, shape.n_expert, n_embd))
    return tuple(groups)


def bytes_by_role(shape: ModelShape, recipe: Recipe) -> dict[str, int]:
    """Return role -> bytes of its tensors; their sum is the exact size of the tensor data.

    GGUF pads each tensor to 32 bytes; where rows are multiples of 256 weights, none needs it.
    """
    sizes = {field.name: 0 for field in fields(Recipe)}
    for group in tensor_groups(shape):
        sizes[group.role] += group.size_bytes(getattr(recipe, group.role))
    return sizes
