"""Rows of weights from one type to another, on all threads, a chunk at a time.

Knows bytes and types; nothing of files' headers or of models. What cannot be stored (NaN,
infinity, numbers beyond the reach of a type's half-precision scale) is found on the way and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from gguf_hub.errors import GgufError, ProgramError
from gguf_hub.gguf.memory.layout import HEADER
from gguf_hub.gguf.types import QuantType
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.quantize.encode_memory import QUANTS, SCRATCH
from gguf_hub.run.kernels.vm.extents import Bounds, Span, prove
from gguf_hub.run.kernels.vm.machine import Code, CompiledMachine, Memory
from gguf_hub.run.kernels.vm.ops import CHUNK_BAD_ROW, CHUNK_OFFSET, CHUNK_ROWS, Step, step

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = QuantType
CHUNK_WEIGHTS = 1 << 22
"""Weights that are worked on between two writes."""
SLICE_WEIGHTS = 1 << 15
"""Weights that a thread decodes and encodes while they are in its cache."""

_HALF = 65504.0
_LARGEST = {
    T.F32: 3.4e38, T.BF16: 3.38e38, T.F16: _HALF,
    T.Q8_0: 127 * _HALF, T.Q4_0: 8 * _HALF, T.Q5_0: 16 * _HALF,
    # their minimum is a half itself, or one times a small integer
    T.Q4_1: _HALF, T.Q5_1: _HALF, T.Q2_K: 15 * _HALF, T.Q4_K: 63 * _HALF, T.Q5_K: 63 * _HALF,
    # half of what scale times quant reaches: a fitted scale may be larger than the obvious one
    T.Q3_K: 64 * _HALF, T.Q6_K: 2048 * _HALF,
}  # fmt: skip
"""Type -> the largest magnitude that it surely holds."""


class Transcoder:
    """Turns rows of one mapped file into other types.

    Args:
        data: The file, ``uint8[size]``.
        row_length: Weights of the longest row.
        n_threads: How many threads compute.
        builder: Where machine code comes from; the user's cache when None.
        progress: Shows the compiling.
        check_file: Raises if the file has changed; called before each chunk.

    Use it as a context manager: it has threads.
    """

    def __init__(
        self,
        data: NDArray[np.uint8],
        *,
        row_length: int,
        n_threads: int,
        builder: KernelBuilder | None = None,
        progress: Progress = SILENT,
        check_file: Callable[[], None] = lambda: None,
    ) -> None:
        self._check_file = check_file
        self._stride = max(SLICE_WEIGHTS, row_length)
        self._scratch = self._stride * n_threads
        size_bytes = 4 * max(CHUNK_WEIGHTS, row_length)  # F32 takes most
        memory = Memory.allocate(
            n=n_threads,
            f=self._scratch + SCRATCH * n_threads,
            q=QUANTS * n_threads,
            kv=1,
            files=[data, np.empty(size_bytes, np.uint8), np.empty(size_bytes, np.uint8)],
        )
        self._progress = progress
        self._builder = builder or KernelBuilder()
        self._machine = CompiledMachine(self._builder, memory, n_threads)
        self._programs: dict[tuple[QuantType, QuantType, int, int], Code] = {}

    def __enter__(self) -> Transcoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the threads."""
        self._machine.close()

    def prepare(self, pairs: Iterable[tuple[QuantType, QuantType]]) -> None:
        """Compile all at once what these pairs (type of rows, type of blocks) need."""
        self._builder.addresses(kernels_of(pairs), self._progress)

    def chunks(
        self,
        name: str,
        source_type: QuantType,
        type: QuantType,
        row_length: int,
        ranges: list[tuple[int, int]],
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the blocks of a tensor; a chunk is valid until the one after the next is requested.

        While a chunk is being written, the next one is computed.

        Args:
            name: Of the tensor, for errors.
            source_type: Of the rows.
            type: Of the blocks.
            row_length: Weights in a row; they fill blocks of both types.
            ranges: Offset and length in bytes of the rows in the file, in order.

        Raises:
            GgufError: A weight that ``type`` cannot hold; names the tensor and the index.
        """
        with ThreadPoolExecutor(1) as executor:
            pending: Future[NDArray[np.uint8]] | None = None
            for i, (first, offset, n_rows) in enumerate(_cut(source_type, row_length, ranges)):
                key = (source_type, type, row_length, 1 + i % 2)
                work = executor.submit(self._chunk, name, key, first, offset, n_rows)
                if pending:
                    yield pending.result()
                pending = work
            if pending:
                yield pending.result()

    def _chunk(
        self, name: str, key: tuple[QuantType, QuantType, int, int], first: int, at: int, n: int
    ) -> NDArray[np.uint8]:
        """Compute ``n`` rows that lie at byte ``at``; ``first`` rows came before them."""
        _, type, row_length, buffer = key
        self._run(key, at, n)
        bad_rows = self._machine.memory.n[CHUNK_BAD_ROW:][: self._machine.n_threads]
        if (bad_rows >= 0).any():
            row = int(bad_rows[bad_rows >= 0].min())
            self._refuse(name, key, first + row, at + row * key[0].row_bytes(row_length))
        return self._machine.memory.files[buffer][: n * type.row_bytes(row_length)]

    def _run(self, key: tuple[QuantType, QuantType, int, int], at: int, n_rows: int) -> None:
        if key not in self._programs:
            self._programs[key] = self._load(key)
        source_type, _, row_length, _ = key
        end = at + n_rows * source_type.row_bytes(row_length)
        if not (at >= 0 and end <= self._machine.memory.files[0].size):
            raise ProgramError(f"rows at bytes [{at}, {end}) lie outside of the file")
        self._check_file()
        n = self._machine.memory.n
        n[CHUNK_ROWS], n[CHUNK_OFFSET] = n_rows, at
        n[CHUNK_BAD_ROW:][: self._machine.n_threads] = -1
        self._machine.run(self._programs[key])

    def _load(self, key: tuple[QuantType, QuantType, int, int]) -> Code:
        """Return the program of a chunk; none of its steps can leave its memory."""
        machine, steps = self._machine, list(self._write_steps(*key))
        n_threads, memory = machine.n_threads, machine.memory
        blocks = {
            "n": [(HEADER, HEADER + n_threads)],
            "f": [(0, self._scratch), (self._scratch, memory.f.size)],
            "q": [(0, memory.q.size)],
        }
        counts = {CHUNK_ROWS: _chunk_rows(key[2])}
        prove(steps, blocks, memory.files, Bounds(Span(0, 0), counts, n_threads=n_threads))
        return machine.load(steps, self._progress)

    def _write_steps(
        self, source_type: QuantType, type: QuantType, n_in: int, buffer: int
    ) -> Iterator[Step]:
        """Yield the program of a chunk: decode and encode each slice."""
        rows = max(1, SLICE_WEIGHTS // n_in) * self._machine.n_threads
        largest = np.float32(_LARGEST[type]).view(np.int32)
        shared = {"rows": rows, "n_in": n_in, "x": 0, "x_stride": self._stride}
        for first in range(0, _chunk_rows(n_in), rows):
            yield step(
                f"decode.{source_type.name}",
                first=first,
                row_bytes=source_type.row_bytes(n_in),
                largest=int(largest),
                barrier=False,
                **shared,
            )
            yield step(
                f"encode.{type.name}",
                file=buffer,
                barrier=False,
                first=first,
                row_bytes=type.row_bytes(n_in),
                scratch=self._scratch,
                **shared,
            )

    def _refuse(
        self, name: str, key: tuple[QuantType, QuantType, int, int], row: int, at: int
    ) -> None:
        """Raise with the first weight of a row that cannot be stored."""
        _, type, row_length, _ = key
        self._run(key, at, 1)
        # of a single row, all shares but the last are empty
        start = self._stride * (self._machine.n_threads - 1)
        values = self._machine.memory.f[start : start + row_length]
        column = int(np.flatnonzero(~(np.abs(values) <= np.float32(_LARGEST[type])))[0])
        value, index = float(values[column]), row * row_length + column
        problem = f"tensor `{name}`: weight {index:,} (row {row:,}, column {column:,}) is {value:g}"
        if np.isfinite(value):
            problem += f": {type.name} holds magnitudes up to {_LARGEST[type]:,.0f}"
        raise GgufError(problem, hint="the file is damaged, or was converted wrongly")


def kernels_of(pairs: Iterable[tuple[QuantType, QuantType]]) -> list[str]:
    """Return the names of the kernels that these pairs (type of rows, type of blocks) need."""
    names = ((f"decode.{source.name}", f"encode.{type.name}") for source, type in pairs)
    return list(dict.fromkeys(["run_program", *(name for pair in names for name in pair)]))


def _chunk_rows(row_length: int) -> int:
    return max(1, CHUNK_WEIGHTS // row_length)


def _cut(
    source_type: QuantType, row_length: int, ranges: list[tuple[int, int]]
) -> Iterator[tuple[int, int, int]]:
    """Yield chunks of ranges: (rows before it, offset, rows)."""
    row_bytes, first = source_type.row_bytes(row_length), 0
    for offset, size_bytes in ranges:
        n_rows = size_bytes // row_bytes
        for row in range(0, n_rows, _chunk_rows(row_length)):
            count = min(_chunk_rows(row_length), n_rows - row)
            yield first + row, offset + row * row_bytes, count
        first += n_rows
