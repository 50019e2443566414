"""From measured losses to the plan of a file of a given size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from gguf_hub.errors import GgufHubError
from gguf_hub.gguf.format import align
from gguf_hub.gguf.shards import open_gguf
from gguf_hub.gguf.types import FileType, QuantType
from gguf_hub.gguf.writer import plan_file
from gguf_hub.progress import SILENT, Progress
from gguf_hub.resources import limit_threads, usable_threads
from gguf_hub.run.allocation.errors import Errors, measure_errors
from gguf_hub.run.allocation.kept import Kept
from gguf_hub.run.allocation.knapsack import Option, allocate, smallest
from gguf_hub.run.allocation.sensitivity import (
    Prober,
    Sensitivity,
    Text,
    group_units,
    measure_groups,
    sensitivities,
)
from gguf_hub.run.allocation.units import Unit, find_units, unit_name
from gguf_hub.run.quants.imatrix import ImportanceMatrix
from gguf_hub.run.quants.mixes import BASE_TYPES
from gguf_hub.run.quants.plan import Conversion, Layout, QuantizePlan, plan_quantize
from gguf_hub.run.quants.recipes import NO_WISHES, Wishes
from gguf_hub.units import format_size

_FILE_TYPES = {type: file_type for file_type, type in reversed(BASE_TYPES.items())} | {
    QuantType.Q3_K: FileType.Q3_K_M,
    QuantType.Q4_K: FileType.Q4_K_M,
    QuantType.Q5_K: FileType.Q5_K_M,
}
"""What a file is called whose weights are mostly of a type."""


@dataclass(frozen=True)
class Allocation:
    """The types of a file.

    Attributes:
        types: Name of a unit -> its type.
        losses: Name of a unit -> what that costs.
        size_bytes: Of the file.
    """

    types: Mapping[str, QuantType]
    losses: Mapping[str, float]
    size_bytes: int

    @property
    def loss(self) -> float:
        """The sum: the expected KL divergence, in nats."""
        return sum(self.losses.values())


@dataclass(frozen=True)
class Allocator:
    """Allocates the bytes of a file; from ``open_allocator``.

    Attributes:
        source: The file, or any shard of a set.
        as_is: Its tensors, in its own layout of experts.
        own_units: What gets a type each, in that layout.
        units: The same in the layout of the new file.
        fixed_bytes: What the file has besides: header, norms, routers.
        alignment: Of tensors, in bytes.
        errors: Unit -> type -> relative error.
        sensitivities: Unit -> what errors cost there; of units that have a choice.
        wishes: What the user wants other than chosen.
        imatrix: What errors count for.
        layout: How to store experts; None keeps it.
        keeps_split: Write as many shards as the source has.
    """

    source: Path
    as_is: QuantizePlan
    own_units: tuple[Unit, ...]
    units: tuple[Unit, ...]
    fixed_bytes: int
    alignment: int
    errors: Errors = field(default_factory=dict)
    sensitivities: Mapping[str, Sensitivity] = field(default_factory=dict)
    wishes: Wishes = NO_WISHES
    imatrix: ImportanceMatrix | None = field(default=None, repr=False)
    layout: Layout | None = None
    keeps_split: bool = False

    @property
    def options(self) -> list[list[Option]]:
        """Size and loss of every type of every unit."""
        return [[self._option(unit, type) for type in unit.types] for unit in self.units]

    @property
    def smallest_bytes(self) -> int:
        """The smallest file."""
        sizes = (options[smallest(options)].size_bytes for options in self.options)
        return self.fixed_bytes + sum(sizes)

    @property
    def largest_bytes(self) -> int:
        """The file that loses least."""
        sizes = (min(o, key=lambda each: (each.loss, each.size_bytes)) for o in self.options)
        return self.fixed_bytes + sum(option.size_bytes for option in sizes)

    def measured(self, text: Text, *, n_threads: int = 0, progress: Progress = SILENT) -> Allocator:
        """Measure what each type costs each tensor; what was measured before is kept.

        Args:
            text: What the model reads to find out how much each tensor matters.
            n_threads: Threads that compute; 0 for one for each core this process may use.
            progress: Shows what is measured.

        Raises:
            GgufError: A weight is not finite, or the model cannot compute.
            UnsupportedGgufError: The model does not run here.
            DiskFullError: No space for a probe, which holds one group of tensors.
        """
        n_threads = limit_threads(n_threads, progress) or usable_threads()
        groups = group_units(self.own_units)
        with open_gguf(self.source) as file:
            kept = Kept.of(file, self.imatrix, text.chunks)
            measure_errors(self.own_units, file, self.imatrix, known=kept.errors, save=kept.save,
                           n_threads=n_threads, progress=progress)  # fmt: skip
        open_prober = partial(Prober, self.as_is, self.imatrix, text, n_threads=n_threads,
                              progress=progress)  # fmt: skip
        measure_groups(groups, open_prober, known=kept.probes, save=kept.save, progress=progress)
        found = sensitivities(groups, kept.probes, kept.errors)
        return replace(self, errors=kept.errors, sensitivities=found)

    def allocate(self, size_bytes: int) -> Allocation:
        """Return the types of least loss of a file of at most ``size_bytes``.

        Raises:
            GgufHubError: No file is that small.
        """
        options, smallest_bytes = self.options, self.smallest_bytes
        if size_bytes < smallest_bytes:
            raise GgufHubError(
                f"`{self.source}` cannot be made to measure for {format_size(size_bytes)}: the "
                f"smallest file of it has {format_size(smallest_bytes)}",
                hint="give it more room"
                + ("" if self.imatrix else ", or an importance matrix (`--imatrix`), which allows "
                   "smaller types"),
            )  # fmt: skip
        chosen = allocate(options, size_bytes - self.fixed_bytes)
        rows = list(zip(self.units, options, chosen, strict=True))
        return Allocation(
            {unit.name: unit.types[i] for unit, _, i in rows},
            {unit.name: own[i].loss for unit, own, i in rows},
            self.fixed_bytes + sum(own[i].size_bytes for _, own, i in rows),
        )

    def plan(self, allocation: Allocation) -> QuantizePlan:
        """Return the plan of a file with these types; see ``plan_quantize``."""
        types = allocation.types
        by_name = {p.spec.name: types[unit.name] for unit in self.units for p in unit.parts}
        return plan_quantize(
            self.source,
            self._file_type(allocation),
            layout=self.layout,
            wishes=replace(self.wishes, by_name=by_name),
            imatrix=self.imatrix,
            requantize=True,
            keeps_split=self.keeps_split,
        )

    def _option(self, unit: Unit, type: QuantType) -> Option:
        sensitivity, loss = self.sensitivities.get(unit.name), 0.0
        if sensitivity and unit.source_types != {type}:
            loss = sensitivity.loss(type, self.errors[unit.name][type])
        return Option(unit.size_bytes(type, self.alignment), loss)

    def _file_type(self, allocation: Allocation) -> FileType:
        """Return the mix that a file says it is: of the type that most weights have."""
        counts: Counter[QuantType] = Counter()
        for unit in self.units:
            counts[allocation.types[unit.name]] += unit.n_weights
        for type, _ in counts.most_common():
            if type in _FILE_TYPES:
                return _FILE_TYPES[type]
        return FileType.F16


def open_allocator(
    source: Path,
    *,
    layout: Layout | None = None,
    keeps_split: bool = False,
    wishes: Wishes = NO_WISHES,
    imatrix: ImportanceMatrix | None = None,
) -> Allocator:
    """Find what can be chosen in a file; nothing is measured yet, so all losses are 0.

    Args:
        source: A GGUF file, or any shard of a set.
        layout: How to store experts; None keeps it.
        keeps_split: Write as many shards as the source has.
        wishes: Types of some tensors.
        imatrix: What errors count for; IQ1, IQ2 and IQ3_XXS are chosen with one only.

    Raises:
        GgufError: The file is damaged, or the matrix is that of another model.
        UnsupportedGgufError: Something that cannot be quantised.
    """
    as_is = plan_quantize(source, FileType.F16, requantize=True)
    own_units = find_units(as_is.parts, wishes, imatrix)
    plan = plan_quantize(source, FileType.F16, layout=layout, imatrix=imatrix, requantize=True,
                         keeps_split=keeps_split)  # fmt: skip
    units, fixed_bytes, alignment = _laid_out(plan, own_units)
    return Allocator(
        source=source,
        as_is=as_is,
        own_units=own_units,
        units=units,
        fixed_bytes=fixed_bytes,
        alignment=alignment,
        wishes=wishes,
        imatrix=imatrix,
        layout=layout,
        keeps_split=keeps_split,
    )


def _laid_out(plan: QuantizePlan, units: Sequence[Unit]) -> tuple[tuple[Unit, ...], int, int]:
    """Return units in the layout of the new file, what it has besides, and its alignment."""
    parts = {part.spec.name: part for part in plan.parts}
    groups: dict[str, list[Conversion]] = {}
    for name, part in parts.items():
        groups.setdefault(unit_name(name), []).append(part)
    units = tuple(replace(unit, parts=tuple(groups[unit.name])) for unit in units)
    alignment = plan_file(plan.fields, []).alignment
    sizes = (align(part.size_bytes, alignment) for unit in units for part in unit.parts)
    return units, plan.size_bytes - sum(sizes), alignment
