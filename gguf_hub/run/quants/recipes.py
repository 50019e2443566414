"""Which type each tensor of a model gets: the mixes behind names such as ``Q4_K_M``.

Pure: takes names, shapes and types, returns types. Two families of mixes:

``llama.cpp``
    What ``llama-quantize`` gives a llama-family model today. More bits go where they help most: to
    the output, to values and down projections of the first, the last, and every third layer.
``card``
    What it gave eight-expert models in December 2023, and so what the catalog's files hold. Its
    rules looked for names of dense models and missed the experts: all of them keep the base type.

Source: llama_tensor_get_type_impl, tensor_type_fallback and tensor_allows_quantization in
src/llama-quant.cpp of llama.cpp (ggml commit c2cdd2b2); get_k_quant_type in llama.cpp at commit
948ff13.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gguf_hub.errors import UsageError
from gguf_hub.gguf.types import FileType, QuantType

Recipe = Literal["llama.cpp", "card"]
T, F = QuantType, FileType

BASE_TYPES: dict[FileType, QuantType] = {
    F.F32: T.F32, F.F16: T.F16, F.BF16: T.BF16, F.Q8_0: T.Q8_0,
    F.Q4_0: T.Q4_0, F.Q4_1: T.Q4_1, F.Q5_0: T.Q5_0, F.Q5_1: T.Q5_1,
    F.Q2_K: T.Q2_K, F.Q3_K_S: T.Q3_K, F.Q3_K_M: T.Q3_K, F.Q3_K_L: T.Q3_K,
    F.Q4_K_S: T.Q4_K, F.Q4_K_M: T.Q4_K, F.Q5_K_S: T.Q5_K, F.Q5_K_M: T.Q5_K, F.Q6_K: T.Q6_K,
}  # fmt: skip
"""The type that most tensors of a file get."""

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Names that mean one of several mixes."""

FLOATS = frozenset({T.F32, T.F16, T.BF16})
_SMALLER_BLOCKS = {T.Q2_K: T.Q4_0, T.Q3_K: T.Q4_0, T.Q4_K: T.Q5_0, T.Q5_K: T.Q5_1, T.Q6_K: T.Q8_0}
"""What rows that do not fill blocks of 256 get: blocks of 32, with a little more precision."""

_NEVER = ("_norm.weight", "ffn_gate_inp.weight")
"""Parts of names of small tensors that decide much: they stay as they are."""
_LAYER = re.compile(r"blk\.(\d{1,6})\.")


class Tensor(Protocol):
    """What has a tensor's name, shape and type."""

    @property
    def name(self) -> str:
        """Name in the file."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """GGUF's ``ne``: shape[0] is the row length."""
        ...

    @property
    def type(self) -> QuantType:
        """Type in the source."""
        ...


@dataclass(frozen=True)
class ModelShape:
    """Sizes that the mixes depend on, besides names.

    Attributes:
        n_layer: Layers.
        n_head: Query heads of a layer.
        n_head_kv: Key and value heads of a layer.
        n_expert: Experts of a layer; 0 for dense models.
    """

    n_layer: int
    n_head: int
    n_head_kv: int
    n_expert: int = 0


@dataclass(frozen=True)
class Choice:
    """The type that one tensor gets.

    Attributes:
        name: Of the tensor.
        type: Its type in the new file.
        mix_type: Type by the mix; differs from ``type`` where rows do not fill its blocks.
    """

    name: str
    type: QuantType
    mix_type: QuantType

    @property
    def is_fallback(self) -> bool:
        """Whether the row length forbade the type of the mix."""
        return self.type is not self.mix_type


def parse_file_type(text: str) -> FileType:
    """Return the file type that a name means, in any case: ``q4_k_m``, ``Q4_K`` (= ``Q4_K_M``).

    Raises:
        UsageError: There is no such type.
    """
    name = ALIASES.get(text.upper(), text.upper())
    if name not in F.__members__:
        raise UsageError(
            f"`{text}` is not a type to quantise to", hint=f"one of {', '.join(F.__members__)}"
        )
    return F[name]


def choose_types(
    tensors: Sequence[Tensor],
    model: ModelShape,
    file_type: FileType,
    *,
    recipe: Recipe = "llama.cpp",
    pure: bool = False,
    output_tensor_type: QuantType | None = None,
) -> tuple[Choice, ...]:
    """Choose the type of every tensor.

    Args:
        tensors: All tensors of the new file, in its layout of experts.
        model: Its sizes.
        file_type: The mix.
        recipe: Whose mix.
        pure: Give every tensor that may be quantised the base type.
        output_tensor_type: For ``output.weight`` instead of what the mix says.

    Raises:
        UsageError: The card's mix for a model without eight experts.
    """
    if recipe == "card" and model.n_expert != 8 and not pure:
        raise UsageError(
            f"the card's mixes are those of models with 8 experts: this one has {model.n_expert}",
            hint="`--recipe llama.cpp` has a mix for every model",
        )
    base = BASE_TYPES[file_type]
    mix = _Mix(file_type, model, [tensor.name for tensor in tensors])
    rule = mix.card if recipe == "card" else mix.llama_cpp
    choices = []
    for tensor in tensors:
        if not is_quantisable(tensor):
            choices.append(Choice(tensor.name, tensor.type, tensor.type))
            continue
        mix_type = base if pure or base in FLOATS else rule(tensor.name, tensor.shape[0])
        if output_tensor_type is not None and mix.is_output(tensor.name):
            mix_type = output_tensor_type
        choices.append(Choice(tensor.name, fitting(mix_type, tensor.shape[0]), mix_type))
    return tuple(choices)


def is_quantisable(tensor: Tensor) -> bool:
    """Return whether a tensor's type may change: matrices, except norms and routers."""
    n_dims = len(tensor.shape)
    while n_dims > 1 and tensor.shape[n_dims - 1] == 1:
        n_dims -= 1
    is_matrix = n_dims > 1 and tensor.name.endswith("weight")
    return is_matrix and not any(part in tensor.name for part in _NEVER)


def fitting(mix_type: QuantType, row_length: int) -> QuantType:
    """Return ``mix_type``, or a type whose blocks the row fills: at last F16, which fits any."""
    if row_length % mix_type.block_size == 0:
        return mix_type
    smaller = _SMALLER_BLOCKS.get(mix_type, mix_type)
    return smaller if row_length % smaller.block_size == 0 else T.F16


def _layer_of(name: str) -> int:
    """Return the layer that a tensor's name says; -1 for none."""
    match = _LAYER.match(name)
    return int(match[1]) if match else -1


def _has_more_bits(layer: int, n_layer: int) -> bool:
    """Return whether a layer is one of the first or last eighth, or every third in between."""
    first = n_layer // 8
    return layer < first or layer >= 7 * n_layer // 8 or (layer - first) % 3 == 2


class _Mix:
    def __init__(self, file_type: FileType, model: ModelShape, names: Iterable[str]) -> None:
        names = list(names)
        self.file_type = file_type
        self.base = BASE_TYPES[file_type]
        self.model = model
        self.is_tied = "output.weight" not in names
        layers = {_layer_of(name) for name in names if "attn_v.weight" in name}
        self.value_ranks = {layer: rank for rank, layer in enumerate(sorted(layers))}

    def is_output(self, name: str) -> bool:
        """Return whether a tensor gives the logits: the embeddings do where they are shared."""
        return name == "output.weight" or (self.is_tied and name == "token_embd.weight")

    def output(self, row_length: int) -> QuantType:
        """Return the type of the output matrix: it touches every token's probability."""
        if row_length % self.base.block_size:
            return T.Q8_0
        return T.Q8_0 if self.base is T.Q8_0 else T.Q6_K

    def card(self, name: str, row_length: int) -> QuantType:
        """Return a tensor's type in the files of December 2023 (eight experts)."""
        if self.is_output(name):
            return self.output(row_length)
        if "attn_k.weight" in name or "attn_v.weight" in name:
            return T.Q8_0
        if "attn_output.weight" in name:
            raised_types = {F.Q2_K: T.Q3_K, F.Q3_K_M: T.Q4_K, F.Q3_K_L: T.Q5_K}
            return raised_types.get(self.file_type, self.base)
        return self.base

    def llama_cpp(self, name: str, row_length: int) -> QuantType:
        """Return a tensor's type in today's mixes."""
        if self.is_output(name):
            return self.output(row_length)
        rules: tuple[tuple[str, Callable[[int], QuantType]], ...] = (
            ("attn_v.weight", self._values),
            ("attn_k.weight", self._keys),
            ("attn_output.weight", self._attention_output),
            ("ffn_down", self._down),
        )
        for part, rule in rules:
            if part in name:
                return rule(_layer_of(name))
        return self.base

    def _values(self, layer: int) -> QuantType:
        """Values: small matrices where heads share them, and sensitive ones."""
        model, rank = self.model, self.value_ranks.get(layer, 0)
        if model.n_expert == 8:
            return T.Q8_0
        type = self.base
        if self.file_type is F.Q2_K:
            type = T.Q4_K if model.n_head >= 4 * max(1, model.n_head_kv) else T.Q3_K
        elif self.file_type is F.Q3_K_M:
            type = T.Q5_K if rank < 2 else T.Q4_K
        elif self.file_type is F.Q3_K_L:
            type = T.Q5_K
        elif self.file_type in (F.Q4_K_M, F.Q5_K_M):
            type = T.Q6_K if _has_more_bits(rank, len(self.value_ranks)) else self.base
        elif self.file_type is F.Q4_K_S:
            type = T.Q5_K if rank < 4 else self.base
        is_70b = model.n_layer == 80 and model.n_expert == 0
        return T.Q5_K if is_70b and type in (T.Q3_K, T.Q4_K) else type

    def _keys(self, layer: int) -> QuantType:
        """Keys: with eight experts Q8_0 costs next to nothing."""
        return T.Q8_0 if self.model.n_expert == 8 else self.base

    def _attention_output(self, layer: int) -> QuantType:
        if self.model.n_expert == 8:
            raised_mixes = (F.Q2_K, F.Q3_K_S, F.Q3_K_M, F.Q4_K_S, F.Q4_K_M)
            return T.Q5_K if self.file_type in raised_mixes else self.base
        raised_types = {F.Q2_K: T.Q3_K, F.Q3_K_M: T.Q4_K, F.Q3_K_L: T.Q5_K}
        return raised_types.get(self.file_type, self.base)

    def _down(self, layer: int) -> QuantType:
        n_layer = self.model.n_layer
        if self.file_type is F.Q2_K:
            return T.Q3_K
        if self.file_type is F.Q3_K_M:
            return T.Q5_K if layer < n_layer // 16 else T.Q4_K
        if self.file_type is F.Q3_K_L:
            return T.Q5_K
        if self.file_type in (F.Q4_K_M, F.Q5_K_M):
            return T.Q6_K if _has_more_bits(layer, n_layer) else self.base
        if self.file_type is F.Q4_K_S:
            return T.Q5_K if layer < n_layer // 8 else self.base
        return self.base
