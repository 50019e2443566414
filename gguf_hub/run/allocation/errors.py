"""How far types are from weights: rows are encoded and decoded, and the difference is weighed.

The error of a type for a unit is relative: sum w (x - y)^2 / sum w x^2 over a sample of its rows,
where w is the mean square of what enters there (an importance matrix), times how often an expert is
used. That is the error of the products, as far as inputs are not correlated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.format import count_elements
from gguf_hub.gguf.shards import Gguf
from gguf_hub.gguf.strings import shown
from gguf_hub.gguf.types import QuantType
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.allocation.units import Unit
from gguf_hub.run.kernels.quantize.encode_memory import WEIGHTED_TYPES
from gguf_hub.run.quants.imatrix import ImportanceMatrix
from gguf_hub.run.quants.plan import Conversion
from gguf_hub.run.quants.transcode import Job, Transcoder

T = QuantType

SAMPLE_WEIGHTS = 1 << 18
"""Weights of a unit that are encoded at most, if that is not too few rows of each matrix."""
LEAST_ROWS = 4

Errors = dict[str, dict[QuantType, float]]


def measure_errors(
    units: Sequence[Unit],
    file: Gguf,
    imatrix: ImportanceMatrix | None,
    *,
    known: Errors,
    save: Callable[[], None] = lambda: None,
    n_threads: int = 1,
    progress: Progress = SILENT,
) -> None:
    """Add the errors that are not known.

    Args:
        units: With parts that are tensors of the file.
        file: The source.
        imatrix: What errors count for; None for all alike.
        known: Unit -> type -> relative error, 0 for the source's own type; of units that have a
            choice.
        save: Called after each unit.
        n_threads: Threads that compute.
        progress: Shows the compiling, and units.

    Raises:
        GgufError: A weight is not finite, or more than a type holds.
    """
    todo = []
    for unit in units:
        missing = tuple(type for type in unit.types if type not in known.get(unit.name, {}))
        if missing and len(unit.types) > 1:
            todo.append(replace(unit, types=missing))
    if not todo:
        return
    with (
        _Encoder(todo, n_threads=n_threads, progress=progress, check_file=file.check_size) as coder,
        progress.task("encode", len(todo), unit="tensors") as task,
    ):
        coder.prepare(todo, imatrix)
        for unit in todo:
            known.setdefault(unit.name, {}).update(_errors_of(unit, file, imatrix, coder))
            save()
            task.advance(1)


def _errors_of(
    unit: Unit, file: Gguf, imatrix: ImportanceMatrix | None, coder: _Encoder
) -> dict[QuantType, float]:
    errors, norm = dict.fromkeys(unit.types, 0.0), 0.0
    for part in unit.parts:
        raw, n_rows = sample(part, file, SAMPLE_WEIGHTS // len(unit.parts))
        name, row_length = part.spec.name, unit.row_length
        means = imatrix.weights_of(name, part.spec.shape) if imatrix else None
        n_matrices = len(raw) // n_rows
        used = imatrix.counts_of(name, n_matrices) if imatrix else np.ones(n_matrices)
        weights = np.ones((n_matrices, row_length)) if means is None else means.astype(np.float64)
        weights = np.repeat(weights * used[:, None], n_rows, axis=0)
        values = coder.decoded(name, part.source_type, row_length, raw)
        norm += float((weights * values**2).sum())
        for type in unit.types:
            if type is not part.source_type:
                encoded = coder.encoded(part, type, raw, means)
                there = coder.decoded(name, type, row_length, encoded)
                errors[type] += float((weights * (values - there) ** 2).sum())
    return {type: error / norm if norm else 0.0 for type, error in errors.items()}


def sample(part: Conversion, file: Gguf, n_weights: int) -> tuple[NDArray[np.uint8], int]:
    """Return rows of a tensor, evenly from each of its matrices.

    Args:
        part: The tensor.
        file: The file that has it.
        n_weights: How many at most, if that is not too few rows.

    Returns:
        uint8 [matrices * rows, bytes of a row], and the rows of each matrix.
    """
    n_out = part.spec.shape[1]
    n_matrices, count = _rows_of(part, n_weights)
    rows = file.tensor_bytes(part.spec.name).reshape(n_matrices, n_out, -1)
    which = np.arange(count) * n_out // count
    return np.ascontiguousarray(rows[:, which].reshape(n_matrices * count, -1)), count


def _rows_of(part: Conversion, n_weights: int) -> tuple[int, int]:
    """Return how many matrices a tensor has, and how many rows of each make up a sample."""
    n_in, n_out = part.spec.shape[:2]
    n_matrices = count_elements(part.spec.shape[2:])
    return n_matrices, min(n_out, max(LEAST_ROWS, n_weights // (n_matrices * n_in)))


class _Encoder:
    """Encodes and decodes rows that lie in memory; a context manager.

    Args:
        units: What will be encoded, for the size of the memory.
        n_threads: Threads that compute.
        progress: Shows the compiling.
        check_file: Raises if the file has changed.
    """

    def __init__(
        self, units: Sequence[Unit], *, n_threads: int, progress: Progress,
        check_file: Callable[[], None],
    ) -> None:  # fmt: skip
        row_length = max(unit.row_length for unit in units)
        n_weights = max(unit.row_length * _most_rows(unit) for unit in units)
        self._memory = np.zeros(4 * n_weights, np.uint8)  # F32 takes most
        self._coder = Transcoder(
            self._memory, row_length=row_length, n_threads=n_threads, progress=progress,
            check_file=check_file,
        )  # fmt: skip
        self._stack = ExitStack()

    def __enter__(self) -> _Encoder:
        self._stack.enter_context(self._coder)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def prepare(self, units: Iterable[Unit], imatrix: ImportanceMatrix | None) -> None:
        """Compile all that is needed at once."""
        jobs = set()
        for unit in units:
            for part in unit.parts:
                means = imatrix.weights_of(part.spec.name, part.spec.shape) if imatrix else None
                for type in unit.types:
                    jobs.add(_job(part, type, is_weighted=means is not None))
                    jobs.add(Job(type, T.F32, unit.row_length))
                jobs.add(Job(part.source_type, T.F32, unit.row_length))
        self._coder.prepare(sorted(jobs, key=repr))

    def encoded(
        self, part: Conversion, type: QuantType, raw: NDArray[np.uint8],
        importance: NDArray[np.float32] | None,
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Return rows in another type, uint8 [rows, bytes of a row]."""
        job = _job(part, type, is_weighted=importance is not None)
        return self._run(part.spec.name, job, raw, importance if job.is_weighted else None)

    def decoded(
        self, name: str, type: QuantType, row_length: int, raw: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """Return the weights of rows, [rows, row_length]."""
        blocks = self._run(name, Job(type, T.F32, row_length), raw, None)
        return blocks.view(np.float32).astype(np.float64)

    def _run(
        self, name: str, job: Job, raw: NDArray[np.uint8], importance: NDArray[np.float32] | None
    ) -> NDArray[np.uint8]:
        self._memory[: raw.size] = raw.reshape(-1)
        title = f"{shown(name)} (a sample of its rows)"
        chunks = self._coder.chunks(title, job, [(0, raw.size)], importance)
        return np.concatenate([chunk.copy() for chunk in chunks]).reshape(len(raw), -1)


def _job(part: Conversion, type: QuantType, *, is_weighted: bool) -> Job:
    is_weighted = is_weighted and type in WEIGHTED_TYPES
    return Job(part.source_type, type, part.spec.shape[0], is_weighted)


def _most_rows(unit: Unit) -> int:
    """Return how many rows of one tensor of a unit are encoded at most."""
    samples = (_rows_of(part, SAMPLE_WEIGHTS // len(unit.parts)) for part in unit.parts)
    return max(n_matrices * count for n_matrices, count in samples)
