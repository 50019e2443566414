"""A program: the steps of a model, and where their inputs and outputs lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.memory.layout import HEADER, MemoryLayout
from gguf_hub.run.kernels.vm.extents import Bounds
from gguf_hub.run.kernels.vm.machine import Memory
from gguf_hub.run.kernels.vm.ops import Step


@dataclass(frozen=True)
class Stage:
    """A part of the graph: the embeddings, layers ``first`` to ``end``, the head; by default all.

    The residual stream that a stage ends with is what the next one begins with, for every token of
    the call (``Program.residual``).
    """

    first: int = 0
    end: int | None = None
    has_embedding: bool = True
    has_head: bool = True


FULL_GRAPH = Stage()

MODEL, ADAPTERS = range(2)
"""Files that steps read weights of: the GGUF, and the data of LoRA adapters."""


@dataclass(frozen=True)
class Program:
    """Steps and where their inputs and outputs lie.

    Attributes:
        steps: In order of execution.
        layout: Where everything lies.
        constants: Offset -> floats to be put into ``f`` before the first run.
        bounds: The largest numbers that a call may bring.
        active_bytes: Bytes of weights that one token reads.
        n_slots: How many caches, one after another.
    """

    steps: tuple[Step, ...]
    layout: MemoryLayout
    constants: dict[int, NDArray[np.float32]]
    bounds: Bounds
    active_bytes: int
    n_slots: int = 1

    @property
    def residual(self) -> int:
        """Offset in ``f`` of the residual stream between stages, [T, D]."""
        return self.layout.residual

    @property
    def kernels(self) -> list[str]:
        """All kernels that running it needs, each once."""
        return list(dict.fromkeys(["run_program", *(step.kernel for step in self.steps)]))

    def memory(self, files: list[NDArray[np.uint8]]) -> Memory:
        """Return memory for this program, constants and tables in place."""
        sizes = self.layout.sizes
        memory = Memory.allocate(
            n=sizes["n"] - HEADER, f=sizes["f"], q=sizes["q"], kv=sizes["kv"] * self.n_slots,
            files=files,
        )  # fmt: skip
        self.fill(memory)
        return memory

    def fill(self, memory: Memory) -> None:
        """Put constants and tables in place."""
        for offset, values in self.constants.items():
            memory.f[offset : offset + len(values)] = values
        for offset, table in self.bounds.tables.items():
            memory.n[offset : offset + len(table)] = table
