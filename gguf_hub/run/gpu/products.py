"""Matrix products on a GPU: for each weight type, one token or many, experts, heads.

A step is three operations, for one token, a few and many; the grids of the others are empty. Where
a matrix is larger than a kernel may see, it is cut into ranges of rows, each with operations of its
own, and many experts or heads into groups. Files in ``wgsl/products``:

- ``plain_job`` or ``expert_job``: which matrix and which tokens a workgroup multiplies;
- the type's own, which makes bytes of 64 (``k_...``) or 32 (``unit_...``) weights, or eight floats;
- ``..._vector``: a pair of a token and a matrix, the rows among the workgroups;
- ``..._few``: the same for four pairs with one matrix, which is read once;
- ``..._tile``: 64 rows times 32 pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.gpu import layouts
from gguf_hub.run.gpu.device import MAX_GROUPS, Grid
from gguf_hub.run.gpu.kernels import Header, Operation, WeightPart, module, wgsl
from gguf_hub.run.kernels.generic import grids
from gguf_hub.run.kernels.vm.ops import N_PAIRS, Step

Tables = Mapping[int, tuple[int, ...]]

FIELDS = (
    "n_in", "n_out", "xq", "xq_stride", "xq_step", "xf", "xf_stride", "xf_step", "y", "y_stride",
    "y_step", "is_added", "count", "pairs_per_x", "tables", "size", "p1", "p2", "p3",
    "experts", "n_expert", "expert_starts", "assignments", "first_matrix", "n_matrices",
)  # fmt: skip
"""Of ``struct Args``: as in ``ops``; where in elements of ``w`` the matrices begin, the size of one
and its planes (see ``layouts``; of floats ``p1`` is the size of a row); which matrices of the
table are in ``w``. Steps are those of heads."""


class Kernel(NamedTuple):
    """A way to multiply, and when it is taken.

    Attributes:
        pairs: Of a workgroup, with one matrix.
        least: Fewest pairs for each matrix that it is for.
        most: Most of them.
    """

    pairs: int
    least: int
    most: int


KERNELS = {"vector": Kernel(1, 1, 1), "few": Kernel(4, 2, 8), "tile": Kernel(32, 9, 1 << 31)}
"""To read the weights more than twice takes as long as to compute a tile of 32 pairs."""
_NONE: Grid = (0, 0, 0)
_TILE_ROWS = 64

T = QuantType


@dataclass(frozen=True)
class _Type:
    """How a type is multiplied.

    Attributes:
        family: ``k``, ``unit`` or ``float``: the beginning of its kernels' names.
        files: Its own.
        constants: Name -> value in WGSL.
        element: Bytes of an element of ``w``.
        vector_rows: Rows of a workgroup of ``..._vector`` and ``..._few``.
    """

    family: str
    files: tuple[str, ...]
    constants: Mapping[str, str] = field(default_factory=dict)
    element: int = 16
    vector_rows: int = 8


def _flag(is_set: bool) -> str:
    return "true" if is_set else "false"


def _table(weights: NDArray[np.int8]) -> str:
    words = ", ".join(f"{word:#x}u" for word in weights.view(np.uint32).tolist())
    return f"vec4<u32>({words})"


def _unit(
    file: str, constants: Mapping[str, str] | None = None, *, offset: int = 0,
    has_m: bool = False, has_halves: bool = False,
) -> _Type:  # fmt: skip
    """Return a type that is read in units of 32 weights (see ``units.wgsl``)."""
    own = {
        "OFFSET": f"{offset}i", "HAS_M": _flag(has_m), "HAS_HALVES": _flag(has_halves),
        **(constants or {}),
    }  # fmt: skip
    return _Type("unit", ("blocks", "vectors", "units", _table_file(own), file), own)


def _legacy(offset: int, *, has_fifth: bool) -> _Type:
    return _unit("legacy", {"HAS_FIFTH": _flag(has_fifth)}, offset=offset, has_m=offset == 0)


def _k(
    file: str, constants: Mapping[str, str] | None = None, *, offset: int = 0,
    has_minima: bool = False, is_strided: bool = False, group: int = 16,
) -> _Type:  # fmt: skip
    """Return a type with blocks of 256 weights that lie in planes (see ``k_activations.wgsl``)."""
    own = {
        **_block_constants(group, offset, has_minima, is_strided), "IS_LONG": "false",
        **(constants or {}),
    }  # fmt: skip
    return _Type("k", ("blocks", "vectors", "k_activations", _table_file(own), file), own)


def _block_constants(
    group: int, offset: int = 0, has_minima: bool = False, is_strided: bool = False
) -> dict[str, str]:
    return {
        "GROUP": f"{group}u", "OFFSET": f"{offset}i", "HAS_MINIMA": _flag(has_minima),
        "IS_STRIDED": _flag(is_strided), "GROUP_STEP": "2u" if is_strided else "1u",
        "HAS_SUMS": _flag(has_minima or offset > 0),
    }  # fmt: skip


def _table_file(constants: Mapping[str, str]) -> str:
    return "nibble_table" if "TABLE" in constants else "no_table"


def _coded(type_: QuantType, group: int, grid_offset: int | None = None) -> _Type:
    """Return a type whose blocks lie as they are in the file, in words."""
    constants = {
        **_block_constants(group),
        "IS_LONG": "true",
        "BLOCK_WORDS": f"{-(-type_.type_size // 4)}u",
    }
    files: tuple[str, ...] = ("blocks", "words", "k_activations", "no_table", "coded_256")
    if grid_offset is not None:
        constants["GRID_OFFSET"] = f"{grid_offset}u"
        files += ("grids",)
    return _Type("k", (*files, type_.name.lower()), constants, element=4)


def _float(name: str) -> _Type:
    return _Type("float", ("floats", name), vector_rows=2)


_NONLINEAR = {"TABLE": _table(grids.NONLINEAR)}
_E2M1 = {"TABLE": _table(grids.E2M1)}
TYPES: dict[QuantType, _Type] = {
    T.F32: _float("f32"),
    T.F16: _float("f16"),
    T.BF16: _float("bf16"),
    T.Q4_0: _legacy(8, has_fifth=False),
    T.Q4_1: _legacy(0, has_fifth=False),
    T.Q5_0: _legacy(16, has_fifth=True),
    T.Q5_1: _legacy(0, has_fifth=True),
    T.Q8_0: _unit("q8_0"),
    T.IQ4_NL: _unit("iq4_nl", _NONLINEAR),
    T.MXFP4: _unit("mxfp4", _E2M1),
    T.NVFP4: _unit("nvfp4", _E2M1, has_halves=True),
    T.Q1_0: _unit("q1_0"),
    T.Q2_0: _unit("q2_0"),
    T.Q2_K: _k("q2_k", has_minima=True, is_strided=True),
    T.Q3_K: _k("q3_k", offset=4, is_strided=True),
    T.Q4_K: _k("q4_k", {"HAS_FIFTH": "false"}, has_minima=True, group=32),
    T.Q5_K: _k("q4_k", {"HAS_FIFTH": "true"}, has_minima=True, group=32),
    T.Q6_K: _k("q6_k", offset=32, is_strided=True),
    T.IQ4_XS: _k("iq4_xs", _NONLINEAR, group=32),
    T.IQ1_S: _coded(T.IQ1_S, 32, grids.TERNARY_OFFSET),
    T.IQ1_M: _coded(T.IQ1_M, 16, grids.TERNARY_OFFSET),
    T.IQ2_XXS: _coded(T.IQ2_XXS, 32, grids.OFFSET),
    T.IQ2_XS: _coded(T.IQ2_XS, 16, grids.OFFSET),
    T.IQ2_S: _coded(T.IQ2_S, 16, grids.OFFSET),
    T.IQ3_XXS: _coded(T.IQ3_XXS, 32, grids.OFFSET),
    T.IQ3_S: _coded(T.IQ3_S, 32, grids.OFFSET),
    T.TQ1_0: _coded(T.TQ1_0, 32),
    T.TQ2_0: _coded(T.TQ2_0, 32),
}
"""All that the runner knows."""


def files_of(type_: QuantType, kernel: str, job: str, is_aligned: bool) -> list[str]:
    """Return the files of ``wgsl`` that a product is put together from.

    Args:
        type_: Of the weights.
        kernel: One of ``KERNELS``.
        job: ``plain`` or ``expert``.
        is_aligned: Whether rows of quantised activations begin at multiples of 16 bytes.
    """
    how = TYPES[type_]
    files = ["job", f"{job}_job", *how.files]
    if how.family == "unit":
        files.append("aligned_quants" if is_aligned else "any_quants")
    if kernel != "vector":
        files.append(f"{kernel}_results")
    return [f"products/{file}.wgsl" for file in [*files, f"{how.family}_{kernel}"]]


@cache
def _source(type_: QuantType, kernel: str, job: str, is_aligned: bool) -> str:
    first, *others = files_of(type_, kernel, job, is_aligned)
    start = module(first, FIELDS, tuple(TYPES[type_].constants.items()))
    return "\n".join([start, *map(wgsl, others)])


# -- what a kernel may see -----------------------------------------------------------------------


class _Cut(NamedTuple):
    """Rows from ``first_row`` on of the matrices from ``first_matrix`` on."""

    weights: WeightPart
    first_matrix: int
    first_row: int


def _cuts(whole: WeightPart, max_binding: int) -> Iterator[_Cut]:
    """Yield parts that are no larger than a binding, nor have more rows than a grid."""
    tables = layouts.tables_bytes(whole.type)
    rows = min(whole.n_out, TYPES[whole.type].vector_rows * MAX_GROUPS)
    count = (max_binding - tables) // layouts.starts_of(whole)[-1]
    if count == 0:
        count, rows = 1, _rows_within(whole, rows, max_binding - tables)
    elif rows < whole.n_out:
        count = 1
    row_bytes = whole.type.row_bytes(whole.n_in)
    for first in range(0, len(whole.offsets), count):
        offsets = whole.offsets[first : first + count]
        for row in range(0, whole.n_out, rows):
            part = WeightPart(
                whole.type, whole.n_in, min(rows, whole.n_out - row),
                tuple(offset + row_bytes * row for offset in offsets),
            )  # fmt: skip
            yield _Cut(part, first, row)


def _rows_within(whole: WeightPart, rows: int, n_bytes: int) -> int:
    """Return how many rows of one matrix fit; each plane is filled up to 16 bytes."""
    per_row = sum(plane.n_bytes for plane in layouts.planes_of(whole)) * (
        whole.n_in // whole.type.block_size if whole.type in layouts.PLANES else 1
    )
    fitting = (n_bytes - 16 * len(layouts.planes_of(whole))) // per_row
    assert fitting > 0, f"{n_bytes} bytes do not hold one row of {whole.n_in} weights"
    return min(rows, fitting)


# -- steps ---------------------------------------------------------------------------------------

_Grids = Callable[[str], Callable[[Header], Grid]]
"""Kernel -> its grid."""


def _matmul(step: Step, max_binding: int, tables: Tables) -> list[Operation]:
    at = step.named
    whole = WeightPart(_type_of(step), at["n_in"], at["n_out"], (at["w0"],))
    arguments = {**at, "pairs_per_x": 1}
    operations: list[Operation] = []
    for cut in _cuts(whole, max_binding):
        grids_ = _plain_grids(cut.weights, at["count"])
        operations += _operations(cut, arguments, "plain", grids_)
    return operations


def _head_matmul(step: Step, max_binding: int, tables: Tables) -> list[Operation]:
    at = step.named
    offsets = tuple(at["w0"] + at["head_bytes"] * head for head in range(at["n_head"]))
    whole = WeightPart(_type_of(step), at["n_in"], at["n_out"], offsets)
    operations: list[Operation] = []
    for cut in _cuts(whole, max_binding):
        moved = {
            name: at[name] + at[f"{name}_step"] * cut.first_matrix for name in ("xq", "xf", "y")
        }
        arguments = {**at, **moved, "pairs_per_x": 1}
        grids_ = _plain_grids(cut.weights, at["count"])
        operations += _operations(cut, arguments, "plain", grids_)
    return operations


def _expert_matmul(step: Step, max_binding: int, tables: Tables) -> list[Operation]:
    at = step.named
    offsets = tables[at["experts"]]
    whole = WeightPart(
        _type_of(step), at["n_in"], at["n_out"], tuple(offset for offset in offsets if offset)
    )
    numbers = np.cumsum(np.array(offsets) != 0) * (np.array(offsets) != 0)
    table = {at["experts"]: tuple(numbers.tolist())}
    operations: list[Operation] = []
    for cut in _cuts(whole, max_binding):
        grids_ = _expert_grids(cut.weights, at["n_expert"])
        operations += _operations(cut, at, "expert", grids_, table)
    return operations


def _type_of(step: Step) -> QuantType:
    return QuantType[step.types]


def _plain_grids(part: WeightPart, count: int) -> _Grids:
    """Return the grids for tokens; a head is a z of them."""

    def grid_of(name: str) -> Callable[[Header], Grid]:
        groups, n_heads = _row_groups(part, name), len(part.offsets)
        pairs, least, most = KERNELS[name]

        def grid(header: Header) -> Grid:
            n_tokens = header[count]
            return (groups, -(-n_tokens // pairs), n_heads) if least <= n_tokens <= most else _NONE

        return grid

    return grid_of


def _expert_grids(part: WeightPart, n_expert: int) -> _Grids:
    """Return the grids for all pairs; in a layer where few tokens want logits there are less.

    Pairs of an expert fill workgroups of their own, each of which may have one that is not full.
    """

    def grid_of(name: str) -> Callable[[Header], Grid]:
        groups, (pairs, least, most) = _row_groups(part, name), KERNELS[name]
        spare = n_expert if pairs > 1 else 0
        below, most = (least - 1) * n_expert, most * n_expert

        def grid(header: Header) -> Grid:
            n_pairs = header[N_PAIRS]
            return (groups, n_pairs // pairs + spare, 1) if below < n_pairs <= most else _NONE

        return grid

    return grid_of


def _row_groups(part: WeightPart, kernel: str) -> int:
    return -(-part.n_out // (_TILE_ROWS if kernel == "tile" else TYPES[part.type].vector_rows))


def _operations(
    cut: _Cut, step: Mapping[str, int], job: str, grids_: _Grids, tables: Tables | None = None
) -> Iterator[Operation]:
    """Yield the operations of one part; ``step`` has arguments of the whole."""
    part = cut.weights
    element = TYPES[part.type].element
    *starts, size = (n // element for n in layouts.starts_of(part))
    if part.type not in layouts.PLANES:
        starts = [0, layouts.planes_of(part)[0].n_bytes // element]
    planes = dict(zip(("p1", "p2", "p3"), starts[1:], strict=False))
    own = {
        **step, **planes, "n_out": part.n_out, "y": step["y"] + cut.first_row, "size": size,
        "tables": layouts.tables_bytes(part.type) // element, "first_matrix": cut.first_matrix,
        "n_matrices": len(part.offsets),
    }  # fmt: skip
    rows = [own.get(name, 0) for name in ("xq", "xq_stride", "xq_step")]
    is_aligned = all(n % 16 == 0 for n in rows)
    arguments = tuple(own.get(name, 0) for name in FIELDS)
    for kernel in KERNELS:
        source = _source(part.type, kernel, job, is_aligned)
        yield Operation(source, arguments, grids_(kernel), part, tables, is_checked=False)


PRODUCTS: dict[str, Callable[[Step, int, Tables], list[Operation]]] = {
    "matmul": _matmul,
    "head_matmul": _head_matmul,
    "expert_matmul": _expert_matmul,
}
