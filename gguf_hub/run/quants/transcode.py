"""Rows of weights from one type to another, on all threads, a chunk at a time.

Knows bytes and types; nothing of files' headers or of models. What cannot be stored (NaN,
infinity, numbers beyond the reach of a type's half-precision scale) is found on the way and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
    T.Q3_K: 64 * _HALF, T.Q6_K: 2048 * _HALF, T.IQ4_NL: 64 * _HALF, T.IQ4_XS: 2048 * _HALF,
    T.TQ1_0: _HALF, T.TQ2_0: _HALF, T.MXFP4: 6 * 2.0**120,
    T.IQ1_S: 5 * _HALF, T.IQ1_M: 5 * _HALF,
    T.IQ3_XXS: 200 * _HALF, T.IQ3_S: 200 * _HALF,
    T.IQ2_XXS: 80 * _HALF, T.IQ2_XS: 80 * _HALF, T.IQ2_S: 80 * _HALF,
}  # fmt: skip
"""Type -> the largest magnitude that it surely holds."""


@dataclass(frozen=True)
class Job:
    """How rows of a tensor become blocks.

    Attributes:
        source_type: Of the rows.
        type: Of the blocks.
        row_length: Weights in a row; they fill blocks of both types.
        is_weighted: Whether errors count by an importance matrix.
    """

    source_type: QuantType
    type: QuantType
    row_length: int
    is_weighted: bool = False

    @property
    def encoder(self) -> str:
        """The step that writes the blocks."""
        return f"encode{'_weighted' if self.is_weighted else ''}.{self.type.name}"


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
        self._importance = self._scratch + SCRATCH * n_threads
        size_bytes = 4 * max(CHUNK_WEIGHTS, row_length)  # F32 takes most
        memory = Memory.allocate(
            n=n_threads,
            f=self._importance + row_length,
            q=QUANTS * n_threads,
            kv=1,
            files=[data, np.empty(size_bytes, np.uint8), np.empty(size_bytes, np.uint8)],
        )
        self._progress = progress
        self._builder = builder or KernelBuilder()
        self._machine = CompiledMachine(self._builder, memory, n_threads)
        self._programs: dict[tuple[Job, int], Code] = {}

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

    def prepare(self, jobs: Iterable[Job]) -> None:
        """Compile all at once what these jobs need."""
        self._builder.addresses(kernels_of(jobs), self._progress)

    def chunks(
        self,
        name: str,
        job: Job,
        ranges: list[tuple[int, int]],
        importance: NDArray[np.float32] | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the blocks of a tensor; a chunk is valid until the one after the next is requested.

        While a chunk is being written, the next one is computed.

        Args:
            name: Of the tensor, for errors.
            job: What is to be done.
            ranges: Offset and length in bytes of the rows in the file, in order.
            importance: What errors of each input count for, [matrices, row_length], finite and
                not negative; for weighted jobs.

        Raises:
            GgufError: A weight that the type cannot hold; names the tensor and the index.
        """
        with ThreadPoolExecutor(1) as executor:
            pending: Future[NDArray[np.uint8]] | None = None
            n_matrices = 1 if importance is None else len(importance)
            for i, piece in enumerate(_cut(job, ranges, n_matrices)):
                row = None if importance is None else importance[piece.matrix]
                work = executor.submit(self._chunk, name, job, 1 + i % 2, piece, row)
                if pending:
                    yield pending.result()
                pending = work
            if pending:
                yield pending.result()

    def _chunk(
        self,
        name: str,
        job: Job,
        buffer: int,
        piece: _Piece,
        importance: NDArray[np.float32] | None,
    ) -> NDArray[np.uint8]:
        if importance is not None:
            self._set_importance(importance)
        self._run(job, buffer, piece.offset, piece.n_rows)
        bad_rows = self._machine.memory.n[CHUNK_BAD_ROW:][: self._machine.n_threads]
        if (bad_rows >= 0).any():
            row = int(bad_rows[bad_rows >= 0].min())
            at = piece.offset + row * job.source_type.row_bytes(job.row_length)
            self._refuse(name, job, buffer, piece.first + row, at)
        n_bytes = piece.n_rows * job.type.row_bytes(job.row_length)
        return self._machine.memory.files[buffer][:n_bytes]

    def _set_importance(self, values: NDArray[np.float32]) -> None:
        """Let errors count by these: only their relations matter, so that 1 is the largest."""
        largest = float(values.max())
        row = self._machine.memory.f[self._importance : self._importance + len(values)]
        row[:] = values / np.float32(largest) if largest > 0 else 1

    def _run(self, job: Job, buffer: int, at: int, n_rows: int) -> None:
        if (job, buffer) not in self._programs:
            self._programs[job, buffer] = self._load(job, buffer)
        end = at + n_rows * job.source_type.row_bytes(job.row_length)
        if not (at >= 0 and end <= self._machine.memory.files[0].size):
            raise ProgramError(f"rows at bytes [{at}, {end}) lie outside of the file")
        self._check_file()
        n = self._machine.memory.n
        n[CHUNK_ROWS], n[CHUNK_OFFSET] = n_rows, at
        n[CHUNK_BAD_ROW:][: self._machine.n_threads] = -1
        self._machine.run(self._programs[job, buffer])

    def _load(self, job: Job, buffer: int) -> Code:
        """Return the program of a chunk; none of its steps can leave its memory."""
        machine, steps = self._machine, list(self._write_steps(job, buffer))
        n_threads, memory = machine.n_threads, machine.memory
        blocks = {
            "n": [(HEADER, HEADER + n_threads)],
            "f": [
                (0, self._scratch),
                (self._scratch, self._importance),
                (self._importance, memory.f.size),
            ],
            "q": [(0, memory.q.size)],
        }
        counts = {CHUNK_ROWS: _chunk_rows(job.row_length)}
        prove(steps, blocks, memory.files, Bounds(Span(0, 0), counts, n_threads=n_threads))
        return machine.load(steps, self._progress)

    def _write_steps(self, job: Job, buffer: int) -> Iterator[Step]:
        """Yield the program of a chunk: decode and encode each slice."""
        n_in = job.row_length
        rows = max(1, SLICE_WEIGHTS // n_in) * self._machine.n_threads
        largest = np.float32(_LARGEST[job.type]).view(np.int32)
        shared = {"rows": rows, "n_in": n_in, "x": 0, "x_stride": self._stride}
        more = {"importance": self._importance} if job.is_weighted else {}
        for first in range(0, _chunk_rows(n_in), rows):
            yield step(
                f"decode.{job.source_type.name}",
                first=first,
                row_bytes=job.source_type.row_bytes(n_in),
                largest=int(largest),
                barrier=False,
                **shared,
            )
            yield step(
                job.encoder,
                file=buffer,
                barrier=False,
                first=first,
                row_bytes=job.type.row_bytes(n_in),
                scratch=self._scratch,
                **shared,
                **more,
            )

    def _refuse(self, name: str, job: Job, buffer: int, row: int, at: int) -> None:
        """Raise with the first weight of a row that cannot be stored."""
        self._run(job, buffer, at, 1)
        # of a single row, all shares but the last are empty
        start = self._stride * (self._machine.n_threads - 1)
        values = self._machine.memory.f[start : start + job.row_length]
        largest = _LARGEST[job.type]
        column = int(np.flatnonzero(~(np.abs(values) <= np.float32(largest)))[0])
        value, index = float(values[column]), row * job.row_length + column
        problem = f"tensor `{name}`: weight {index:,} (row {row:,}, column {column:,}) is {value:g}"
        if np.isfinite(value):
            problem += f": {job.type.name} holds magnitudes up to {largest:,.0f}"
        raise GgufError(problem, hint="the file is damaged, or was converted wrongly")


def kernels_of(jobs: Iterable[Job]) -> list[str]:
    """Return the names of the kernels that these jobs need."""
    names = ((f"decode.{job.source_type.name}", job.encoder) for job in jobs)
    return list(dict.fromkeys(["run_program", *(name for pair in names for name in pair)]))


def _chunk_rows(row_length: int) -> int:
    return max(1, CHUNK_WEIGHTS // row_length)


@dataclass(frozen=True)
class _Piece:
    """Rows that are worked on at once.

    Attributes:
        first: How many rows come before them in the tensor.
        offset: Where they begin in the file.
        n_rows: How many.
        matrix: Which of the tensor's matrices they belong to.
    """

    first: int
    offset: int
    n_rows: int
    matrix: int


def _cut(job: Job, ranges: list[tuple[int, int]], n_matrices: int) -> Iterator[_Piece]:
    """Yield the pieces of ranges; none belongs to two of the matrices."""
    row_bytes, first = job.source_type.row_bytes(job.row_length), 0
    n_rows = sum(size_bytes for _, size_bytes in ranges) // row_bytes // n_matrices
    for offset, size_bytes in ranges:
        end = first + size_bytes // row_bytes
        while first < end:
            matrix = first // max(1, n_rows)
            count = min(_chunk_rows(job.row_length), end - first, n_rows * (matrix + 1) - first)
            yield _Piece(first, offset, count, matrix)
            first, offset = first + count, offset + count * row_bytes
