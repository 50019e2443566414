"""How fast this machine reads memory: the limit of decoding, which reads every weight once."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.memory.layout import HEADER
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.extents import Bounds, Span, prove
from gguf_hub.run.kernels.vm.machine import Code, CompiledMachine, Memory
from gguf_hub.run.kernels.vm.ops import step

WINDOW_BYTES = 1 << 30
"""Most bytes of one pass: many times any cache, and read within a second."""

LEAST_BYTES = 1 << 28
"""A smaller file would be measured in the processor's cache: a buffer of this size is read."""

_PASSES = 5


def read_bytes_per_s(
    data: NDArray[np.uint8], n_threads: int, builder: KernelBuilder | None = None
) -> float:
    """Return the bytes per second of the fastest of some passes over memory.

    Args:
        data: The mapped file, uint8. Its first gigabyte is read; the first pass brings it into
            memory, later ones find it there. A file too small gives way to a buffer.
        n_threads: Threads that read, each a part of its own.
        builder: Where machine code comes from; for this CPU when None.
    """
    if data.size < LEAST_BYTES:
        data = np.ones(LEAST_BYTES, np.uint8)
    size_bytes = min(data.size, WINDOW_BYTES)
    memory = Memory.allocate(n=n_threads, f=0, q=0, kv=0, files=[data])
    with CompiledMachine(builder or KernelBuilder(), memory, n_threads) as machine:
        steps = [step("read_bytes", first=0, size=size_bytes, results=HEADER)]
        results = (HEADER, HEADER + n_threads)
        prove(steps, {"n": [results]}, [data], Bounds(Span(0, 0), n_threads=n_threads))
        program = machine.load(steps)
        return size_bytes / min(_seconds(machine, program) for _ in range(_PASSES))


def _seconds(machine: CompiledMachine, program: Code) -> float:
    began = time.perf_counter()
    machine.run(program)
    return time.perf_counter() - began
