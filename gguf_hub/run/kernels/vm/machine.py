"""Memory, a program of steps, and the machines that run it.

A machine knows nothing of models: ``model.program`` decides what is computed.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gguf_hub.errors import ResourceError
from gguf_hub.gguf.memory.layout import HEADER
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.kernels.build.build import KERNEL_TYPE, KernelBuilder
from gguf_hub.run.kernels.vm.active_threads import ActiveThreads, CoreClock
from gguf_hub.run.kernels.vm.ops import ARGUMENTS, N_TOKENS, ROW, Step
from gguf_hub.units import format_size


@dataclass(frozen=True)
class Memory:
    """What the steps compute in (see ``ops``)."""

    n: NDArray[np.int64]
    f: NDArray[np.float32]
    q: NDArray[np.int8]
    kv: NDArray[np.uint16]
    files: tuple[NDArray[np.uint8], ...]

    @classmethod
    def allocate(
        cls, *, n: int, f: int, q: int, kv: int, files: Sequence[NDArray[np.uint8]]
    ) -> Memory:
        """Return memory for some element counts; pages cost nothing until they are used.

        Raises:
            ResourceError: The system does not give as much.
        """
        with _report_refusal(8 * n + 4 * f + q, "the memory to compute in", _LESS_TO_COMPUTE_IN):
            arrays = _zeros(HEADER + n, np.int64), _fresh_pages(f, np.float32)
            quantised = _fresh_pages(q, np.int8)
        with _report_refusal(2 * kv, "the K/V cache", _LESS_CACHE):
            cache = _fresh_pages(kv, np.uint16)
        return cls(*arrays, quantised, cache, tuple(files))

    def use_large_pages(self) -> None:
        """Use large pages from now on, for batches of many tokens.

        Calling it again costs two microseconds. A single token uses the beginning of each area, and
        would take a large page of each.
        """
        for array in (self.f, self.q):
            base = array.base
            _advise(base.obj if isinstance(base, memoryview) else base, "MADV_HUGEPAGE")

    def bases(self) -> NDArray[np.int64]:
        """Return the addresses that kernels start from."""
        arrays = (self.n, self.f, self.q, self.kv, *self.files)
        return np.array([array.ctypes.data for array in arrays], np.int64)


_LESS_CACHE = (
    "a smaller context takes less: `-c`; so do keys and values in eight bits: `-ctk q8_0 -ctv q8_0`"
)
_LESS_TO_COMPUTE_IN = "a smaller batch takes less: `-b`; so do fewer threads: `-t`"


@contextlib.contextmanager
def _report_refusal(size_bytes: int, what: str, hint: str) -> Iterator[None]:
    """Raise with the size and a hint, however the system refuses: sizes beyond any address, too."""
    try:
        yield
    except (MemoryError, OSError, OverflowError, ValueError) as exc:
        raise ResourceError(
            f"not enough memory: {what} takes {format_size(size_bytes)}, which the system does "
            "not give",
            hint=hint,
        ) from exc


def _zeros(n: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return ``n`` zeros that start on a cache line, as vectors of 64 bytes need."""
    item = np.dtype(dtype).itemsize
    raw = np.zeros(n + 64 // item, dtype)
    offset = -raw.ctypes.data % 64 // item
    return raw[offset : offset + n]


def _fresh_pages(n: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return ``n`` zeros in small pages of their own, none of which takes memory before it is used.

    A cache for 32,768 positions lies in tiles of some 2 MB, of which a short text uses the
    beginning of each: large pages would allocate all of it at the first token. ``np.zeros`` asks
    for large ones, or reuses memory that the process gave back, and then fills all of it.
    """
    size_bytes = max(1, n) * np.dtype(dtype).itemsize
    if sys.platform == "win32":
        return np.frombuffer(mmap.mmap(-1, size_bytes), dtype, n)
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _advise(pages, "MADV_NOHUGEPAGE")
    return np.frombuffer(pages, dtype, n)


def _advise(pages: object, advice: str) -> None:
    """Advise the system on pages; it may know nothing of the kind."""
    if isinstance(pages, mmap.mmap) and hasattr(mmap, advice):
        with contextlib.suppress(OSError):
            pages.madvise(getattr(mmap, advice))


_COUNT = 2  # int64 before the first row: number of steps, address of the barrier
_WORTH_WAITING = 128
"""Tokens of a pass that waits for the kernels that are made for so many: they take seconds to
compile, which a pass of a large model takes longer without them."""


@dataclass(frozen=True)
class Code:
    """A program as machines read it; this file and ``runner`` alone know how.

    Attributes:
        words: int64: ``_COUNT`` of them, then for each step a row of ``ROW``.
    """

    words: NDArray[np.int64]

    def replace_kernels(self, numbers: Mapping[int, int]) -> None:
        """Let steps run other kernels: those whose number is listed."""
        kernels = self.words[_COUNT::ROW]
        kernels[:] = [numbers.get(number, number) for number in kernels.tolist()]

    @classmethod
    def encode(cls, steps: Sequence[Step], kernels: Mapping[str, int], barrier: int = 0) -> Code:
        """Return steps as code; ``kernels`` has the number that stands for each."""
        words = np.zeros(_COUNT + ROW * len(steps), np.int64)
        words[:_COUNT] = len(steps), barrier
        for i, step in enumerate(steps):
            row = (kernels[step.kernel], step.is_barrier_after, step.file, *step.arguments)
            assert len(row) < ROW, step.kernel  # its last word is the queue's
            words[_COUNT + ROW * i :][: len(row)] = row
        return cls(words)


LoadedProgram = Any
"""A program as its own machine, and no other, can run it."""


class Machine(Protocol):
    """Owns the memory that programs compute in, and runs them."""

    memory: Memory
    n_threads: int
    n_gpu_layers: int

    def load(self, steps: Sequence[Step], progress: Progress = SILENT) -> LoadedProgram:
        """Return a program for ``run``, its kernels made ready."""

    def run(self, code: LoadedProgram) -> None:
        """Run a program, as ``load`` returned it, to its end."""

    def pull(self, *views: NDArray[Any]) -> None:
        """Make views of the memory show what programs have computed, wherever that was."""

    def push(self, *views: NDArray[Any]) -> None:
        """Let programs see what was written to views of the memory, wherever they run."""

    def close(self) -> None:
        """Free what the machine holds besides memory; it cannot run any more."""


class CompiledMachine:
    """Runs programs on ``n_threads`` threads: the caller's and its own workers.

    Args:
        builder: Where machine code comes from.
        memory: What the programs compute in.
        n_threads: How many threads run each step.

    Call ``close`` (or use it as a context manager) to end the workers.
    """

    n_gpu_layers = 0

    def __init__(self, builder: KernelBuilder, memory: Memory, n_threads: int) -> None:
        self.memory = memory
        self.n_threads = n_threads
        self._builder = builder
        self._bases = memory.bases()
        self._barrier = np.zeros(32, np.int64)
        address = builder.addresses(["run_program"])["run_program"]
        self._run_program = KERNEL_TYPE(address)
        self._program = 0
        self._codes: list[Code] = []
        self._n_replaced = 0
        self._active = ActiveThreads(n_threads)
        self._n_active = n_threads
        self._waits_s = [0.0] * n_threads  # for their cores, in the last pass
        self._starts = [threading.Semaphore(0) for _ in range(n_threads - 1)]
        self._ends = threading.Semaphore(0)
        self._n_running = 0
        self._workers = [
            threading.Thread(target=self._work, args=(tid,), daemon=True, name=f"gguf-hub-{tid}")
            for tid in range(1, n_threads)
        ]
        self._start()

    def _start(self) -> None:
        """Start the workers.

        Raises:
            ResourceError: The system starts fewer; those that it did start have ended.
        """
        workers, self._workers = self._workers, []
        try:
            for worker in workers:
                worker.start()
                self._workers.append(worker)
        except (RuntimeError, MemoryError) as exc:
            n_started = 1 + len(self._workers)
            self.close()
            raise ResourceError(
                f"the system starts no more than {n_started} of {self.n_threads} threads",
                hint=f"ask for fewer, e.g. `-t {max(1, n_started // 2)}`",
            ) from exc

    def load(self, steps: Sequence[Step], progress: Progress = SILENT) -> Code:
        """Compile the kernels of a program, or fetch them from the cache."""
        addresses = self._builder.addresses([step.kernel for step in steps], progress)
        self._codes.append(code := Code.encode(steps, addresses, self._barrier.ctypes.data))
        return code

    def run(self, code: Code) -> None:
        """Run a program to its end, on all threads or on those that have a core."""
        self._drain()
        if self._builder.is_staged:
            self._renew()
        self._program = code.words.ctypes.data
        n_tokens, began = int(self.memory.n[N_TOKENS]), time.perf_counter()
        self._n_active = self._active.choose(n_tokens)
        for start in self._starts[: self._n_active - 1]:
            start.release()
            self._n_running += 1
        self._run_as(0)
        self._drain()
        wall_s, waits_s = time.perf_counter() - began, self._waits_s[: self._n_active]
        self._active.count(id(code), n_tokens, wall_s, waits_s)

    def _renew(self) -> None:
        """Use the kernels that were compiled since; between two passes all threads do."""
        wait = self.memory.n[N_TOKENS] >= _WORTH_WAITING and self._builder.is_compiling
        replaced = self._builder.replaced(wait=bool(wait))
        if len(replaced) != self._n_replaced:
            self._n_replaced = len(replaced)
            for code in self._codes:
                code.replace_kernels(replaced)

    def pull(self, *views: NDArray[Any]) -> None:
        """Do nothing: programs compute in the memory itself."""

    push = pull

    def _drain(self) -> None:
        """Wait for the workers; an interrupted ``run`` leaves some for the next call."""
        while self._n_running:
            self._ends.acquire()
            self._n_running -= 1

    def close(self) -> None:
        """End the workers; the machine cannot run any more."""
        self._builder.stop()
        self._drain()
        self._program = 0
        for start in self._starts:
            start.release()
        for worker in self._workers:
            worker.join()
        self._starts, self._workers = [], []

    def __enter__(self) -> CompiledMachine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run_as(self, tid: int) -> None:
        clock = CoreClock()
        # ctypes releases the interpreter's lock for the length of the call
        self._run_program(tid, self._n_active, self._program, self._bases.ctypes.data)
        self._waits_s[tid] = clock.waited_s()

    def _work(self, tid: int) -> None:
        start = self._starts[tid - 1]
        while True:
            start.acquire()
            if self._program == 0:
                return
            self._run_as(tid)
            self._ends.release()


class PlainMachine:
    """Runs programs as plain Python, one element after another: the reference for compiled ones.

    Args:
        memory: What the programs compute in.
        functions: Kernel name and instruction set -> function of a step, as
            ``library.kernel_function`` gives it.
    """

    n_gpu_layers = 0

    def __init__(self, memory: Memory, functions: Callable[[str, str], Callable]) -> None:
        self.memory = memory
        self.n_threads = 1
        self._functions = functions
        self._kernels: list[str] = []

    def load(self, steps: Sequence[Step], progress: Progress = SILENT) -> Code:
        """Return a program; there is nothing to compile."""
        self._kernels = list(dict.fromkeys([*self._kernels, *(step.kernel for step in steps)]))
        return Code.encode(steps, {name: i for i, name in enumerate(self._kernels)})

    def run(self, code: Code) -> None:
        """Run all steps."""
        m = self.memory
        for kernel, _, file, *arguments in code.words[_COUNT:].reshape(-1, ROW).tolist():
            name = self._kernels[kernel]
            n_arguments = len(ARGUMENTS[name.partition(".")[0]])
            function = self._functions(name, "generic")
            function(0, 1, m.n, m.f, m.q, m.kv, m.files[file], *arguments[:n_arguments])

    def pull(self, *views: NDArray[Any]) -> None:
        """Do nothing: programs compute in the memory itself."""

    push = pull

    def close(self) -> None:
        """End nothing."""
