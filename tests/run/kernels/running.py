"""One step in memory of its own: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gguf_hub.gguf.memory.layout import HEADER
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.build.library import kernel_function
from gguf_hub.run.kernels.vm.extents import Bounds, Call, Span, extents_of, prove
from gguf_hub.run.kernels.vm.machine import CompiledMachine, Memory
from gguf_hub.run.kernels.vm.ops import (
    ARGUMENTS,
    N_OUTPUTS,
    N_PAIRS,
    N_TOKENS,
    SEQUENCE_SIZE,
    SEQUENCES,
    Step,
    step,
)
from gguf_hub.run.kernels.vm.sequences import SequenceTokens, write_sequences

Arrays = Mapping[str, np.ndarray]


class Watched:
    """An array that tells who touches what is not theirs."""

    def __init__(self, name: str, array: np.ndarray, *, is_allowed: bool = True) -> None:
        self.name, self.array = name, array
        self.is_allowed = np.full(len(array), is_allowed)

    def _at(self, index: Any) -> int:
        at = int(index)
        if not 0 <= at < len(self.array):
            raise Outside(f"{self.name}[{at}] of {len(self.array)}")
        if not self.is_allowed[at]:
            raise Unclaimed(f"{self.name}[{at}]")
        return at

    def __getitem__(self, index: Any) -> Any:
        return self.array[self._at(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.array[self._at(index)] = value


class Outside(Exception):
    """Memory that is not there."""


class Unclaimed(Exception):
    """Memory that the table does not mention."""


def lay_out(arrays: Arrays) -> tuple[dict[str, int], dict[str, list[tuple[int, int]]]]:
    """Return where arrays lie, floats in ``f`` and integers in ``n``, and these areas."""
    end = SEQUENCES + SEQUENCE_SIZE
    at, blocks, ends = {}, {"n": [(SEQUENCES, end)], "f": []}, {"n": end, "f": 0}
    for name, array in arrays.items():
        where = "f" if array.dtype == np.float32 else "n"
        at[name] = ends[where]
        ends[where] += array.size
        blocks[where].append((at[name], ends[where]))
    return at, blocks


def run_step(
    kernel: str, arrays: Arrays, n_tokens: int, *, builder: KernelBuilder | None = None,
    n_threads: int = 1, position: int = 0, n_used: int = 1, slot: int = 0, n_slots: int = 1,
    **arguments: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Run a step that its proof allows on some arrays; return what these are then.

    Args:
        kernel: Its name.
        arrays: Argument -> array at its offset, float32 or int64.
        n_tokens: How many, of which all want logits.
        builder: Of compiled kernels; plain Python without one.
        n_threads: That run it.
        position: Of the first token.
        n_used: Experts of each token.
        slot: Whose state it carries on.
        n_slots: How many there are.
        arguments: The other ones; ``count`` is the tokens' by default.
    """
    at, blocks = lay_out(arrays)
    if "count" in ARGUMENTS[kernel]:
        arguments.setdefault("count", N_TOKENS)
    one = step(kernel, **at, **arguments)
    bounds = replace(bounds_of(n_tokens, position, n_used, n_threads), n_slots=n_slots)
    prove([one], blocks, [np.zeros(8, np.uint8)], bounds)
    ends = {space: max((end for _, end in areas), default=0) for space, areas in blocks.items()}
    memory = Memory.allocate(n=ends["n"], f=ends["f"], q=0, kv=0, files=[np.zeros(8, np.uint8)])
    views = {
        name: _space(memory, array)[at[name] : at[name] + array.size].reshape(array.shape)
        for name, array in arrays.items()
    }
    for name, array in arrays.items():
        views[name][...] = array
    memory.n[[N_TOKENS, N_OUTPUTS, N_PAIRS]] = n_tokens, n_tokens, n_tokens * n_used
    write_sequences(memory.n, [SequenceTokens(slot, position, n_tokens)], 0)
    if builder is None:
        _run_watched(one, memory, bounds)
    else:
        with CompiledMachine(builder, memory, n_threads) as machine:
            machine.run(machine.load([one]))
    return views


def _space(memory: Memory, array: np.ndarray) -> np.ndarray:
    return memory.f if array.dtype == np.float32 else memory.n


def _run_watched(one: Step, memory: Memory, bounds: Bounds) -> None:
    """Run a step as plain Python, which may touch its extents and the header alone."""
    spaces = {
        name: Watched(name, getattr(memory, name), is_allowed=False) for name in ("n", "f", "q")
    }
    spaces["n"].is_allowed[:HEADER] = True
    for array, first, size, _ in extents_of(one, Call("", bounds, bounds.span)):
        spaces[array].is_allowed[first : first + size] = True
    kernel_function(one.kernel, "generic")(0, 1, *spaces.values(), None, None, *one.arguments)


def bounds_of(n_tokens: int, position: int, n_used: int, n_threads: int = 1) -> Bounds:
    """Return the bounds of calls of so many tokens, all of which want logits."""
    counts = {N_OUTPUTS: n_tokens, N_PAIRS: n_tokens * n_used}
    return Bounds(Span(n_tokens, position + n_tokens), counts, n_threads=n_threads)


def prove_step(
    one: Step, blocks: Mapping[str, list[tuple[int, int]]], n_tokens: int, position: int,
    n_used: int,
) -> None:  # fmt: skip
    """Return if a step stays inside of its memory."""
    files = [np.zeros(8, np.uint8)]
    prove([one], blocks, files, bounds_of(n_tokens, position, n_used))
