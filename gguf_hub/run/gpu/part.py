"""The part of a program that one GPU runs: its memory, its weights, and its steps as dispatches.

The memory is that of the CPU's program (``ops``), at the same offsets, so that an area is moved
between the two by its name alone. ``n`` has 32 bits here; keys and values lie in two buffers for
each layer, those of all slots one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.memory.layout import Area, Array
from gguf_hub.run.gpu import layouts
from gguf_hub.run.gpu.device import Device, Dispatch, Slice
from gguf_hub.run.gpu.kernels import (
    ARGS,
    F,
    Header,
    K,
    N,
    Operation,
    Q,
    S,
    V,
    W,
    WeightPart,
    arguments_of,
    name_of,
)
from gguf_hub.run.gpu.lowering import lower
from gguf_hub.run.kernels.vm.ops import N_TOKENS, POSITION, SLOT, Step

_ARGUMENT_BYTES = 256  # from one step's arguments to the next: the largest alignment of bindings
_DTYPES: dict[str, Any] = {"n": np.int32, "f": np.float32, "q": np.int8, "kv": np.uint16}


@dataclass(frozen=True)
class _Bound:
    """An operation with its kernel; ``header_at`` is where ``set_row`` reads, or None."""

    kernel: Any
    bindings: Any
    grid: Callable[[Header], tuple[int, int, int]]
    header_at: int | None


@dataclass(frozen=True)
class GpuCode:
    """Steps as a GPU runs them."""

    operations: tuple[_Bound, ...]


class GpuPart:
    """Runs steps on one GPU.

    Args:
        device: The GPU; ``close`` closes it.
        sizes: Elements of ``n``, ``f`` and ``q``.
        cache_areas: Of ``kv``: keys and values of each layer that it computes.
        n_slots: Caches.
        tables: Offset in ``n`` -> file offsets of experts that stand there.
        file: Bytes of the mapped model.

    Raises:
        GpuMemoryError: It has no room for them.
    """

    def __init__(
        self,
        device: Device,
        sizes: Mapping[Array, int],
        cache_areas: Sequence[Area],
        n_slots: int,
        tables: Mapping[int, tuple[int, ...]],
        file: NDArray[np.uint8],
    ) -> None:
        self.device = device
        self._tables = tables
        self._file = file
        self._buffers = {name: self._whole(sizes[name], _DTYPES[name]) for name in ("n", "f", "q")}
        self._caches = {
            area.offset: (area, self._whole(area.n_elements * n_slots, np.uint16))
            for area in cache_areas
        }
        self._scratch: Slice | None = None
        self._weights: dict[WeightPart, Slice] = {}

    def _whole(self, n: int, dtype: Any) -> Slice:
        size = max(256, -(-n * np.dtype(dtype).itemsize // 256) * 256)
        return Slice(self.device.buffer(size), 0, size)

    def load(self, steps: Sequence[Step]) -> GpuCode:
        """Return steps for ``run``, their kernels compiled and their weights on the GPU."""
        operations = [
            (operation, step)
            for step in steps
            for operation in lower(step, self.device.max_binding, self._tables)
        ]
        self._make_scratch(max((each.scratch_floats for each, _ in operations), default=0))
        arguments = self._whole(_ARGUMENT_BYTES * max(1, len(operations)), np.uint8)
        rows = np.zeros((len(operations), _ARGUMENT_BYTES // 4), np.uint32)
        for row, (operation, step) in zip(rows, operations, strict=True):
            values = operation.arguments + self._slot_sizes(step)
            row[: len(values)] = values
            for first, table in (operation.tables or {}).items():
                self.write("n", first, np.array(table, np.int64))
        self.device.write(arguments.buffer, 0, rows.ravel())
        return GpuCode(
            tuple(
                self._bind(operation, step, arguments._replace(offset=_ARGUMENT_BYTES * i))
                for i, (operation, step) in enumerate(operations)
            )
        )

    def run(self, code: GpuCode, n: NDArray[np.int64]) -> None:
        """Start the steps; ``n`` is the header that the GPU's own was set to, and what follows."""
        header, dispatches = n[: SLOT + 1].tolist(), []
        for operation in code.operations:
            if operation.header_at is not None:
                row = n[operation.header_at :][:3].tolist()
                header[N_TOKENS], header[POSITION], header[SLOT] = row
            grid = operation.grid(header)
            if min(grid) > 0:
                dispatches.append(Dispatch(operation.kernel, operation.bindings, grid))
        if dispatches:
            self.device.submit(dispatches)

    def write(self, array: Array, first: int, values: NDArray[Any]) -> None:
        """Copy elements to the GPU; those of ``kv`` belong to one slot's part of one area."""
        target, at = self._place(array, first)
        data = np.ascontiguousarray(values.astype(_DTYPES[array], copy=False)).view(np.uint8)
        start = at % 4
        assert start == 0 and len(data) % 4 == 0, f"{array}[{first}]: not in whole words"
        self.device.write(target.buffer, at, data)

    def read(self, array: Array, first: int, n: int) -> NDArray[Any]:
        """Wait for the GPU; return a copy of elements."""
        target, at = self._place(array, first)
        size = n * np.dtype(_DTYPES[array]).itemsize
        return self.device.read([Slice(target.buffer, at, size)])[0].view(_DTYPES[array])

    def close(self) -> None:
        """Free the GPU."""
        self._buffers, self._caches, self._weights, self._scratch = {}, {}, {}, None
        self.device.close()

    def _place(self, array: Array, first: int) -> tuple[Slice, int]:
        """Return a buffer, and the byte of it where an element lies."""
        if array != "kv":
            return self._buffers[array], first * np.dtype(_DTYPES[array]).itemsize
        start = max(at for at in self._caches if at <= first)
        return self._caches[start][1], 2 * (first - start)

    def _slot_sizes(self, step: Step) -> tuple[int, ...]:
        at = arguments_of(step)
        return tuple(
            self._caches[at[name]][0].n_elements for name in ("k_cache", "v_cache") if name in at
        )

    def _make_scratch(self, n_floats: int) -> None:
        """Make room for the operation that needs the most; bindings keep what was made before."""
        if n_floats and (self._scratch is None or self._scratch.size < 4 * n_floats):
            self._scratch = self._whole(n_floats, np.float32)

    def _bind(self, operation: Operation, step: Step, arguments: Slice) -> _Bound:
        at = arguments_of(step)
        slices = {
            ARGS: arguments._replace(size=_ARGUMENT_BYTES),
            N: self._buffers["n"],
            F: self._buffers["f"],
            Q: self._buffers["q"],
        }
        for number, name in ((K, "k_cache"), (V, "v_cache")):
            if name in at:
                slices[number] = self._caches[at[name]][1]
        if self._scratch is not None:
            slices[S] = self._scratch
        if operation.weights:
            slices[W] = self._upload(operation.weights)
        kernel = self.device.kernel(operation.source)
        header_at = at["at"] if name_of(step) == "set_row" else None
        return _Bound(kernel, self.device.bind(kernel, slices), operation.grid, header_at)

    def _upload(self, part: WeightPart) -> Slice:
        """Return the weights on the GPU; the same are sent once."""
        if part not in self._weights:
            size = layouts.size_bytes(part)
            buffer = self.device.buffer(size)
            for offset, words in layouts.pack(part, self._file):
                self.device.write(buffer, offset, words)
            self._weights[part] = Slice(buffer, 0, -(-size // 16) * 16)
        return self._weights[part]
