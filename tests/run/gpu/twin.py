"""The same steps on the CPU and on a GPU, from the same memory; what all of it is afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_hub.gguf.memory.layout import HEADER, Area
from gguf_hub.run.gpu.part import GpuPart
from gguf_hub.run.gpu.weights import WeightStore
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.machine import CompiledMachine, Memory
from gguf_hub.run.kernels.vm.ops import (
    N_OUTPUTS,
    N_PAIRS,
    Step,
)
from gguf_hub.run.kernels.vm.sequences import SequenceTokens, write_sequences

TYPES = ("F16.F16", "Q8_0.Q8_0", "F32.F32", "F16.Q8_0", "Q8_0.F32", "F32.F16")
"""Of keys and values."""

WORST: dict[str, float] = {}
"""Step -> the largest difference, relative to the largest number of the array."""

Arrays = dict[str, np.ndarray]

GAP = 64  # elements between arrays, which no step may touch
NO_FILE = np.zeros(8, np.uint8)
SPACES = {np.dtype(np.float32): "f", np.dtype(np.int64): "n", np.dtype(np.int8): "q"}


@dataclass(frozen=True)
class Header:
    """What a call says of itself; ``sequences`` where there are several."""

    n_tokens: int
    position: int = 0
    n_used: int = 1
    slot: int = 0
    sequences: tuple[SequenceTokens, ...] = ()

    def write(self, n: np.ndarray, slot_size: int = 0) -> None:
        n[N_OUTPUTS] = self.n_tokens
        n[N_PAIRS] = self.n_tokens * self.n_used
        one = SequenceTokens(self.slot, self.position, self.n_tokens)
        write_sequences(n, self.sequences or [one], slot_size)


class Twin:
    """Memory with some arrays, on the CPU and on a GPU, random numbers around them.

    Attributes:
        at: Array -> its offset.
        cpu: ``n``, ``f``, ``q`` and ``kv`` of the CPU.
        slot_size: Elements of ``kv`` from one slot to the next.
    """

    def __init__(
        self, device: Any, builder: KernelBuilder, arrays: Mapping[str, np.ndarray], *,
        caches: Mapping[str, int] | None = None, n_slots: int = 1, seed: int = 3,
    ) -> None:  # fmt: skip
        self.builder, self.arrays, self.n_slots = builder, dict(arrays), n_slots
        self.at, ends = {}, {"n": HEADER + GAP, "f": GAP, "q": GAP, "kv": 0}
        for name, array in arrays.items():
            space = SPACES[array.dtype]
            self.at[name] = ends[space]
            ends[space] += -(-array.size // 64) * 64 + GAP
        areas = []
        for name, n_elements in (caches or {}).items():
            self.at[name] = ends["kv"]
            areas.append(Area("kv", name, ends["kv"], n_elements))
            ends["kv"] += n_elements
        self.slot_size, self.areas = ends["kv"], areas
        self.part = GpuPart(WeightStore(device, NO_FILE), ends, areas, n_slots, {})  # type: ignore[arg-type]
        ends["kv"] *= n_slots
        self.ends = ends
        self.memory = Memory.allocate(**ends, files=[NO_FILE])
        self._fill(np.random.default_rng(seed))

    def _fill(self, rng: np.random.Generator) -> None:
        m, ends = self.memory, self.ends
        m.n[: ends["n"]] = rng.integers(0, 100, ends["n"])
        m.f[: ends["f"]] = rng.standard_normal(ends["f"])
        m.q[: ends["q"]] = rng.integers(-128, 128, ends["q"])
        m.kv[: ends["kv"]] = rng.standard_normal(ends["kv"]).astype(np.float16).view(np.uint16)
        for name, array in self.arrays.items():
            self.put(name, array)

    @property
    def cpu(self) -> dict[str, np.ndarray]:
        spaces = ("n", "f", "q", "kv")
        return {name: getattr(self.memory, name)[: self.ends[name]] for name in spaces}

    def put(self, name: str, array: np.ndarray) -> None:
        """Write an array; what a GPU has is written by the next run."""
        space = getattr(self.memory, SPACES[array.dtype])
        space[self.at[name] : self.at[name] + array.size] = array.reshape(-1)

    def view(self, memory: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        """Return one array of a memory."""
        array = self.arrays[name]
        return memory[SPACES[array.dtype]][self.at[name] : self.at[name] + array.size]

    def run(self, steps: Sequence[Step], header: Header) -> dict[str, np.ndarray]:
        """Run steps on both from what the CPU's memory is; return what the GPU's is then."""
        header.write(self.memory.n, self.slot_size)
        for name, values in self.cpu.items():
            if len(values):
                self._write(name, values)
        self.part.begin(self.cpu["n"])
        self.part.run(self.part.load(steps))
        with CompiledMachine(self.builder, self.memory, 1) as machine:
            machine.run(machine.load(steps))
        return {name: self._read(name, len(values)) for name, values in self.cpu.items()}

    def _write(self, name: str, values: np.ndarray) -> None:
        for first, size in self._pieces(name, len(values)):
            piece = values[first : first + size]
            self.part.write(name, first, np.pad(piece, (0, -size % 4)))  # type: ignore[arg-type]

    def _read(self, name: str, size: int) -> np.ndarray:
        pieces = [(name, first, n) for first, n in self._pieces(name, size)]
        return np.concatenate(self.part.read(pieces)) if pieces else np.zeros(0, np.uint16)  # type: ignore[arg-type]

    def _pieces(self, name: str, size: int) -> list[tuple[int, int]]:
        if name != "kv":
            return [(0, size)]
        return [
            (self.slot_size * slot + area.offset, area.n_elements)
            for slot in range(self.n_slots)
            for area in self.areas
        ]


# -- numbers and comparisons -----------------------------------------------------------------------


def one(value: float) -> np.ndarray:
    return np.array([value], np.float32)


def integers(below: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([below, *shape]).integers(0, below, shape)


def assert_same(
    name: str, twin: Twin, gpu: dict[str, np.ndarray], tolerance: float, *,
    but: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Compare memories: integers and bits equal, floats within a tolerance, relative to the array's
    largest number. Between arrays nothing may have changed.
    """
    cpu = {space: values.copy() for space, values in twin.cpu.items()}
    for each in but:
        twin.view(cpu, each)[...] = twin.view(gpu, each)[...] = 0
    for space in ("n", "q", "kv"):
        np.testing.assert_array_equal(gpu[space], cpu[space], err_msg=space)
    for array in [name for name, values in twin.arrays.items() if values.size]:
        x, y = twin.view(gpu, array).astype(float), twin.view(cpu, array).astype(float)
        np.testing.assert_array_equal(np.isnan(x), np.isnan(y), err_msg=array)
        x, y = np.nan_to_num(x, posinf=9e9, neginf=-9e9), np.nan_to_num(y, posinf=9e9, neginf=-9e9)
        worst = np.abs(x - y).max() / max(np.abs(y).max(), 1e-30)
        WORST[name] = max(WORST.get(name, 0.0), worst)
        assert worst <= tolerance, f"{array}: {worst:.2e}"
        twin.view(cpu, array)[...] = twin.view(gpu, array)[...] = 0
    np.testing.assert_array_equal(gpu["f"], cpu["f"], err_msg="f between arrays")
