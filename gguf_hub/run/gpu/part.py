"""The part of a program that one GPU runs: its memory, its weights, and its steps as dispatches.

The memory is that of the CPU's program (``ops``), at the same offsets, so that an area is moved
between the two by its name alone. ``n`` has 32 bits here; keys and values lie in two buffers for
each layer, those of all slots one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.memory.layout import Area, Array
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.gpu.device import Dispatch, Grid, Slice
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
)
from gguf_hub.run.gpu.lowering import lower_all
from gguf_hub.run.gpu.rows import ROW_HEADER, padded_rows, row_headers, steps_of_rows
from gguf_hub.run.gpu.steps import set_row
from gguf_hub.run.gpu.weights import WeightStore
from gguf_hub.run.kernels.vm.ops import (
    N_SEQUENCES,
    N_TOKENS,
    POSITION,
    SEQUENCES,
    SLOT,
    Step,
)

_ARGUMENT_BYTES = 256  # from one step's arguments to the next: the largest alignment of bindings
_MAX_PASSES = 64  # numbers of tokens
_DTYPES: dict[str, Any] = {"n": np.int32, "f": np.float32, "q": np.int8, "kv": np.uint16}


class _Bound(NamedTuple):
    """An operation with its kernel.

    Attributes:
        kernel: Compiled.
        bindings: What it sees.
        grid: Workgroups, from the header.
        header_at: Where ``set_row`` reads; None for other operations.
        is_moving: Whether the grid depends on the position, too: that of steps on a cache.
    """

    kernel: Any
    bindings: Any
    grid: Callable[[Header], Grid]
    header_at: int | None
    is_moving: bool


@dataclass
class _Pass:
    """What is run for some numbers of tokens.

    Attributes:
        found: For each operation its dispatch, None where it is left out.
        moving: Which of them depend on the position.
        last: Grids of these in the last pass, and all its dispatches; set at once, as Ctrl-C may
            come between any two statements.
    """

    found: list[Dispatch | None]
    moving: tuple[tuple[int, _Bound], ...]
    last: tuple[tuple[Grid, ...], tuple[Dispatch, ...]] = ((), ())

    def at(self, header: Header) -> tuple[Dispatch, ...]:
        """Return the dispatches for a header; the same object as before where they are the same."""
        grids = tuple([each.grid(header) for _, each in self.moving])
        if grids != self.last[0] or not self.last[1]:
            for (i, each), grid in zip(self.moving, grids, strict=True):
                self.found[i] = _dispatch(each, grid)
            self.last = grids, tuple([each for each in self.found if each is not None])
        return self.last[1]


@dataclass
class GpuCode:
    """Steps as a GPU runs them.

    Attributes:
        operations: In order.
        steps: That they do.
        ahead: Dispatches that have been recorded, and not submitted yet, and the commands.
        rows: Number of tokens -> the operations for so many of several sequences.
    """

    operations: tuple[_Bound, ...]
    steps: tuple[Step, ...] = ()
    ahead: tuple[tuple[Dispatch, ...], Any] = ((), None)
    rows: dict[int, tuple[_Bound, ...]] = field(default_factory=dict)
    _passes: dict[tuple[int, ...], _Pass] = field(default_factory=dict)

    def dispatches(self, header: list[int]) -> tuple[Dispatch, ...]:
        """Return what is to run for a header."""
        key = (*header[:POSITION], *header[POSITION + 1 :])
        if key not in self._passes:
            if len(self._passes) >= _MAX_PASSES:
                self._passes.clear()
            self._passes[key] = _Pass(
                [_dispatch(each, each.grid(header)) for each in self.operations],
                tuple((i, each) for i, each in enumerate(self.operations) if each.is_moving),
            )
        return self._passes[key].at(header)

    def dispatches_of_rows(
        self, n_rows: int, header: list[int], headers: NDArray[np.int64]
    ) -> Iterator[Dispatch]:
        """Yield what is to run for tokens of several sequences; no pass has those of another."""
        header = list(header)
        for each in self.rows[n_rows]:
            if each.header_at is not None:
                row = (each.header_at - SEQUENCES) // ROW_HEADER
                header[N_TOKENS], header[POSITION], header[SLOT] = headers[row].tolist()
            if (found := _dispatch(each, each.grid(header))) is not None:
                yield found


def _dispatch(operation: _Bound, grid: Grid) -> Dispatch | None:
    return Dispatch(operation.kernel, operation.bindings, grid) if min(grid) > 0 else None


class GpuPart:
    """Runs steps on one GPU.

    Args:
        store: The GPU and the weights there.
        sizes: Elements of ``n``, ``f`` and ``q``, and of ``kv`` for one slot.
        cache_areas: Of ``kv``: keys and values of each layer that it computes.
        n_slots: Caches.
        tables: Offset in ``n`` -> file offsets of experts that stand there.

    Raises:
        GpuMemoryError: It has no room for them.
    """

    def __init__(
        self,
        store: WeightStore,
        sizes: Mapping[Array, int],
        cache_areas: Sequence[Area],
        n_slots: int,
        tables: Mapping[int, tuple[int, ...]],
    ) -> None:
        self.device = store.device
        self._store, self._tables = store, tables
        self._owned: list[Any] = []
        try:
            self._buffers = {
                name: self._whole(sizes[name], _DTYPES[name]) for name in ("n", "f", "q")
            }
            self._caches = {
                area.offset: (area, self._whole(area.n_elements * n_slots, np.uint16))
                for area in cache_areas
            }
        except BaseException:
            self.free()
            raise
        self._scratch: Slice | None = None
        self._slot_size = max(1, sizes["kv"])
        self._header = [0] * (SLOT + 1)
        self._row_headers: NDArray[np.int64] | None = None

    def _whole(self, n: int, dtype: Any) -> Slice:
        size = max(256, -(-n * np.dtype(dtype).itemsize // 256) * 256)
        self._owned.append(self.device.buffer(size))
        return Slice(self._owned[-1], 0, size)

    def prepare(self, steps: Sequence[Step]) -> None:
        """Make room for steps, compile their kernels and send the weights that they read.

        Raises:
            GpuError: The driver refuses a kernel.
            GpuMemoryError: The GPU has no room for the weights.
        """
        operations = lower_all(steps, self.device.max_binding, self._tables)
        self._make_scratch(max((each.scratch_floats for each, _ in operations), default=0))
        for operation, _ in operations:
            self._kernel_of(operation)
            if operation.weights:
                self._store.get(operation.weights)

    def load(self, steps: Sequence[Step], progress: Progress = SILENT) -> GpuCode:
        """Return steps for ``run``, their kernels compiled and their weights on the GPU."""
        return GpuCode(self._make(self._lower(steps)), tuple(steps))

    def _lower(self, steps: Sequence[Step]) -> list[tuple[Operation, Step | None]]:
        return [*lower_all(steps, self.device.max_binding, self._tables)]

    def _load_rows(self, code: GpuCode, n_rows: int) -> None:
        """Make a program ready for tokens of several sequences."""
        operations: list[tuple[Operation, Step | None]] = []
        for row, steps in steps_of_rows(code.steps, n_rows):
            if row is not None:
                operations.append((set_row(SEQUENCES + ROW_HEADER * row), None))
            operations += self._lower(steps)
        code.rows[n_rows] = self._make(operations)

    def _make(self, operations: Sequence[tuple[Operation, Step | None]]) -> tuple[_Bound, ...]:
        """Return operations with their kernels, and their arguments on the GPU."""
        self._make_scratch(max((each.scratch_floats for each, _ in operations), default=0))
        arguments = self._whole(_ARGUMENT_BYTES * max(1, len(operations)), np.uint8)
        rows = np.zeros((len(operations), _ARGUMENT_BYTES // 4), np.uint32)
        for row, (operation, step) in zip(rows, operations, strict=True):
            values = operation.arguments + self._slot_sizes(step)
            row[: len(values)] = values
            for first, table in (operation.tables or {}).items():
                self.write("n", first, np.array(table, np.int64))
        self.device.write(arguments.buffer, 0, rows.ravel())
        return tuple(
            self._bind(operation, step, arguments._replace(offset=_ARGUMENT_BYTES * i))
            for i, (operation, step) in enumerate(operations)
        )

    def begin(self, n: NDArray[np.int64]) -> None:
        """Take over the header of a pass, and what follows it.

        Of tokens of several sequences each has a header, where the CPU's steps have the table.
        """
        self._header, self._row_headers = n[: SLOT + 1].tolist(), None
        if len(n) > N_SEQUENCES and n[N_SEQUENCES] > 1:
            self._row_headers = row_headers(n, padded_rows(int(n[N_TOKENS])))
            n = n.copy()
            n[SEQUENCES : SEQUENCES + self._row_headers.size] = self._row_headers.ravel()
        self.write("n", 0, n)

    def run(self, code: GpuCode) -> None:
        """Start the steps of a pass that has begun.

        The next pass is recorded while the GPU computes this one: where both have one token, they
        are mostly the same.
        """
        if self._row_headers is not None:
            self._run_rows(code, self._row_headers)
            return
        dispatches = code.dispatches(self._header)
        if not dispatches:
            return
        recorded, commands = code.ahead
        code.ahead = (), None  # before they are submitted: Ctrl-C must not leave them for another
        if recorded is not dispatches:
            commands = self.device.record(dispatches)
        self.device.submit(commands)
        if self._header[N_TOKENS] == 1:
            code.ahead = dispatches, self.device.record(dispatches)

    def _run_rows(self, code: GpuCode, headers: NDArray[np.int64]) -> None:
        """Start the steps for tokens of several sequences."""
        n_rows = len(headers) - 1
        if n_rows not in code.rows:
            self._load_rows(code, n_rows)
        dispatches = tuple(code.dispatches_of_rows(n_rows, self._header, headers))
        if dispatches:
            self.device.submit(self.device.record(dispatches))

    def has_cache(self, first: int) -> bool:
        """Whether element ``first`` of ``kv``, of any slot, lies here."""
        return self._cache_of(first) is not None

    def write(self, array: Array, first: int, values: NDArray[Any]) -> None:
        """Copy elements to the GPU; those of ``kv`` belong to one slot's part of one area."""
        target, at = self._place(array, first)
        data = np.ascontiguousarray(values.astype(_DTYPES[array], copy=False)).view(np.uint8)
        if at % 4 or len(data) % 4:
            raise AssertionError(f"{array}[{first}]: {len(data)} bytes are not whole words")
        self.device.write(target.buffer, at, data)

    def read(self, wanted: Sequence[tuple[Array, int, int]]) -> list[NDArray[Any]]:
        """Wait for the GPU; return copies of elements: (array, first, how many) of each."""
        slices = []
        for array, first, n in wanted:
            target, at = self._place(array, first)
            slices.append(Slice(target.buffer, at, n * np.dtype(_DTYPES[array]).itemsize))
        found = self.device.read(slices)
        return [data.view(_DTYPES[array]) for data, (array, *_) in zip(found, wanted, strict=True)]

    def free(self) -> None:
        """Free the memory, not the weights."""
        while self._owned:
            self.device.free(self._owned.pop())

    def close(self) -> None:
        """Free the GPU."""
        self.free()
        self._store.close()

    def _place(self, array: Array, first: int) -> tuple[Slice, int]:
        """Return a buffer, and the byte of it where an element lies."""
        if array != "kv":
            return self._buffers[array], first * np.dtype(_DTYPES[array]).itemsize
        found = self._cache_of(first)
        assert found is not None, f"kv[{first}] is computed elsewhere"
        return found

    def _cache_of(self, first: int) -> tuple[Slice, int] | None:
        slot, at = divmod(first, self._slot_size)
        for area, whole in self._caches.values():
            if area.offset <= at < area.offset + area.n_elements:
                return whole, 2 * (slot * area.n_elements + at - area.offset)
        return None

    def _slot_sizes(self, step: Step | None) -> tuple[int, ...]:
        at = step.named if step else {}
        return tuple(
            self._caches[at[name]][0].n_elements for name in ("k_cache", "v_cache") if name in at
        )

    def _make_scratch(self, n_floats: int) -> None:
        """Make room for the operation that needs the most; bindings keep what was made before."""
        if n_floats and (self._scratch is None or self._scratch.size < 4 * n_floats):
            self._scratch = self._whole(n_floats, np.float32)

    def _kernel_of(self, operation: Operation) -> Any:
        return self.device.kernel(operation.source, is_checked=operation.is_checked)

    def _bind(self, operation: Operation, step: Step | None, arguments: Slice) -> _Bound:
        at = step.named if step else {}
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
            slices[W] = self._store.get(operation.weights)
        kernel = self._kernel_of(operation)
        header_at = None if step else operation.arguments[0]
        bindings = self.device.bind(kernel, slices)
        return _Bound(kernel, bindings, operation.grid, header_at, "k_cache" in at)
