"""A stand-in for a GPU: a part of a program that runs on the CPU, in a memory of its own.

What is not moved to it is not there, so it finds whatever a plan of transfers forgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gguf_hub.errors import GpuError
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.gpu.machine import MixedMachine
from gguf_hub.run.gpu.placement import Placement, place_layers
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.machine import CompiledMachine
from gguf_hub.run.kernels.vm.ops import Step
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.machines import Opened, cache_areas
from gguf_hub.run.model.program import Program
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import read_model

UNKNOWN = {"f": np.nan, "q": 99, "n": 0}
"""What stands where nothing was moved to."""


class HostPart:
    """Runs the steps of a device in a memory of its own, one after another.

    Attributes:
        n_runs: After how many runs it fails, as a GPU whose driver is restarted; -1 for never.
    """

    n_runs = -1

    def __init__(
        self, builder: KernelBuilder, program: Program, file: GgufFile, placement: Placement, i: int
    ) -> None:
        memory = program.memory([file.data])
        for area in program.layout.areas:
            if area.array in UNKNOWN and "state" not in area.name:
                whole = getattr(memory, area.array)
                whole[area.offset : area.offset + area.n_elements] = UNKNOWN[area.array]
        program.fill(memory)
        self.machine = CompiledMachine(builder, memory, 1)
        self.layout = program.layout
        self.caches = cache_areas(program.layout, placement, i)

    def load(self, steps: Sequence[Step], progress: Progress = SILENT) -> Any:
        return [(step, self.machine.load([step])) for step in steps]

    def begin(self, n: np.ndarray) -> None:
        self.machine.memory.n[: len(n)] = n

    def run(self, code: Any) -> None:
        if self.n_runs == 0:
            raise GpuError("`stand-in` was lost while it computed")
        self.n_runs -= 1
        for _, each in code:
            self.machine.run(each)

    def has_cache(self, first: int) -> bool:
        at = first % max(1, self.layout.sizes["kv"])
        return any(a.offset <= at < a.offset + a.n_elements for a in self.caches)

    def write(self, array: str, first: int, values: np.ndarray) -> None:
        getattr(self.machine.memory, array)[first : first + len(values)] = values

    def read(self, wanted: Sequence[tuple[str, int, int]]) -> list[np.ndarray]:
        memory = self.machine.memory
        return [getattr(memory, array)[first : first + n].copy() for array, first, n in wanted]

    def close(self) -> None:
        self.machine.close()


def open_shared(
    file: GgufFile, builder: KernelBuilder, limits: Limits, n_runs: int = -1, **placing: Any
) -> Transformer:
    """Return a model whose layers are shared among stand-ins, as ``place_layers`` says.

    The first of them fails after ``n_runs`` runs; then the CPU goes on.
    """
    config, weights = read_model(file)
    program = ProgramBuilder(config, weights, limits).build()
    sources = [i - layer.n_back_kv for i, layer in enumerate(config.layers)]
    placement = place_layers(config.n_layer, sources=sources, **placing)
    parts = [
        HostPart(builder, program, file, placement, i)
        for i in range(len(placing.get("shares", (1,))))
    ]
    parts[0].n_runs = n_runs

    def reopen(error: GpuError) -> Opened:
        memory = program.memory([file.data])
        return program, CompiledMachine(builder, memory, limits.n_threads), limits

    cpu = CompiledMachine(builder, program.memory([file.data]), limits.n_threads)
    machine = MixedMachine(cpu, parts, placement, program.layout, program.bounds)  # type: ignore[arg-type]
    return Transformer(config, program, machine, limits, reopen=reopen)
