"""The mixes behind names such as ``Q4_K_M``: which type suits a tensor, by its part of the graph.

Pure: takes names, sizes and types, returns types. ``recipes`` asks for each tensor in turn.

Source: llama_tensor_get_type_impl in src/llama-quant.cpp of llama.cpp at ggml 0.25.3;
get_k_quant_type in llama.cpp at commit 948ff13.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gguf_hub.gguf.experts import parse_split
from gguf_hub.gguf.types import FileType, QuantType

T, F = QuantType, FileType

BASE_TYPES: dict[FileType, QuantType] = {
    F.F32: T.F32, F.F16: T.F16, F.BF16: T.BF16, F.Q8_0: T.Q8_0,
    F.Q4_0: T.Q4_0, F.Q4_1: T.Q4_1, F.Q5_0: T.Q5_0, F.Q5_1: T.Q5_1,
    F.Q2_K: T.Q2_K, F.Q2_K_S: T.Q2_K, F.Q3_K_S: T.Q3_K, F.Q3_K_M: T.Q3_K, F.Q3_K_L: T.Q3_K,
    F.Q4_K_S: T.Q4_K, F.Q4_K_M: T.Q4_K, F.Q5_K_S: T.Q5_K, F.Q5_K_M: T.Q5_K, F.Q6_K: T.Q6_K,
    F.IQ4_NL: T.IQ4_NL, F.IQ4_XS: T.IQ4_XS, F.TQ1_0: T.TQ1_0, F.TQ2_0: T.TQ2_0,
    F.MXFP4_MOE: T.MXFP4,
    F.IQ1_S: T.IQ1_S, F.IQ1_M: T.IQ1_M,
    F.IQ3_XXS: T.IQ3_XXS, F.IQ3_XS: T.IQ3_S, F.IQ3_S: T.IQ3_S, F.IQ3_M: T.IQ3_S,
    F.IQ2_XXS: T.IQ2_XXS, F.IQ2_XS: T.IQ2_XS, F.IQ2_S: T.IQ2_XS, F.IQ2_M: T.IQ2_S,
}  # fmt: skip
"""The type that most tensors of a file get."""

_TINY = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
"""Mixes of less than three bits."""
_LAYER = re.compile(r"blk\.(\d{1,6})\.")
_SEVENTY_B = {"llama": True, "qwen2": False}
"""Architectures whose models of 80 layers are 70B -> only where heads share values."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes that the mixes depend on, besides names.

    Attributes:
        n_layer: Layers.
        n_head: Query heads of the first layer.
        n_head_kv: Key and value heads of the first layer; 0 where it has a state instead.
        n_expert: Experts of a layer; 0 for dense models.
        architecture: Its name.
    """

    n_layer: int
    n_head: int
    n_head_kv: int
    n_expert: int = 0
    architecture: str = "llama"

    @property
    def n_gqa(self) -> int:
        """Query heads that share a value head."""
        return self.n_head // self.n_head_kv if self.n_head_kv else 0

    @property
    def is_70b(self) -> bool:
        """Whether values are so small beside the rest that bits cost nothing there."""
        shares = _SEVENTY_B.get(self.architecture)
        is_shared = self.n_head != self.n_head_kv
        return self.n_layer == 80 and shares is not None and (is_shared or not shares)


def category_of(name: str) -> str:
    """Return which part of a graph a tensor is, as the mixes tell them apart; "" for others."""
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "token_embd"
    parts = ("attn_qkv", "attn_kv_b", "attn_v", "attn_k", "attn_q", "attn_output")
    found = next((part for part in parts if f"{part}.weight" in name), None)
    return found or next((part for part in ("ffn_up", "ffn_gate", "ffn_down") if part in name), "")


def is_output(name: str, *, is_tied: bool) -> bool:
    """Return whether a tensor gives the logits: the embeddings do where they are shared."""
    category = category_of(name)
    return category == "output" or (is_tied and category == "token_embd")


def layer_of(name: str) -> int:
    """Return the layer that a tensor's name says; -1 for none."""
    match = _LAYER.match(name)
    return int(match[1]) if match else -1


def _has_more_bits(layer: int, n_layer: int) -> bool:
    """Return whether a layer is one of the first or last eighth, or every third in between."""
    first = n_layer // 8
    return layer < first or layer >= 7 * n_layer // 8 or (layer - first) % 3 == 2


_VALUES = ("attn_v", "attn_qkv", "attn_kv_b")


class Mix:
    """The mix of a file type for one model.

    Args:
        file_type: The file type.
        model: Sizes of the model.
        names: Names of all tensors that may be quantised.
        has_imatrix: Whether an importance matrix is used.
        is_tied: Whether the embeddings give the logits.
    """

    def __init__(
        self, file_type: FileType, model: ModelShape, names: Iterable[str], *,
        has_imatrix: bool = False, is_tied: bool = False,
    ) -> None:  # fmt: skip
        self.file_type, self.base = file_type, BASE_TYPES[file_type]
        self.model, self.has_imatrix, self.is_tied = model, has_imatrix, is_tied
        self._name = file_type.name
        self._ranks = _ranks([_merged(name) for name in names])
        self._n_values = len(
            {_merged(name) for name in names if category_of(_merged(name)) in _VALUES}
        )

    def is_output(self, name: str) -> bool:
        """Return whether a tensor gives the logits."""
        return is_output(name, is_tied=self.is_tied)

    def card(self, name: str, shape: tuple[int, ...]) -> QuantType:
        """Return a tensor's type in the files of December 2023 (eight experts)."""
        if self.is_output(name):
            return self._output(shape[0])
        category = category_of(name)
        if category in ("attn_k", "attn_v"):
            return T.Q8_0
        if category == "attn_output":
            raised_types = {F.Q2_K: T.Q3_K, F.Q3_K_M: T.Q4_K, F.Q3_K_L: T.Q5_K}
            return raised_types.get(self.file_type, self.base)
        return self.base

    def llama_cpp(self, name: str, shape: tuple[int, ...]) -> QuantType:
        """Return a tensor's type in today's mixes."""
        category = category_of(name)
        if self.is_output(name):
            return self._output(shape[0])
        if self._name == "MXFP4_MOE":
            has_experts = (len(shape) > 2 and shape[2] > 1) or parse_split(name)
            return T.MXFP4 if has_experts else T.Q8_0
        if category == "token_embd":
            return self._embeddings()
        rank = self._ranks.get(_merged(name), 0)
        if self._name in _TINY:
            return self._tiny(category, rank)
        layer = layer_of(name) if self.model.n_expert > 1 else rank
        rules: dict[str, Callable[[int], QuantType]] = {
            **dict.fromkeys(_VALUES, self._values),
            "attn_k": self._keys,
            "attn_q": self._queries,
            "attn_output": self._attention_output,
            "ffn_down": self._down,
            "ffn_gate": self._gate_or_up,
            "ffn_up": self._gate_or_up,
        }
        rule = rules.get(category)
        if rule is None:
            return self.base
        return rule(rank if category in _VALUES else layer)

    def _output(self, row_length: int) -> QuantType:
        """Return the type of the output matrix: it touches every token's probability."""
        if self._name == "MXFP4_MOE" or row_length % self.base.block_size:
            return T.Q8_0
        if self._name in _TINY or self._name == "IQ3_XXS":
            return T.Q5_K
        return T.Q8_0 if self.base is T.Q8_0 else T.Q6_K

    def _embeddings(self) -> QuantType:
        types = {
            **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"), T.Q2_K),
            **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), T.IQ3_S),
            **dict.fromkeys(("TQ1_0", "TQ2_0"), T.Q4_K),
        }
        return types.get(self._name, self.base)

    def _tiny(self, category: str, rank: int) -> QuantType:
        """Mixes of less than three bits: some parts get more at any price."""
        model, is_larger = self.model, self._name in ("IQ2_S", "IQ2_M")
        more = T.IQ3_S if is_larger else T.Q2_K
        if category in _VALUES:
            return T.Q4_K if model.n_gqa >= 4 or model.n_expert >= 4 else more
        if category == "attn_k" and model.n_expert == 8:
            return T.Q4_K
        if category == "ffn_down" and rank < model.n_layer // 8:
            return more
        if category == "attn_output":
            if model.n_expert == 8:
                return T.Q5_K
            if self._name in ("IQ1_S", "IQ1_M"):
                return T.IQ2_XXS
            return T.IQ3_S if is_larger else self.base
        return self.base

    def _values(self, rank: int) -> QuantType:
        """Values: small matrices where heads share them, and sensitive ones."""
        model, name, is_shared = self.model, self._name, self.model.n_gqa >= 4
        type = self.base
        if name == "Q2_K":
            type = T.Q4_K if is_shared else T.Q3_K
        elif name == "IQ3_XXS":
            type = T.Q4_K if is_shared else self.base if self.has_imatrix else T.IQ3_S
        elif (name in ("Q2_K_S", "IQ3_XS", "IQ3_S") and is_shared) or name == "IQ3_M":
            type = T.Q4_K
        elif name == "Q3_K_M":
            type = T.Q5_K if rank < 2 else T.Q4_K
        elif name == "Q3_K_L" or (name in ("IQ4_NL", "IQ4_XS") and is_shared):
            type = T.Q5_K
        elif name in ("Q4_K_M", "Q5_K_M") and _has_more_bits(rank, self._n_values):
            type = T.Q6_K
        elif name == "Q4_K_S" and rank < 4:
            type = T.Q5_K
        if model.is_70b and type in (T.Q3_K, T.Q4_K):
            type = T.Q5_K
        return T.Q8_0 if model.n_expert == 8 else type

    def _keys(self, layer: int) -> QuantType:
        """Keys: with eight experts Q8_0 costs next to nothing."""
        return T.Q8_0 if self.model.n_expert == 8 else self._queries(layer)

    def _queries(self, layer: int) -> QuantType:
        return {"IQ3_XS": T.IQ3_XXS, "IQ3_XXS": T.IQ2_S}.get(self._name, self.base)

    def _attention_output(self, layer: int) -> QuantType:
        if self.model.n_expert == 8:
            raised_mixes = ("Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S",
                            "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS")  # fmt: skip
            return T.Q5_K if self._name in raised_mixes else self.base
        raised_types = {"Q2_K": T.Q3_K, "IQ3_XXS": T.IQ3_S, "Q3_K_M": T.Q4_K, "Q3_K_L": T.Q5_K,
                        "IQ3_M": T.Q4_K}  # fmt: skip
        return raised_types.get(self._name, self.base)

    def _down(self, layer: int) -> QuantType:
        n_layer, name = self.model.n_layer, self._name
        is_early = layer < n_layer // 8
        has_more_bits = _has_more_bits(layer, n_layer)
        if name in ("Q2_K", "Q3_K_L"):
            return T.Q3_K if name == "Q2_K" else T.Q5_K
        if name == "Q3_K_M":
            return T.Q5_K if layer < n_layer // 16 else T.Q4_K
        if name == "IQ3_XXS" and not self.has_imatrix:
            return T.Q4_K if is_early else T.Q3_K
        if name == "IQ3_M":
            is_raised = is_early or (self.model.n_expert == 8 and has_more_bits)
            return T.Q4_K if is_raised else self.base
        if name in ("Q4_K_M", "Q5_K_M"):
            return T.Q6_K if has_more_bits else self.base
        if not is_early:
            return self.base
        early = {"Q2_K_S": T.Q4_K, "Q4_K_S": T.Q5_K}
        if self.has_imatrix:  # the first layers have weights that a scale alone does badly by
            early |= {"Q4_0": T.Q4_1, "Q5_0": T.Q5_1}
        else:
            early |= {"IQ4_NL": T.Q5_K, "IQ4_XS": T.Q5_K}
        return early.get(name, self.base)

    def _gate_or_up(self, layer: int) -> QuantType:
        n_layer = self.model.n_layer
        is_middle = n_layer // 8 <= layer < 7 * n_layer // 8
        return T.IQ3_XXS if self._name == "IQ3_XS" and is_middle else self.base


def _merged(name: str) -> str:
    """Return a tensor's name where experts are merged."""
    expert = parse_split(name)
    return expert.merged_name if expert else name


def _ranks(names: Iterable[str]) -> dict[str, int]:
    """Return how many tensors of its category come before each, by layers and then by names."""
    counts: dict[str, int] = {}
    ranks = {}
    for name in sorted(set(names), key=lambda name: (layer_of(name), name)):
        category = category_of(name)
        category = "values" if category in _VALUES else category
        ranks[name] = counts.get(category, 0)
        counts[category] = ranks[name] + 1
    return ranks
