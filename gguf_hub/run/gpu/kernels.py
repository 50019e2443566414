"""From a step to what a GPU does for it: WGSL, its arguments, and how many workgroups.

A kernel is a file of ``wgsl/`` with an entry ``main``. In front of it stand constants that it is
compiled with, ``struct Args`` with the step's arguments under the names of ``ops.ARGUMENTS``, and
the files that it names in its first lines: ``// include: half.wgsl``. Matrix products are put
together from several files, and have argument names of their own (see ``products``).

Bindings, which a kernel declares itself, with the element type that it reads them by:

======= ============================= ====================================================
binding declaration                   what
======= ============================= ====================================================
0       ``var<uniform> a: Args``      arguments of the step
1       ``n: array<i32>``             counts and indices, as in ``ops``
2       ``f: array<f32>``             activations, norms, constants
3       ``q: array<u32>``             quantised activations, four bytes in a word
4, 5    ``k``, ``v: array<u32>``      keys and values of one layer, of all slots one after
                                      another, ``a.k_slot`` and ``a.v_slot`` elements apart
6       ``w: array<...>``, read only  weights (see ``layouts``)
7       ``s: array<f32>``             scratch of one step, of all its operations
======= ============================= ====================================================

Offsets count elements, as on the CPU; ``q``, ``k`` and ``v`` are read by words. An area begins at a
multiple of 64 elements. Every ``var`` has an initialiser: one inside of a loop would keep the value
of the last turn, in some compilers. Memory of a workgroup is not zero at first, whatever WGSL says:
llvmpipe leaves there what the last kernel wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from gguf_hub.gguf.types import QuantType
from gguf_hub.run.gpu.device import Grid

ARGS, N, F, Q, K, V, W, S = range(8)
"""Numbers of the bindings."""

Header = Sequence[int]
"""The first elements of ``n`` as a step sees them (see ``ops.N_TOKENS`` and after)."""

_INCLUDE = "// include: "


@dataclass(frozen=True)
class WeightPart:
    """Rows of one matrix, or of several of the same shape one after another, in one buffer.

    Attributes:
        type: Of all of them.
        n_in: Weights of a row.
        n_out: Rows of each.
        offsets: Byte of the file where each begins.
    """

    type: QuantType
    n_in: int
    n_out: int
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One dispatch of a kernel.

    Attributes:
        source: WGSL.
        arguments: Of ``struct Args``, in order.
        grid: Workgroups, from the header as it stands then; any 0 to leave the dispatch out.
        weights: What binding 6 holds.
        tables: Offset in ``n`` -> numbers to put there before the first run.
        scratch_floats: Elements of binding 7 that it needs.
        is_checked: Whether indices are tested, and loops counted: not where it is sure that all
            stay inside and end.
    """

    source: str
    arguments: tuple[int, ...]
    grid: Callable[[Header], Grid]
    weights: WeightPart | None = None
    tables: Mapping[int, tuple[int, ...]] | None = None
    scratch_floats: int = 0
    is_checked: bool = True


@cache
def wgsl(file: str) -> str:
    """Return a file of ``wgsl/`` behind those that it includes."""
    text = (files(__package__) / "wgsl" / file).read_text(encoding="utf-8")
    included = [
        wgsl(line.removeprefix(_INCLUDE).strip())
        for line in text.splitlines()
        if line.startswith(_INCLUDE)
    ]
    return "\n".join([*dict.fromkeys(included), text])


@cache
def module(file: str, fields: tuple[str, ...], constants: tuple[tuple[str, str], ...] = ()) -> str:
    """Return the source of a kernel.

    Args:
        file: Of ``wgsl/``.
        fields: Of ``struct Args``, each an ``u32``.
        constants: Names and values in WGSL, such as ``("N_THREADS", "64u")``.
    """
    lines = [f"const {name} = {value};" for name, value in constants]
    members = ", ".join(f"{field}: u32" for field in fields)
    return "\n".join([*lines, f"struct Args {{ {members} }};", wgsl(file)])
