"""What gets one type: a matrix, or one of gate, up and down of all experts of a layer.

Experts of one layer share a type in either layout, so that a file with one tensor for each can be
merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gguf_hub.gguf.experts import parse_split
from gguf_hub.gguf.format import align, count_elements, tensor_size_bytes
from gguf_hub.gguf.types import WRITABLE_TYPES, QuantType
from gguf_hub.run.quants.imatrix import ImportanceMatrix
from gguf_hub.run.quants.plan import Conversion
from gguf_hub.run.quants.recipes import (
    FLOATS,
    NEEDING_IMATRIX,
    Wishes,
    fitting,
    is_quantisable,
    wished_type,
)

T = QuantType

TYPES = tuple(sorted(WRITABLE_TYPES - FLOATS - {T.TQ1_0, T.TQ2_0, T.MXFP4}))
"""What a unit may become. The others suit weights that were trained for them alone."""


@dataclass(frozen=True)
class Unit:
    """Tensors that get one type.

    Attributes:
        name: Of the tensor; of experts the merged one.
        parts: The tensors.
        types: What they may become, at least one.
    """

    name: str
    parts: tuple[Conversion, ...]
    types: tuple[QuantType, ...]

    @property
    def n_weights(self) -> int:
        """Weights of all tensors."""
        return sum(count_elements(part.spec.shape) for part in self.parts)

    @property
    def row_length(self) -> int:
        """Weights of a row."""
        return self.parts[0].spec.shape[0]

    @property
    def source_types(self) -> set[QuantType]:
        """What they are in the source."""
        return {part.source_type for part in self.parts}

    def size_bytes(self, type: QuantType, alignment: int) -> int:
        """Return what a type takes in a file, padding included."""
        return sum(
            align(tensor_size_bytes(part.spec.shape, type), alignment) for part in self.parts
        )


def unit_name(name: str) -> str:
    """Return the unit that a tensor belongs to."""
    expert = parse_split(name)
    return expert.merged_name if expert else name


def find_units(
    parts: Iterable[Conversion], wishes: Wishes, imatrix: ImportanceMatrix | None
) -> tuple[Unit, ...]:
    """Return the units of a model: of all tensors whose type may change.

    Args:
        parts: All tensors.
        wishes: What is to be of a certain type.
        imatrix: What there is of it; some types are of no use without.
    """
    parts = list(parts)
    groups: dict[str, list[Conversion]] = {}
    for part in parts:
        if is_quantisable(part.spec) and count_elements(part.spec.shape):
            groups.setdefault(unit_name(part.spec.name), []).append(part)
    is_tied = all(part.spec.name != "output.weight" for part in parts)
    return tuple(
        Unit(name, tuple(group), _types(group, wishes, imatrix, is_tied=is_tied))
        for name, group in groups.items()
    )


def _types(
    parts: Sequence[Conversion], wishes: Wishes, imatrix: ImportanceMatrix | None, *, is_tied: bool
) -> tuple[QuantType, ...]:
    """Return what tensors may become: what is wished, else all that is smaller, and what is."""
    name, row_length = parts[0].spec.name, parts[0].spec.shape[0]
    sources = {part.source_type for part in parts}
    as_is = tuple(sources) if len(sources) == 1 else ()
    if wishes.leaves_output and name == "output.weight" and as_is:
        return as_is
    wished = wished_type(name, wishes, is_tied=is_tied)
    if wished is not None:
        return (fitting(wished, row_length),)
    has_entries = imatrix is not None and all(
        imatrix.weights_of(part.spec.name, part.spec.shape) is not None for part in parts
    )
    bits = min(source.bits_per_weight for source in sources)
    smaller = tuple(
        type
        for type in (*TYPES, T.F16)
        if type.bits_per_weight < bits
        and row_length % type.block_size == 0
        and (has_entries or type not in NEEDING_IMATRIX)
    )
    return (*smaller, *as_is) or (T.F16,)
