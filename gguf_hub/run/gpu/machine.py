"""A machine whose programs run partly on GPUs, partly on the CPU (see ``Placement``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.memory.layout import Array, MemoryLayout
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.gpu.placement import CPU, Placement
from gguf_hub.run.gpu.transfers import Tracker, Transfer
from gguf_hub.run.kernels.vm.bounds import Bounds, Call, Span
from gguf_hub.run.kernels.vm.effects import effects_of
from gguf_hub.run.kernels.vm.machine import Machine, Memory
from gguf_hub.run.kernels.vm.ops import (
    N_OUTPUT_PAIRS,
    N_OUTPUTS,
    N_PAIRS,
    N_TOKENS,
    Step,
)
from gguf_hub.run.kernels.vm.sequences import last_position

_MAX_PLANS = 64
"""Plans that a program keeps: one for each number of tokens that a call may have."""


@dataclass(frozen=True)
class _Segment:
    """Neighbouring steps of one device."""

    device: int
    steps: tuple[Step, ...]
    code: Any


@dataclass(frozen=True)
class _Plan:
    """One pass for some number of tokens.

    Attributes:
        transfers: Before each segment.
        tracker: Who has what afterwards.
    """

    transfers: tuple[tuple[Transfer, ...], ...]
    tracker: Tracker


@dataclass
class MixedCode:
    """A program in segments.

    Attributes:
        segments: In order.
        plans: Numbers of tokens -> what is moved when.
    """

    segments: tuple[_Segment, ...]
    plans: dict[tuple[int, ...], _Plan] = field(default_factory=dict)


class Part(Protocol):
    """A device with its share of a program, and a copy of the program's memory (``GpuPart``)."""

    def prepare(self, steps: Sequence[Step]) -> None:
        """Compile kernels and send the weights that steps read."""

    def load(self, steps: Sequence[Step], progress: Progress = SILENT) -> Any:
        """Return steps for ``run``."""

    def begin(self, n: NDArray[np.int64]) -> None:
        """Take over the header of a pass, and what follows it."""

    def run(self, code: Any) -> None:
        """Start steps, as ``load`` returned them."""

    def has_cache(self, first: int) -> bool:
        """Whether element ``first`` of ``kv``, of any slot, lies here."""

    def write(self, array: Array, first: int, values: NDArray[Any]) -> None:
        """Copy elements to the device."""

    def read(self, wanted: Sequence[tuple[Array, int, int]]) -> list[NDArray[Any]]:
        """Wait; return copies of elements: (array, first, how many) of each."""

    def close(self) -> None:
        """Free the device."""


class MixedMachine:
    """Runs programs on the CPU and on GPUs; each part has a copy of the memory.

    ``memory`` is the CPU's. What a pass has computed elsewhere is there after ``pull``.

    Args:
        cpu: Runs the CPU's steps; closed with this machine.
        parts: The GPUs, as the placement counts them; closed with this machine.
        placement: Who runs which step.
        layout: Of the memory.
        bounds: Of the program.
    """

    def __init__(
        self,
        cpu: Machine,
        parts: Sequence[Part],
        placement: Placement,
        layout: MemoryLayout,
        bounds: Bounds,
    ) -> None:
        self.memory: Memory = cpu.memory
        self.n_threads = cpu.n_threads
        self.placement = placement
        self.n_gpu_layers = placement.n_gpu_layers
        self._cpu, self._parts = cpu, tuple(parts)
        self._areas, self._bounds = layout.areas, bounds
        self._n_written = layout.rows + next(
            area.n_elements for area in layout.areas
            if area.array == "n" and area.offset == layout.rows
        )  # fmt: skip
        self._tracker = Tracker(())

    def prepare(self, steps: Sequence[Step]) -> None:
        """Compile kernels and send the weights that steps read to where they run.

        Raises:
            GpuError: A driver refuses a kernel.
            GpuMemoryError: A GPU has no room for the weights.
        """
        for i, part in enumerate(self._parts):
            part.prepare([step for step in steps if self.placement.device_of(step) == i])

    def load(self, steps: Sequence[Step], progress: Progress = SILENT) -> MixedCode:
        """Return a program in segments, kernels compiled and weights where they are read."""
        segments: list[_Segment] = []
        for device, group in groupby(steps, self.placement.device_of):
            own = tuple(group)
            runner = self._cpu if device == CPU else self._parts[device]
            segments.append(_Segment(device, own, runner.load(own, progress)))
        return MixedCode(tuple(segments))

    def run(self, code: MixedCode) -> None:
        """Run a program; what GPUs do may not be done yet when this returns."""
        n = self.memory.n
        key = tuple(n[[N_TOKENS, N_OUTPUTS, N_PAIRS, N_OUTPUT_PAIRS]].tolist())
        if key not in code.plans:
            while len(code.plans) >= _MAX_PLANS:
                del code.plans[next(iter(code.plans))]
            code.plans[key] = self._plan(code)
        plan = code.plans[key]
        for part in self._parts:
            part.begin(n[: self._n_written])
        for segment, transfers in zip(code.segments, plan.transfers, strict=True):
            self._move(transfers)
            runner = self._cpu if segment.device == CPU else self._parts[segment.device]
            runner.run(segment.code)
        self._tracker = plan.tracker

    def pull(self, *views: NDArray[Any]) -> None:
        """Copy into views of the memory what GPUs have computed of them."""
        wanted: dict[int, list[tuple[Array, int, int, NDArray[Any]]]] = {}
        for view in views:
            for row in np.atleast_2d(view):
                array, first = self._find(row)
                device = self._holder(array, first)
                if device != CPU and len(row):
                    wanted.setdefault(device, []).append((array, first, len(row), row))
        for device, parts in wanted.items():
            found = self._parts[device].read([part[:3] for part in parts])
            for (*_, row), values in zip(parts, found, strict=True):
                row[:] = values

    def push(self, *views: NDArray[Any]) -> None:
        """Copy views of the memory to the GPUs that compute with them."""
        for view in views:
            for row in np.atleast_2d(view):
                array, first = self._find(row)
                holder = self._holder(array, first)
                for i, part in enumerate(self._parts):
                    if len(row) and (array != "kv" or holder == i):
                        size = len(row) + (array == "kv" and len(row) % 2)
                        whole: NDArray[Any] = getattr(self.memory, array)
                        part.write(array, first, whole[first : first + size])

    def close(self) -> None:
        """Free all devices and end the threads."""
        for part in self._parts:
            part.close()
        self._cpu.close()

    def _plan(self, code: MixedCode) -> _Plan:
        """Follow the numbers that one pass computes."""
        n, tracker = self.memory.n, Tracker(self._areas)
        counts = {i: int(n[i]) for i in (N_OUTPUTS, N_PAIRS, N_OUTPUT_PAIRS)}
        bounds = replace(self._bounds, counts=counts)
        span = Span(int(n[N_TOKENS]), last_position(n) + 1)
        all_transfers = []
        for segment in code.segments:
            transfers: list[Transfer] = []
            for step in segment.steps:
                effects = effects_of(step, Call(step.types, bounds, span))
                transfers += tracker.read(segment.device, effects.reads)
                transfers += tracker.write(segment.device, effects.writes)
            all_transfers.append(tuple(transfers))
        return _Plan(tuple(all_transfers), tracker)

    def _move(self, transfers: Sequence[Transfer]) -> None:
        """Move numbers between devices, through the CPU's memory."""
        for device in dict.fromkeys(each.source for each in transfers if each.source != CPU):
            own = [each for each in transfers if each.source == device]
            found = self._parts[device].read([(t.array, t.first, t.size) for t in own])
            for each, values in zip(own, found, strict=True):
                self._whole(each.array)[each.first : each.first + each.size] = values
        for each in transfers:
            if each.target != CPU:
                values = self._whole(each.array)[each.first : each.first + each.size]
                self._parts[each.target].write(each.array, each.first, values)

    def _whole(self, array: Array) -> NDArray[Any]:
        whole: NDArray[Any] = getattr(self.memory, array)
        return whole

    def _find(self, row: NDArray[Any]) -> tuple[Array, int]:
        """Return which array a row is a part of, and its first element there."""
        address = row.ctypes.data
        arrays: tuple[Array, ...] = ("n", "f", "q", "kv")
        for array in arrays:
            whole = self._whole(array)
            at = address - whole.ctypes.data
            if 0 <= at < whole.nbytes:
                return array, at // whole.itemsize
        raise AssertionError("no part of the memory")

    def _holder(self, array: Array, first: int) -> int:
        if array != "kv":
            holder = self._tracker.holder(array, first)
            return CPU if holder is None else holder
        owners = [i for i, part in enumerate(self._parts) if part.has_cache(first)]
        return owners[0] if owners else CPU
