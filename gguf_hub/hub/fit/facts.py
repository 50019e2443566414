"""What deciding needs to know of one file: its shape, and its tensors by role and type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from gguf_hub.gguf.types import COMMON_TYPES, RUNNABLE_TYPES, QuantType
from gguf_hub.hub.catalog import Catalog, CatalogFile, ModelShape, TensorGroup, tensor_groups
from gguf_hub.hub.fit.layers import LayerFacts, uniform_layers

Role = Literal[
    "token_embd", "attn", "attn_output", "router", "ffn", "ffn_down", "norm", "output", "other"
]
"""What reads a tensor: ``ffn`` is gate and up of the experts (or of a dense model), ``attn`` is q,
k and v, ``other`` is whatever every token reads besides (shared experts, dense first layers)."""

_MAX_OBSTACLES = 4
_EXPERT_ROLES = ("ffn", "ffn_down")


@dataclass(frozen=True)
class TensorShare:
    """All tensors of one role and one type; a type that is not known here is its bare id."""

    role: Role
    type: QuantType | int
    n_weights: int
    size_bytes: int


@dataclass(frozen=True)
class LayerWeights:
    """Bytes of one layer's weights, in the file and as they lie on a GPU.

    Attributes:
        dense_bytes: What every token reads.
        expert_bytes: The experts; 0 in a dense model.
        gpu_dense_bytes: The same on a GPU, see ``fit.offload``.
        gpu_expert_bytes: The same on a GPU.
    """

    dense_bytes: int = 0
    expert_bytes: int = 0
    gpu_dense_bytes: int = 0
    gpu_expert_bytes: int = 0


@dataclass(frozen=True)
class FileFacts:
    """One model file, or the shards of one model together.

    Attributes:
        quant: What the file is called: its quant, or its name where it names none.
        filenames: The file, or its shards in order; as the repository or the user names them.
        size_bytes: All files together, headers included.
        tensors: Shares by role and type; their sizes add up to all tensors.
        layers: One for each block, in order: what llama.cpp caches and computes in it.
        architecture: ``general.architecture``.
        layout: ``split`` (one tensor per expert), ``merged``, or ``none`` without experts.
        bits: The card's word for it; None where there is no card.
        are_parts_estimated: The sum is right, but its parts were split by count of weights.
        perplexity: Published for this very file, or None.
        obstacles: What keeps gguf-hub's own runner from computing it; empty when it can.
        weights: Of each layer; empty where all layers are taken for alike.
    """

    quant: str
    filenames: tuple[str, ...]
    size_bytes: int
    shape: ModelShape
    tensors: tuple[TensorShare, ...]
    layers: tuple[LayerFacts, ...]
    architecture: str = "llama"
    layout: str = "none"
    bits: int | None = None
    are_parts_estimated: bool = False
    perplexity: float | None = None
    is_perplexity_estimated: bool = False
    perplexity_note: str = ""
    is_recommended: bool = False
    obstacles: tuple[str, ...] = ()
    weights: tuple[LayerWeights, ...] = ()

    @property
    def filename(self) -> str:
        """The file, or the first shard."""
        return self.filenames[0]

    @cached_property
    def embedding_bytes(self) -> int:
        """The table of token embeddings: in memory, but a token reads one row of it."""
        return self._sum(share for share in self.tensors if share.role == "token_embd")

    @cached_property
    def expert_bytes(self) -> int:
        """The feed-forward tensors of all experts (of the one, in a dense model)."""
        return self._sum(share for share in self.tensors if share.role in _EXPERT_ROLES)

    @cached_property
    def dense_bytes(self) -> int:
        """What every token reads: attention, norms, router, output."""
        return self.weights_bytes - self.embedding_bytes - self.expert_bytes

    @cached_property
    def weights_bytes(self) -> int:
        """All tensors."""
        return self._sum(self.tensors)

    @cached_property
    def layer_weights(self) -> tuple[LayerWeights, ...]:
        """The weights of each layer; the outer tensors are those of none."""
        if self.weights:
            return self.weights
        n, experts = self.shape.n_layer, _EXPERT_ROLES if self.shape.n_expert else ()
        inner = [s for s in self.tensors if s.role not in ("token_embd", "output")]
        dense = [share for share in inner if share.role not in experts]
        routed = [share for share in inner if share.role in experts]
        layer = LayerWeights(
            self._sum(dense) // n,
            self._sum(routed) // n,
            sum(gpu_bytes(share.type, share.size_bytes) for share in dense) // n,
            sum(gpu_bytes(share.type, share.size_bytes) for share in routed) // n,
        )
        return (layer,) * n

    @cached_property
    def head_bytes(self) -> int:
        """The output matrix and its norm: what is neither of a layer nor looked up."""
        of_layers = sum(layer.dense_bytes + layer.expert_bytes for layer in self.layer_weights)
        return self.weights_bytes - self.embedding_bytes - of_layers

    @property
    def expert_share(self) -> float:
        """How much of the experts one token reads: 2 of 8 for Mixtral, 1 for a dense model."""
        shape = self.shape
        return shape.n_expert_used / shape.n_expert if shape.n_expert else 1.0

    @property
    def active_bytes(self) -> int:
        """Bytes of weights that one generated token reads: of the experts only those used."""
        return round(self.dense_bytes + self.expert_bytes * self.expert_share)

    @property
    def bits_per_weight(self) -> float:
        """Bits of storage for one weight over all tensors."""
        n_weights = sum(share.n_weights for share in self.tensors)
        return self.weights_bytes * 8 / n_weights if n_weights else 0.0

    @property
    def unrunnable(self) -> str:
        """Why gguf-hub's own runner cannot compute it; empty when it can."""
        more = len(self.obstacles) - _MAX_OBSTACLES
        listed = "; ".join(self.obstacles[:_MAX_OBSTACLES])
        return listed + (f"; and {more} more" if more > 0 else "")

    @cached_property
    def unknown(self) -> str:
        """Its unknown tensor types; empty for none."""
        ids = sorted({int(s.type) for s in self.tensors if not isinstance(s.type, QuantType)})
        return f"tensor type {', '.join(map(str, ids))}" if ids else ""

    @staticmethod
    def _sum(shares: Iterable[TensorShare]) -> int:
        return sum(share.size_bytes for share in shares)


T = QuantType
_PADDED = frozenset({
    T.Q3_K, T.IQ1_S, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S, T.TQ1_0, T.TQ2_0,
})  # fmt: skip
"""Types of which a field has no whole words, so that two bytes are added to each block."""


def gpu_bytes(type_: QuantType | int, size_bytes: int) -> int:
    """Return what weights take on a GPU: each field of a block lies in a plane of its own.

    Source: ``run.gpu.layouts``; a test holds both equal.
    """
    if not isinstance(type_, QuantType) or type_ not in _PADDED:
        return size_bytes
    return size_bytes // type_.type_size * (type_.type_size + 2)


# ---- from the catalog --------------------------------------------------------------------------

_ROLES: dict[str, Role] = {
    "token_embd": "token_embd",
    "attn_q": "attn",
    "attn_k": "attn",
    "attn_v": "attn",
    "attn_output": "attn_output",
    "ffn_gate_inp": "router",
    "ffn": "ffn",
    "norm": "norm",
    "output": "output",
}


def facts_from_catalog(catalog: Catalog, file: CatalogFile) -> FileFacts:
    """Return the facts of a catalog file.

    Without a recipe the parts are split by their count of weights, as if all had the same type.
    """
    perplexity = file.perplexity
    shape = catalog.architecture
    tensors = _by_recipe(shape, file) if file.recipe else _by_weights(shape, file)
    return FileFacts(
        quant=file.quant,
        filenames=(file.filename,),
        size_bytes=file.size_bytes,
        shape=shape,
        tensors=tensors,
        layers=uniform_layers(shape),
        layout=file.layout if shape.n_expert else "none",
        bits=file.bits,
        are_parts_estimated=file.recipe is None,
        perplexity=perplexity.value if perplexity else None,
        is_perplexity_estimated=bool(perplexity and perplexity.is_estimated),
        perplexity_note=perplexity.note if perplexity else "",
        is_recommended=file.is_recommended,
        obstacles=_types_in_the_way(tensors),
    )


def _types_in_the_way(shares: Iterable[TensorShare]) -> tuple[str, ...]:
    """Judge by types alone: a catalog says no more of a file, and all of its files are Mixtrals."""
    types = {share.type for share in shares if isinstance(share.type, QuantType)}
    return tuple(f"tensor type {type_.name}" for type_ in sorted(types - RUNNABLE_TYPES))


def _by_recipe(shape: ModelShape, file: CatalogFile) -> tuple[TensorShare, ...]:
    shares = []
    for role, group in _groups(shape):
        type_ = getattr(file.recipe, group.role)
        shares.append(TensorShare(role, type_, group.n_weights, group.size_bytes(type_)))
    return tuple(shares)


def _by_weights(shape: ModelShape, file: CatalogFile) -> tuple[TensorShare, ...]:
    """Split the bytes over the roles by their weights; the parts add up to the total."""
    groups = list(_groups(shape))
    n_weights = sum(group.n_weights for _, group in groups)
    type_ = QuantType.__members__.get(file.quant, _type_of_bits(file.tensor_bytes * 8 / n_weights))
    sizes = [file.tensor_bytes * group.n_weights // n_weights for _, group in groups]
    largest = sizes.index(max(sizes))
    sizes[largest] += file.tensor_bytes - sum(sizes)
    return tuple(
        TensorShare(role, type_, group.n_weights, size_bytes)
        for (role, group), size_bytes in zip(groups, sizes, strict=True)
    )


def _type_of_bits(bits_per_weight: float) -> QuantType:
    """The common type whose width is nearest: what a file of that size is mostly made of."""
    return min(COMMON_TYPES, key=lambda t: (abs(t.bits_per_weight - bits_per_weight), t))


def _groups(shape: ModelShape) -> Iterator[tuple[Role, TensorGroup]]:
    """Yield (role, group); of the two feed-forward groups the second is ``ffn_down``."""
    is_first = True
    for group in tensor_groups(shape):
        role = _ROLES[group.role]
        if role == "ffn":
            role, is_first = ("ffn" if is_first else "ffn_down"), False
        yield role, group
