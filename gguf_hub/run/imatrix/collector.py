"""Sums of squares of what enters products, taken while a program runs.

A ``WatchedMachine`` runs a program in segments, each up to a group of products, and looks at the
activations in between. Within a chunk sums are kept in double precision; at its end they are
added to totals of the precision that files have, so that what continues a file has the totals of
what was never interrupted, to the bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import GgufHubError
from gguf_hub.gguf.strings import shown
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.imatrix.products import Choice, Product, Rows
from gguf_hub.run.kernels.vm.machine import LoadedProgram, Machine, Memory
from gguf_hub.run.kernels.vm.ops import Step
from gguf_hub.run.quants.imatrix import Entry

Sums = NDArray[np.float64]


class Collector:
    """Adds up what enters each tensor.

    Args:
        entries: Totals to begin with.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._totals = dict(entries)
        self._sums: dict[str, Sums] = {}
        self._counts: dict[str, NDArray[np.int64]] = {}

    def collect(self, products: Iterable[Product], memory: Memory) -> None:
        """Add the activations that products are about to read."""
        known: dict[tuple[Rows, int, Choice | None], tuple[Sums, NDArray[np.int64]]] = {}
        for product in products:
            key = product.rows, product.n_matrices, product.choice
            if key not in known:
                known[key] = _squares(product, memory)
            sums, counts = known[key]
            if product.name in self._sums:
                self._sums[product.name] += sums
                self._counts[product.name] += counts
            else:
                self._sums[product.name], self._counts[product.name] = sums.copy(), counts.copy()

    def end_chunk(self) -> None:
        """Add the sums since the last chunk to the totals.

        Raises:
            GgufHubError: An activation was not finite, or the sums to begin with are those of
                another model.
        """
        for name, sums in self._sums.items():
            with np.errstate(over="ignore"):
                entry = Entry(sums.astype(np.float32), self._counts[name])
                before = self._totals.get(name)
                if before and before.sums.shape != entry.sums.shape:
                    raise GgufHubError(
                        f"the importance matrix to add has {before.sums.shape} sums for tensor "
                        f"`{shown(name)}`: expected {entry.sums.shape}",
                        hint="it is that of another model: leave `--in-file` out",
                    )
                total = before.plus(entry) if before else entry
            if not np.isfinite(total.sums).all():
                raise GgufHubError(
                    f"what enters tensor `{shown(name)}` is not finite, or too large to be summed",
                    hint="the model's file is damaged: `gguf-hub verify` checks it",
                )
            self._totals[name] = total
        self._sums, self._counts = {}, {}

    @property
    def entries(self) -> dict[str, Entry]:
        """The totals after the last complete chunk."""
        return dict(self._totals)


def _squares(product: Product, memory: Memory) -> tuple[Sums, NDArray[np.int64]]:
    """Return sums of squares, [n_counts, n], and how many rows they are of."""
    if product.choice:
        return _squares_of_experts(product.rows, product.n_matrices, product.choice, memory)
    rows, n = product.rows, product.n_matrices
    n_rows, width = int(memory.n[rows.count]), rows.width * n
    x = memory.f[rows.x : rows.x + n_rows * width].reshape(n_rows, width)
    return _sum_of_squares(x)[None], np.array([n_rows], np.int64)


def _squares_of_experts(
    rows: Rows, n_expert: int, choice: Choice, memory: Memory
) -> tuple[Sums, NDArray[np.int64]]:
    starts = memory.n[choice.starts : choice.starts + n_expert + 1]
    pairs = memory.n[choice.assignments : choice.assignments + int(starts[-1])]
    sums, counts = np.zeros((n_expert, rows.width)), np.zeros(n_expert, np.int64)
    for e in choice.experts:
        which = pairs[starts[e] : starts[e + 1]] // choice.pairs_per_x
        counts[e] = len(which)
        if len(which):
            end = rows.x + rows.width * (int(which.max()) + 1)
            sums[e] = _sum_of_squares(memory.f[rows.x : end].reshape(-1, rows.width)[which])
    return sums, counts


def _sum_of_squares(x: NDArray[np.float32]) -> Sums:
    """Return the sums of the squares of columns, [n]."""
    with np.errstate(over="ignore", invalid="ignore"):  # looked at when the chunk ends
        total: Sums = np.square(x).sum(axis=0, dtype=np.float64)
    return total


@dataclass(frozen=True)
class _Segment:
    """Steps that run together, and what is looked at before them."""

    products: tuple[Product, ...]
    code: LoadedProgram


@dataclass(frozen=True)
class Segments:
    """A program in parts, as a ``WatchedMachine`` runs it."""

    parts: Sequence[_Segment]


class WatchedMachine:
    """A machine that lets somebody look at activations before they enter products.

    Args:
        machine: Runs the steps.
        find: Products of a program, by the step before which their activations are there.
        collect: Gets those products and the memory.
    """

    def __init__(
        self,
        machine: Machine,
        find: Callable[[Sequence[Step]], Iterable[Product]],
        collect: Callable[[Iterable[Product], Memory], None],
    ) -> None:
        self._machine, self._find, self._collect = machine, find, collect
        self.memory, self.n_threads = machine.memory, machine.n_threads
        self.n_gpu_layers = machine.n_gpu_layers

    def load(self, steps: Sequence[Step], progress: Progress = SILENT) -> Segments:
        """Return a program, cut where products begin."""
        by_step: dict[int, list[Product]] = defaultdict(list)
        for product in self._find(steps):
            by_step[product.step].append(product)
        cuts = sorted({0, *by_step})
        ends = [*cuts[1:], len(steps)]
        return Segments(
            [
                _Segment(tuple(by_step[start]), self._machine.load(steps[start:end], progress))
                for start, end in zip(cuts, ends, strict=True)
            ]
        )

    def run(self, code: Any) -> None:
        """Run a program, looking at activations on the way."""
        for part in code.parts:
            if part.products:
                self._collect(part.products, self.memory)
            self._machine.run(part.code)

    def pull(self, *views: NDArray[Any]) -> None:
        """Make views of the memory show what programs have computed."""
        self._machine.pull(*views)

    def push(self, *views: NDArray[Any]) -> None:
        """Let programs see what was written to views of the memory."""
        self._machine.push(*views)

    def close(self) -> None:
        """Free what the machine holds."""
        self._machine.close()
