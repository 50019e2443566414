"""The plan of quantising a file: each tensor's new type and where its weights lie.

Reads the header alone. ``quants.quantize`` carries a plan out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Literal

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf.arch import ARCHITECTURES as KNOWN_ARCHITECTURES
from gguf_hub.gguf.copying import FileRange
from gguf_hub.gguf.experts import layout as layout_of
from gguf_hub.gguf.format import Field, TensorSpec, ValueType, count_elements, tensor_size_bytes
from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.gguf.metadata import whole_number
from gguf_hub.gguf.rewrite import Part, Rewrite
from gguf_hub.gguf.shards import SPLIT_KEYS, Gguf, fields_of_shard, open_gguf
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import RUNNABLE_TYPES, FileType, QuantType
from gguf_hub.gguf.upgrade import plan_upgrade
from gguf_hub.gguf.writer import plan_file
from gguf_hub.run.kernels.quantize.encode_memory import WEIGHTED_TYPES
from gguf_hub.run.quants.imatrix import ImportanceMatrix, foreign_text
from gguf_hub.run.quants.mixes import category_of
from gguf_hub.run.quants.recipes import (
    FLOATS,
    NO_WISHES,
    Choice,
    ModelShape,
    Recipe,
    Wishes,
    choose_types,
    needs_imatrix,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Layout = Literal["split", "merged"]
_FILE_TYPE, _VERSION = "general.file_type", "general.quantization_version"


@dataclass(frozen=True)
class Conversion:
    """One tensor of the new file.

    Attributes:
        spec: Its name, shape and new type.
        mix_type: Type by the mix; another one is used where rows do not fill its blocks.
        source_type: Type of the weights in the source.
        ranges: Their bytes in the source, complete rows each.
        importance: What errors of each input count for, [matrices, inputs]; None for all alike.
        needs_imatrix: Whether its type is of no use without that.
    """

    spec: TensorSpec
    mix_type: QuantType
    source_type: QuantType
    ranges: tuple[FileRange, ...]
    importance: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    needs_imatrix: bool = False

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
        shards: Names of the files of the source if the new ones are to be like them; none for one
            file.
    """

    source: Path
    source_bytes: int
    file_type: FileType
    fields: dict[str, Field]
    parts: tuple[Conversion, ...]
    notes: tuple[str, ...]
    shards: tuple[Path, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Length of the new file, or of all shards together."""
        return sum(
            plan_file(fields, [part.spec for part in parts]).size_bytes
            for fields, parts in self.files
        )

    @property
    def files(self) -> list[tuple[dict[str, Field], tuple[Conversion, ...]]]:
        """Metadata and tensors of each file to write: a tensor stays in its shard, if there are."""
        if not self.shards:
            return [(self.fields, self.parts)]
        groups: dict[Path, list[Conversion]] = {path: [] for path in self.shards}
        for part in self.parts:
            path = part.ranges[0].path if part.ranges else self.shards[0]
            groups[path].append(part)
        count, n_tensors = len(self.shards), len(self.parts)
        return [
            (fields_of_shard(self.fields, no, count, n_tensors), tuple(parts))
            for no, parts in enumerate(groups.values())
        ]

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
    wishes: Wishes = NO_WISHES,
    imatrix: ImportanceMatrix | None = None,
    requantize: bool = False,
    keeps_split: bool = False,
) -> QuantizePlan:
    """Plan how a file is quantised.

    A plan whose tensors need an importance matrix and have none can be looked at, not carried out.

    Args:
        source: A GGUF file, or any shard of a set.
        file_type: The mix to quantise to.
        recipe: Whose mix (see ``recipes``).
        layout: How to store experts; None keeps it.
        wishes: What is to be other than the mix says.
        imatrix: What errors count for.
        requantize: Turn quantised tensors into types of no fewer bits, too.
        keeps_split: Write as many shards as the source has.

    Raises:
        GgufError: The file is damaged, its tensors hold fewer bits than they would get, or the
            importance matrix is that of another model.
        UnsupportedGgufError: An unknown architecture, big-endian data, or types that this
            version cannot read.
        UsageError: The recipe has no mix for such a model.
    """
    opened = open_gguf(source)
    if not wishes.is_pure:
        _check_architecture(opened)
    if opened.byte_order == "big":
        hint = f"`gguf-hub upgrade {quote(str(source))} OUT.gguf` makes it little-endian"
        raise UnsupportedGgufError(f"`{source}` is big-endian", path=source, hint=hint)
    source_layout: Layout = "split" if layout_of(opened.tensors) == "split" else "merged"
    rewrite = plan_upgrade(source, layout or source_layout)
    choices = choose_types(
        [part.spec for part in rewrite.parts],
        _model_shape(opened),
        file_type,
        recipe=recipe,
        wishes=wishes,
        has_imatrix=imatrix is not None,
    )
    parts = tuple(
        _conversion(part, choice, file_type, imatrix)
        for part, choice in zip(rewrite.parts, choices, strict=True)
    )
    _check_types(opened, parts, requantize)
    notes = [*rewrite.changes, *_notes(choices, parts)]
    if imatrix is not None:
        notes += _check_imatrix(opened, parts, imatrix)
    shards = tuple(shard.path for shard in opened.files)
    shards = shards if keeps_split and len(shards) > 1 else ()
    return QuantizePlan(
        opened.path,
        opened.size_bytes,
        file_type,
        _fields(rewrite, file_type, imatrix),
        parts,
        tuple(notes),
        shards,
    )


def _conversion(
    part: Part, choice: Choice, file_type: FileType, imatrix: ImportanceMatrix | None
) -> Conversion:
    is_changed = choice.type is not part.spec.type
    needs = is_changed and needs_imatrix(part.spec.name, choice.type, file_type)
    plain = Conversion(part.spec, part.spec.type, part.spec.type, part.ranges, needs_imatrix=needs)
    return replace(retyped(plain, choice.type, imatrix), mix_type=choice.mix_type)


def retyped(part: Conversion, type: QuantType, imatrix: ImportanceMatrix | None) -> Conversion:
    """Return a conversion to another type, with what the matrix says of its tensor."""
    spec, importance = TensorSpec(part.spec.name, part.spec.shape, type), None
    if imatrix is not None and type is not part.source_type and type in WEIGHTED_TYPES:
        importance = imatrix.weights_of(spec.name, spec.shape)
    return replace(part, spec=spec, mix_type=type, importance=importance)


def _check_imatrix(
    file: Gguf, parts: tuple[Conversion, ...], imatrix: ImportanceMatrix
) -> Iterator[str]:
    """Yield where an importance matrix and a model differ; refuse one of another model."""
    _, foreign = imatrix.of_model({part.spec.name: part.spec.shape for part in parts})
    if foreign:
        yield f"{foreign_text(foreign)} (`{imatrix.path}`)"
    able = [
        part
        for part in parts
        if not part.is_copied
        and part.spec.type in WEIGHTED_TYPES
        and category_of(part.spec.name) not in ("token_embd", "output")  # llama-imatrix: not these
    ]
    without = [part for part in able if part.importance is None]
    if able and len(without) == len(able):
        raise GgufError(
            f"`{imatrix.path}` has no entry of any tensor to be quantised, such as "
            f"`{shown(able[0].spec.name)}`",
            path=imatrix.path,
            hint=f"it is that of another model: `gguf-hub imatrix {quote(str(file.path))} --text "
            "FILE -o OUT` makes this model's",
        )
    if without:
        yield (
            f"{len(without):,} tensors have no entry in the importance matrix, e.g. "
            f"`{shown(without[0].spec.name)}`: their errors all count alike"
        )


def require_imatrix(plan: QuantizePlan) -> None:
    """Refuse a plan whose types are of no use without an importance matrix that it lacks.

    Raises:
        GgufError: Names the first such tensor.
    """
    lacking = [part for part in plan.parts if part.needs_imatrix and part.importance is None]
    if lacking:
        first, more = lacking[0], f" (and {len(lacking) - 1:,} more)" if len(lacking) > 1 else ""
        raise GgufError(
            f"tensor `{shown(first.spec.name)}`{more} would be {first.spec.type.name}, which is of "
            "no use without an importance matrix that has an entry of it",
            hint="`--imatrix FILE`; `gguf-hub imatrix MODEL --text FILE -o OUT` makes one",
        )


def _check_architecture(file: Gguf) -> None:
    """Refuse models whose tensors the mixes do not know."""
    name = file.hparams.architecture
    if name not in KNOWN_ARCHITECTURES:
        raise UnsupportedGgufError(
            f"`{file.path}`: no mix is known for architecture `{shown(name)}`",
            path=file.path,
            hint="`--pure` gives all its matrices the same type",
        )


def _model_shape(file: Gguf) -> ModelShape:
    hparams = HyperParameters(file.fields, is_estimate=True)
    n_head = _of_first_layer(file, HyperParameters.n_head.name, 1)
    return ModelShape(
        n_layer=hparams.get(HyperParameters.n_layer, 0),
        n_head=n_head,
        n_head_kv=_of_first_layer(file, HyperParameters.n_head_kv.name, n_head),
        n_expert=hparams.n_expert,
        architecture=file.hparams.architecture,
    )


def _of_first_layer(file: Gguf, key: str, default: int) -> int:
    """Return a number that may be given for each layer."""
    value = file.metadata.get(f"{file.hparams.architecture}.{key}", default)
    number = whole_number(value[0] if hasattr(value, "__len__") and len(value) else value)
    return default if number is None else number


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


def _fields(
    rewrite: Rewrite, file_type: FileType, imatrix: ImportanceMatrix | None
) -> dict[str, Field]:
    fields = {key: field for key, field in rewrite.fields.items() if key not in SPLIT_KEYS}
    fields[_FILE_TYPE] = Field(ValueType.UINT32, int(file_type))
    fields[_VERSION] = Field(ValueType.UINT32, 2)  # that of all blocks since May 2023
    if imatrix is None:
        return fields
    values: dict[str, str | int] = {"file": str(imatrix.path)}
    if imatrix.datasets:
        values["dataset"] = imatrix.datasets[0]
    values["entries_count"] = len(imatrix.entries)
    if imatrix.n_chunks:
        values["chunks_count"] = imatrix.n_chunks
    return fields | {f"quantize.imatrix.{key}": Field.of(value) for key, value in values.items()}
