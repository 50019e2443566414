"""Which type each tensor of a model gets: the mix of a file type, and what changes it.

Pure: takes names, shapes and types, returns types. Two families of mixes (see ``mixes``):

``llama.cpp``
    What ``llama-quantize`` gives a model today. More bits go where they help most: to the output,
    to values and down projections of the first, the last, and every third layer.
``card``
    What it gave eight-expert models in December 2023, and so what the catalog's files hold. Its
    rules looked for names of dense models and missed the experts: all of them keep the base type.

Source: llama_tensor_get_type, tensor_type_fallback, tensor_allows_quantization and
tensor_requires_imatrix in src/llama-quant.cpp of llama.cpp at ggml 0.25.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gguf_hub.errors import UsageError
from gguf_hub.gguf.types import WRITABLE_TYPES, FileType, QuantType
from gguf_hub.run.quants.mixes import BASE_TYPES, Mix, ModelShape, category_of, is_output

__all__ = ["BASE_TYPES", "ModelShape"]

Recipe = Literal["llama.cpp", "card"]
T, F = QuantType, FileType

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Names that mean one of several mixes."""

FLOATS = frozenset({T.F32, T.F16, T.BF16})
_SMALLER_BLOCKS = {
    T.Q2_K: T.Q4_0, T.Q3_K: T.Q4_0, T.Q4_K: T.Q5_0, T.Q5_K: T.Q5_1, T.Q6_K: T.Q8_0,
    T.TQ1_0: T.Q4_0, T.TQ2_0: T.Q4_0,
    T.IQ1_S: T.IQ4_NL, T.IQ1_M: T.IQ4_NL, T.IQ2_XXS: T.IQ4_NL, T.IQ2_XS: T.IQ4_NL,
    T.IQ2_S: T.IQ4_NL, T.IQ3_XXS: T.IQ4_NL, T.IQ3_S: T.IQ4_NL, T.IQ4_XS: T.IQ4_NL,
}  # fmt: skip
"""What rows that do not fill blocks of 256 get: blocks of 32, with a little more precision."""

_NEVER = (
    "_norm.weight", "ffn_gate_inp.weight", "altup", "laurel", "per_layer_model_proj", "ssm_conv1d",
    "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    "ffn_gate_tid2eid.weight", "attn_rel_b.weight", "position_embd", "token_types.weight",
    ".patch_embd", ".patch_merger", ".rel_pos",
)  # fmt: skip
"""Parts of names of small tensors that decide much: they stay as they are."""

NEEDING_IMATRIX = frozenset({T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS})
"""Types that are of no use without an importance matrix."""


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
class Wishes:
    """What a user wants other than the mix says.

    Attributes:
        is_pure: Give every tensor that may be quantised the base type.
        output: Type of ``output.weight``.
        embeddings: Type of the embeddings.
        leaves_output: Keep ``output.weight`` as it is.
        tensors: Patterns of names and the types of tensors in whose name they are found; the first
            one counts.
        by_name: Types of tensors by their whole names; these count before patterns.
    """

    is_pure: bool = False
    output: QuantType | None = None
    embeddings: QuantType | None = None
    leaves_output: bool = False
    tensors: tuple[tuple[re.Pattern[str], QuantType], ...] = ()
    by_name: Mapping[str, QuantType] = field(default_factory=dict)

    def type_of(self, name: str) -> QuantType | None:
        """Return the type of a name, or of the first pattern that is found in it."""
        if name in self.by_name:
            return self.by_name[name]
        return next((type for pattern, type in self.tensors if pattern.search(name)), None)


NO_WISHES = Wishes()


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


def parse_tensor_type(text: str, option: str) -> QuantType:
    """Return the tensor type that a name means, in any case.

    Args:
        text: The name.
        option: What it was given to, for the message.

    Raises:
        UsageError: There is no such type to write.
    """
    names = [type.name for type in sorted(WRITABLE_TYPES)]
    if text.upper() not in names:
        raise UsageError(
            f"`{option}`: `{text}` is not a tensor type", hint=f"one of {', '.join(names)}"
        )
    return T[text.upper()]


def choose_types(
    tensors: Sequence[Tensor],
    model: ModelShape,
    file_type: FileType,
    *,
    recipe: Recipe = "llama.cpp",
    wishes: Wishes = NO_WISHES,
    has_imatrix: bool = False,
) -> tuple[Choice, ...]:
    """Choose the type of every tensor.

    Args:
        tensors: All tensors of the new file, in its layout of experts.
        model: Its sizes.
        file_type: The mix.
        recipe: Whose mix.
        wishes: What is to be other than the mix says.
        has_imatrix: Whether an importance matrix is used: some mixes are others then.

    Raises:
        UsageError: The card's mix for a model without eight experts.
    """
    if recipe == "card" and model.n_expert != 8 and not wishes.is_pure:
        raise UsageError(
            f"the card's mixes are those of models with 8 experts: this one has {model.n_expert}",
            hint="`--recipe llama.cpp` has a mix for every model",
        )
    names = [tensor.name for tensor in tensors]
    quantisable = [t.name for t in tensors if is_quantisable(t)]
    is_tied = "output.weight" not in names
    mix = Mix(file_type, model, quantisable, has_imatrix=has_imatrix, is_tied=is_tied)
    rule = mix.card if recipe == "card" else mix.llama_cpp
    choices = []
    for tensor in tensors:
        is_left = wishes.leaves_output and tensor.name == "output.weight"
        if is_left or not is_quantisable(tensor):
            choices.append(Choice(tensor.name, tensor.type, tensor.type))
            continue
        mix_type = wished_type(tensor.name, wishes, is_tied=is_tied)
        if mix_type is None:
            is_plain = wishes.is_pure or mix.base in FLOATS
            mix_type = mix.base if is_plain else rule(tensor.name, tensor.shape)
        choices.append(Choice(tensor.name, fitting(mix_type, tensor.shape[0]), mix_type))
    return tuple(choices)


def wished_type(name: str, wishes: Wishes, *, is_tied: bool) -> QuantType | None:
    """Return the type that a user wants for a tensor, if any.

    Args:
        name: Of the tensor.
        wishes: What the user wants.
        is_tied: Whether the embeddings give the logits.
    """
    by_name = wishes.type_of(name)
    is_token_embd = category_of(name) == "token_embd"
    if is_token_embd and wishes.embeddings is not None:
        is_named = name == "per_layer_token_embd.weight" and by_name is not None
        return by_name if is_named else wishes.embeddings
    if wishes.output is not None and name == "output.weight":
        return wishes.output
    if by_name is not None:
        return by_name
    return wishes.output if is_output(name, is_tied=is_tied) else None


def needs_imatrix(name: str, type: QuantType, file_type: FileType) -> bool:
    """Return whether a tensor in a type is of no use without an importance matrix."""
    if category_of(name) in ("token_embd", "output"):
        return False
    is_smallest = type is T.Q2_K and file_type.name == "Q2_K_S"
    return type in NEEDING_IMATRIX or is_smallest


def is_quantisable(tensor: Tensor) -> bool:
    """Return whether a tensor's type may change: matrices, except norms, routers and the like."""
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
