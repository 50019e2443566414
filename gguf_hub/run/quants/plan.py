"""The plan of quantising a file: each tensor's new type and where its weights lie.

Reads the header alone. ``quants.quantize`` carries a plan out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Literal

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf.copying import FileRange
from gguf_hub.gguf.experts import layout as layout_of
from gguf_hub.gguf.format import Field, TensorSpec, ValueType, count_elements, tensor_size_bytes
from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.gguf.rewrite import Rewrite
from gguf_hub.gguf.shards import SPLIT_KEYS, Gguf, open_gguf
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import RUNNABLE_TYPES, FileType, QuantType
from gguf_hub.gguf.upgrade import plan_upgrade
from gguf_hub.gguf.writer import plan_file
from gguf_hub.run.quants.recipes import FLOATS, Choice, ModelShape, Recipe, choose_types

Layout = Literal["split", "merged"]
ARCHITECTURES = ("llama",)
"""Architectures whose tensors the mixes know by name: Llama, Mistral and Mixtral."""

_FILE_TYPE, _VERSION = "general.file_type", "general.quantization_version"


@dataclass(frozen=True)
class Conversion:
    """One tensor of the new file.

    Attributes:
        spec: Its name, shape and new type.
        mix_type: Type by the mix; another one is used where rows do not fill its blocks.
        source_type: Type of the weights in the source.
        ranges: Their bytes in the source, complete rows each.
    """

    spec: TensorSpec
    mix_type: QuantType
    source_type: QuantType
    ranges: tuple[FileRange, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes in the new file."""
        return tensor_size_bytes(self.spec.shape, self.spec.type)

    @property
    def source_size_bytes(self) -> int:
        """Bytes in the source."""
        return tensor_size_bytes(self.spec.shape, self.source_type)

    @property
    def is_copied(self) -> bool:
        """Whether its bytes stay as they are."""
        return self.spec.type is self.source_type

    @property
    def is_fallback(self) -> bool:
        """Whether the row length forbade the type of the mix."""
        return self.spec.type is not self.mix_type


@dataclass(frozen=True)
class QuantizePlan:
    """A file that is to be written in other types.

    Attributes:
        source: The file that it is made from, or the first shard.
        source_bytes: Length of that, all shards together.
        file_type: The mix.
        fields: Its metadata.
        parts: Its tensors, in order.
        notes: Surprises for the user, one sentence each.
    """

    source: Path
    source_bytes: int
    file_type: FileType
    fields: dict[str, Field]
    parts: tuple[Conversion, ...]
    notes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Length of the new file."""
        return plan_file(self.fields, [part.spec for part in self.parts]).size_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data for one weight, over the whole file."""
        n_weights = sum(count_elements(part.spec.shape) for part in self.parts)
        return 8 * sum(part.size_bytes for part in self.parts) / max(1, n_weights)


def plan_quantize(
    source: Path | str,
    file_type: FileType,
    *,
    recipe: Recipe = "llama.cpp",
    layout: Layout | None = None,
    pure: bool = False,
    output_tensor_type: QuantType | None = None,
    requantize: bool = False,
) -> QuantizePlan:
    """Plan how a file is quantised.

    Args:
        source: A GGUF file, or any shard of a set.
        file_type: The mix to quantise to.
        recipe: Whose mix (see ``recipes``).
        layout: How to store experts; None keeps it.
        pure: Give every tensor that may be quantised the same type.
        output_tensor_type: For ``output.weight`` instead of what the mix says.
        requantize: Turn quantised tensors into types of no fewer bits, too.

    Raises:
        GgufError: The file is damaged, or its tensors hold fewer bits than they would get.
        UnsupportedGgufError: An unknown architecture, big-endian data, or types that this
            version cannot read.
        UsageError: The recipe has no mix for such a model.
    """
    file = open_gguf(source)
    if not pure:
        _check_architecture(file)
    if file.byte_order == "big":
        hint = f"`gguf-hub upgrade {quote(str(source))} OUT.gguf` makes it little-endian"
        raise UnsupportedGgufError(f"`{source}` is big-endian", path=source, hint=hint)
    source_layout: Layout = "split" if layout_of(file.tensors) == "split" else "merged"
    rewrite = plan_upgrade(source, layout or source_layout)
    choices = choose_types(
        [part.spec for part in rewrite.parts],
        _model_shape(file),
        file_type,
        recipe=recipe,
        pure=pure,
        output_tensor_type=output_tensor_type,
    )
    parts = tuple(
        Conversion(
            TensorSpec(part.spec.name, part.spec.shape, choice.type),
            choice.mix_type,
            part.spec.type,
            part.ranges,
        )
        for part, choice in zip(rewrite.parts, choices, strict=True)
    )
    _check_types(file, parts, requantize)
    notes = (*rewrite.changes, *_notes(choices, parts))
    fields = _fields(rewrite, file_type)
    return QuantizePlan(file.path, file.size_bytes, file_type, fields, parts, notes)


def _check_architecture(file: Gguf) -> None:
    """Refuse models whose tensors the mixes do not know."""
    name = file.hparams.architecture
    if name not in ARCHITECTURES:
        raise UnsupportedGgufError(
            f"`{file.path}`: no mix is known for architecture `{shown(name)}`, "
            f"only for {', '.join(ARCHITECTURES)}",
            path=file.path,
            hint="`--pure` gives all its matrices the same type",
        )


def _model_shape(file: Gguf) -> ModelShape:
    hparams = HyperParameters(file.fields, is_estimate=True)
    n_head = hparams.get(HyperParameters.n_head, 1)
    return ModelShape(
        n_layer=hparams.get(HyperParameters.n_layer, 0),
        n_head=n_head,
        n_head_kv=hparams.get(HyperParameters.n_head_kv, n_head),
        n_expert=hparams.n_expert,
    )


def _check_types(file: Gguf, parts: tuple[Conversion, ...], requantize: bool) -> None:
    """Refuse types that cannot be read, and requantising without gain."""
    changed = [part for part in parts if not part.is_copied]
    for part in changed:
        if part.source_type not in RUNNABLE_TYPES:
            raise UnsupportedGgufError(
                f"`{file.path}`: tensor `{shown(part.spec.name)}` is {part.source_type.name}, "
                "which this version cannot read",
                path=file.path,
                hint="quantise from a file with floats (F32, F16 or BF16)",
            )
    lossy = [part for part in changed if _is_pointless(part)]
    if lossy and not requantize:
        first, more = lossy[0], f" (and {len(lossy) - 1:,} more)" if len(lossy) > 1 else ""
        raise GgufError(
            f"`{file.path}`: tensor `{shown(first.spec.name)}`{more} is {first.source_type.name} "
            f"already: as {first.spec.type.name} it would be no smaller and no better",
            path=file.path,
            hint="quantise from a file with more bits; `--requantize` does it all the same",
        )


def _is_pointless(part: Conversion) -> bool:
    """Return whether quantised weights would get a type of as many bits or more."""
    bits = part.source_type.bits_per_weight
    return part.source_type not in FLOATS and bits <= part.spec.type.bits_per_weight


def _notes(choices: tuple[Choice, ...], parts: tuple[Conversion, ...]) -> Iterator[str]:
    fallbacks = [choice for choice in choices if choice.is_fallback]
    if fallbacks:
        first = fallbacks[0]
        yield (
            f"{len(fallbacks):,} tensors have rows that do not fill the blocks of their type, and "
            f"get another: `{shown(first.name)}` is {first.type.name}, not {first.mix_type.name}"
        )
    requantised = [p for p in parts if not p.is_copied and p.source_type not in FLOATS]
    if requantised:
        kinds = ", ".join(sorted({part.source_type.name for part in requantised}))
        yield f"{len(requantised):,} tensors were quantised before ({kinds}): their errors add up"
    if layout_of(part.spec.name for part in parts) == "split":
        yield "one tensor for each expert: llama.cpp since October 2024 wants `--layout merged`"


def _fields(rewrite: Rewrite, file_type: FileType) -> dict[str, Field]:
    fields = {key: field for key, field in rewrite.fields.items() if key not in SPLIT_KEYS}
    fields[_FILE_TYPE] = Field(ValueType.UINT32, int(file_type))
    fields[_VERSION] = Field(ValueType.UINT32, 2)  # that of all blocks since May 2023
    return fields
