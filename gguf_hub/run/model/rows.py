"""Tokens of several sequences, in one pass over the weights.

Most steps treat the tokens of a call alike. Those of ``_STRIDES`` treat them as neighbours in one
cache: they are done once for each token, in its own sequence's cache, with its own state. Several
tokens of one sequence are rows, too: each such step is done for all rows before the next one, so
keys and values are there when attention reads them. (States of a sequence have one row at most.)
Between them ``set_row`` writes the header that they read. The kernels themselves know nothing of
it.

A program is written for some number of sequences and runs fewer, too: the steps of the others see
no tokens. Where a sequence's cache lies is written into the steps' arguments before each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UsageError
from gguf_hub.run.kernels.vm.extents import Bounds, Span
from gguf_hub.run.kernels.vm.machine import LoadedProgram
from gguf_hub.run.kernels.vm.ops import (
    HEADER_SIZE,
    N_OUTPUT_PAIRS,
    N_OUTPUTS,
    N_PAIRS,
    Step,
    step,
)
from gguf_hub.run.model.config import ModelConfig
from gguf_hub.run.model.program import Program


def ends_of(slots: Sequence[int], positions: Sequence[int]) -> dict[int, int]:
    """Return slot -> the position after its last row.

    Raises:
        UsageError: Rows of a slot do not follow one another.
    """
    ends: dict[int, int] = {}
    for slot, position in zip(slots, positions, strict=True):
        if position != (expected := ends.get(slot, position)):
            raise UsageError(f"position {position} of slot {slot}: expected {expected}, the one "
                             "after the last row's")  # fmt: skip
        ends[slot] = position + 1
    return ends


@dataclass(frozen=True)
class RowProgram:
    """A program for several sequences.

    Attributes:
        code: As ``Machine.run`` takes it.
        n_rows: For how many sequences.
        headers: Offset in ``n`` of (tokens, position, slot) for each, and for all together.
        slot_size: Elements of ``kv`` from one slot to the next.
        cache_arguments: Each argument that is an offset into the cache: [4, n] int64 of step,
            which argument, sequence, value for slot 0.
    """

    code: LoadedProgram
    n_rows: int
    headers: int
    slot_size: int
    cache_arguments: NDArray[np.int64]

    def select(self, slots: Sequence[int], positions: Sequence[int], n: NDArray[np.int64]) -> None:
        """Select the slots and positions of the next pass.

        Args:
            slots: Of each sequence, at most ``n_rows``.
            positions: Of each sequence's token.
            n: The machine's integers, where headers are written.
        """
        count = len(slots)
        table = np.zeros((self.n_rows + 1, HEADER_SIZE), np.int64)
        table[:count] = np.array([(1, *row) for row in zip(positions, slots, strict=True)])
        table[self.n_rows] = count, positions[0], slots[0]
        n[self.headers : self.headers + table.size] = table.ravel()
        first = np.zeros(self.n_rows, np.int64)
        first[:count] = np.array(slots) * self.slot_size
        steps, arguments, rows, offsets = self.cache_arguments
        self.code.set_arguments(steps, arguments, offsets + first[rows])


def write_row_program(
    program: Program,
    config: ModelConfig,
    n_rows: int,
    load: Callable[[Sequence[Step], Bounds], LoadedProgram],
) -> RowProgram:
    """Return the program of one token of each of ``n_rows`` sequences.

    Args:
        program: Of one sequence; the memory is the same.
        config: Sizes of the model.
        n_rows: How many sequences at most.
        load: Lays out steps as code, once they are proved.
    """
    steps: list[Step] = []
    cache_arguments: list[tuple[int, int, int, int]] = []
    for old in program.steps:
        strides = _strides(old)
        if strides is None:
            steps.append(old)
            continue
        if steps and not steps[-1].is_barrier_after:  # what reads the header must be over
            steps[-1] = replace(steps[-1], is_barrier_after=True)
        for row in range(n_rows):
            steps.append(step("set_row", at=program.layout.headers + HEADER_SIZE * row))
            cache_arguments += [
                (len(steps), i, row, value)
                for i, (name, value) in enumerate(old.named.items())
                if name in ("k_cache", "v_cache")
            ]
            steps.append(_shift(old, strides, row))
        steps.append(step("set_row", at=program.layout.headers + HEADER_SIZE * n_rows))
    return RowProgram(
        code=load(steps, _bounds(program, config, n_rows)),
        n_rows=n_rows,
        headers=program.layout.headers,
        slot_size=program.layout.sizes["kv"],
        cache_arguments=np.array(cache_arguments, np.int64).reshape(-1, 4).T,
    )


def _bounds(program: Program, config: ModelConfig, n_rows: int) -> Bounds:
    """Return the bounds of a pass: a token of each sequence, at any position."""
    n_ctx, n_pairs = program.bounds.span.end, n_rows * config.n_expert_used
    one, all_rows = Span(1, n_ctx), Span(n_rows, n_ctx - 1 + n_rows)
    spans = {program.layout.headers + HEADER_SIZE * row: one for row in range(n_rows)}
    return replace(
        program.bounds,
        span=all_rows,
        spans={**spans, program.layout.headers + HEADER_SIZE * n_rows: all_rows},
        counts={N_OUTPUTS: n_rows, N_PAIRS: n_pairs, N_OUTPUT_PAIRS: n_pairs},
    )


def _strides(step_: Step) -> dict[str, int] | None:
    """Return how far one token's part lies from the next one's, by argument.

    None for a step that does not look at positions.
    """
    return _STRIDES[step_.name](step_.named) if step_.name in _STRIDES else None


def _rope_store(at: dict[str, int]) -> dict[str, int]:
    n_head_kv, queries = at["n_head_kv"], at["n_head"] * at["head_dim"]
    keys, values = n_head_kv * at["head_dim"], n_head_kv * at["value_dim"]
    return {"q0": queries, "k0": keys, "v0": values, "table": at["n_rot"]}


def _attention(at: dict[str, int]) -> dict[str, int]:
    return {"q0": at["n_head"] * at["head_dim"], "y": at["n_head"] * at["value_dim"]}


def _mamba2_scan(at: dict[str, int]) -> dict[str, int]:
    inner = at["n_head"] * at["head_dim"]
    width = inner + 2 * at["n_group"] * at["n_state"]
    return {"x": width, "dt": at["dt_stride"], "y": inner}


def _delta_scan(at: dict[str, int]) -> dict[str, int]:
    width, stride = at["n_head"] * at["head_dim"], at["stride"]
    keys = 2 * at["n_head_k"] * at["head_dim"]
    return {"x": keys + width, "beta": stride, "alpha": stride, "y": width}


_STRIDES: dict[str, Callable[[dict[str, int]], dict[str, int]]] = {
    "rope_table": lambda at: {"table": 2 * at["half"]},
    "scale_by_position": lambda at: {"x": at["width"]},
    "rotate": lambda at: {"x": at["n_head"] * at["head_dim"], "table": at["n_rot"]},
    "rope_store": _rope_store,
    "attention": _attention,
    "causal_conv": lambda at: {"x": at["stride"], "y": at["width"]},
    "mamba2_scan": _mamba2_scan,
    "delta_scan": _delta_scan,
}
"""Step -> how far tokens lie apart."""


def _shift(old: Step, strides: dict[str, int], row: int) -> Step:
    """Return a step for the token ``row`` further on; the next step waits for it."""
    at = old.named
    moved = {name: at[name] + row * stride for name, stride in strides.items()}
    return replace(old.with_arguments(**moved), is_barrier_after=True)
