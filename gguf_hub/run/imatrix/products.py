"""Where a program multiplies weights, and which activations enter there.

Pure: reads steps, computes nothing. A product says where its activations lie in the form that its
weights meet, which may be quantised; the floats that these were made of are what the step before
it read that quantised them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gguf_hub.gguf.experts import parse_split
from gguf_hub.gguf.memory.activations import ACTIVATION_OF
from gguf_hub.gguf.shards import Gguf
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.vm.ops import Step

_PRODUCTS = ("matmul", "expert_matmul", "head_matmul")
_BESIDE_PRODUCTS = (*_PRODUCTS, "prefetch_experts")
"""Steps that change nothing that a product reads."""
_OF_STREAMS = ("altup_proj.weight", "altup_unembd_proj.weight")
"""What has a matrix for each stream of rows; an importance matrix has nothing of it."""


@dataclass(frozen=True)
class Rows:
    """Rows of activations in ``f``.

    Attributes:
        x: Where the first begins.
        width: Floats of a row.
        count: Index in the header of ``n`` of how many there are, or of how many groups.
        per_row: Rows of a group: one for each head, or 1.
    """

    x: int
    width: int
    count: int
    per_row: int = 1


@dataclass(frozen=True)
class Choice:
    """Which rows enter which expert: those of its pairs of token and expert.

    Attributes:
        starts: Where in ``n`` the starts of the experts' pairs are, one more than experts.
        assignments: Where in ``n`` the pairs are.
        pairs_per_x: Pairs of one row.
        experts: Which of them the product is of.
    """

    starts: int
    assignments: int
    pairs_per_x: int
    experts: tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """The activations that enter a tensor.

    Attributes:
        step: Before which step they are there.
        name: Of the tensor; of experts, in the merged layout.
        rows: The activations.
        n_matrices: Experts, or heads with a matrix each; 1 for one matrix.
        choice: Which rows enter which expert; None for all of them.
    """

    step: int
    name: str
    rows: Rows
    n_matrices: int = 1
    choice: Choice | None = None


def find_products(
    steps: Sequence[Step], tables: Mapping[int, Sequence[int]], file: Gguf
) -> list[Product]:
    """Return the products of a program, a tensor that several parts are taken of once.

    Args:
        steps: The program.
        tables: Where in ``n`` a table of experts' offsets is -> the table.
        file: The model.
    """
    return list(_Finder(steps, tables, file).find())


class _Finder:
    def __init__(
        self, steps: Sequence[Step], tables: Mapping[int, Sequence[int]], file: Gguf
    ) -> None:
        self._steps, self._tables, self._file = steps, tables, file
        tensors = (info for info in file.tensors.values() if info.size_bytes)
        self._names = sorted((file.start_of(info.name), info.name) for info in tensors)
        self._starts = [start for start, _ in self._names]
        self._sources: dict[tuple[int, int], Rows] = {}
        self._plain_names: set[str] = set()

    def find(self) -> list[Product]:
        found: list[Product] = []
        first = 0  # of the products that are not interrupted by other steps
        for i, step in enumerate(self._steps):
            kind, arguments = step.name, step.named
            if kind not in _BESIDE_PRODUCTS:
                first = i + 1
            if kind.startswith("quantize_"):
                rows = Rows(*(arguments[name] for name in ("x", "width", "count", "per_row")))
                self._sources[arguments["xq"], arguments["xf"]] = rows
            elif kind == "expert_matmul":
                found += self._of_experts(first, step, arguments)
            elif kind in _PRODUCTS:
                found += self._plain(first, step, arguments)
        return found

    def _plain(self, first: int, step: Step, a: Mapping[str, int]) -> list[Product]:
        name, offset = self._tensor_at(a["w0"])
        if offset:  # a later part of a tensor whose first part reads the same
            return []
        if name in _OF_STREAMS or name in self._plain_names:  # of several uses the first
            return []
        self._plain_names.add(name)
        n_head = a.get("n_head", 1)
        return [Product(first, name, self._rows(step, a, n_head), n_head)]

    def _of_experts(self, first: int, step: Step, a: Mapping[str, int]) -> list[Product]:
        table, n_expert = self._tables[a["experts"]], a["n_expert"]
        experts: list[int] = []
        name = ""
        for e in range(n_expert):
            if not table[e]:  # of another type: there is a step for that
                continue
            tensor, offset = self._tensor_at(table[e])
            split = parse_split(tensor)
            name = split.merged_name if split else tensor
            size = self._file.tensors[tensor].size_bytes
            if offset % (size if split else size // n_expert) == 0:
                experts.append(e)
        if not experts:
            return []
        choice = Choice(a["expert_starts"], a["assignments"], a["pairs_per_x"], tuple(experts))
        return [Product(first, name, self._rows(step, a, 1), n_expert, choice)]

    def _rows(self, step: Step, a: Mapping[str, int], per_row: int) -> Rows:
        type = QuantType[step.types]
        if ACTIVATION_OF[type] == "f32":
            return Rows(a["xf"], a["n_in"], a.get("count", -1), per_row)
        return self._sources[a["xq"], a["xf"]]

    def _tensor_at(self, at: int) -> tuple[str, int]:
        """Return the tensor that a byte of the model belongs to, and how far into it."""
        start, name = self._names[bisect_right(self._starts, at) - 1]
        return name, at - start
