"""Compiling kernels in child processes: on all cores, and with numba in none of ours.

A child reads kernel names from stdin, one a line. It writes for each a line with the size of
the object file, and then its bytes. It writes no files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from gguf_hub.errors import GgufHubError
from gguf_hub.progress import Task
from gguf_hub.resources import usable_threads
from gguf_hub.run.kernels.build.cpu import Cpu
from gguf_hub.subprocesses import start_python

_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def compile_in_children(
    names: Sequence[str], cpu: Cpu, save: Callable[[str, bytes], None], task: Task
) -> None:
    """Compile kernels, one child for each core.

    Args:
        names: What to compile.
        cpu: The CPU to compile for.
        save: Called with name and object of each kernel, from several threads.
        task: Advances with each.

    Raises:
        GgufHubError: A child failed; what it printed last is in the message.
    """
    from concurrent.futures import ThreadPoolExecutor, as_completed

    queue = Queue(names)
    n_children = min(len(names), usable_threads())
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(n_children))
        stack.callback(queue.clear)  # after a failure, no child gets another name
        children = [stack.enter_context(Child(cpu)) for _ in range(n_children)]
        feeds = []
        with contextlib.suppress(RuntimeError):  # no more threads: those that run do all of it
            for child in children:
                feeds.append(pool.submit(feed, child, queue, save, task))
        if not feeds:
            raise GgufHubError("compiling kernels failed: the system starts no more threads")
        for done in as_completed(feeds):
            done.result()


class Queue:
    """Kernels that nobody compiles yet, for several threads.

    Those of one weight type share most of their functions, which numba reads once in each child:
    the second and third product of a type take half of the time of the first.
    """

    def __init__(self, names: Iterable[str]) -> None:
        # kernels that read weights take longest and go first
        self._names = sorted(names, key=lambda name: "." not in name)
        self._begun: set[str] = set()
        self._lock = threading.Lock()

    def next(self, known: set[str]) -> str | None:
        """Return what to compile next, or None at the end.

        Args:
            known: Types of which the caller has compiled a kernel; the new one's is added.
        """
        with self._lock:
            if not self._names:
                return None
            name = min(self._names, key=lambda name: self._rank(_type_of(name), known))
            self._names.remove(name)
            known.add(_type_of(name))
            self._begun.add(_type_of(name))
            return name

    def clear(self) -> None:
        """Leave nothing to do."""
        with self._lock:
            self._names.clear()

    def _rank(self, type_: str, known: set[str]) -> int:
        """The caller's own types first, then what no other child has begun."""
        return 0 if type_ in known else 1 + (type_ in self._begun)


def _type_of(name: str) -> str:
    """Return what kernels share functions by: the weight type, or the types of a cache."""
    return name.partition(".")[2] or name


def feed(child: Child, queue: Queue, save: Callable[[str, bytes], None], task: Task) -> None:
    """Let a child compile what is in the queue, until it is empty."""
    known: set[str] = set()
    while (name := queue.next(known)) is not None:
        save(name, child.compile(name))
        task.advance(1)


class Child:
    """A process that compiles one kernel after another.

    Leaving the ``with`` block ends it: at once after an error or interrupt.

    Args:
        cpu: What it compiles for.
        nice: By how much its priority is lower than ours.
    """

    def __init__(self, cpu: Cpu, nice: int = 0) -> None:
        self._errors = _scratch_file()
        self._process = start_python(
            "gguf_hub.run.kernels.build.children",
            [cpu.name, cpu.features, cpu.isa, str(nice)],
            stderr=self._errors,
            variables=_variables(cpu),
        )

    def compile(self, name: str) -> bytes:
        """Return the object file of a kernel.

        Raises:
            GgufHubError: It cannot be compiled.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        try:
            stdin.write(f"{name}\n".encode())
            stdin.flush()
            size = int(stdout.readline())
            code = stdout.read(size)
        except (BrokenPipeError, ValueError):
            size, code = 1, b""
        if len(code) != size:
            raise GgufHubError(
                f"compiling kernels failed: `{name}`: {self._failure_reason()}",
                hint="`gguf-hub doctor` shows versions; GGUF_HUB_ISA=generic avoids SIMD kernels",
            )
        return code

    def _failure_reason(self) -> str:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return lines[-1] if lines else f"the compiler {how}"

    def kill(self) -> None:
        """End it at once; a ``compile`` that waits for it fails."""
        self._process.kill()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError), self._errors, self._process:
            pass


def _scratch_file():
    """Return a file for messages; they are lost where no temporary file can be made."""
    import tempfile

    try:
        return tempfile.TemporaryFile()
    except OSError:
        return open(os.devnull, "w+b")  # noqa: PTH123


def _variables(cpu: Cpu) -> dict[str, str]:
    """Return the environment variables that children need.

    ``compile`` optimises when all functions have come together: numba need not, one by one. It
    emits each of them, too, and must know of instructions that LLVM does not see on this CPU.
    NumPy need not start a thread for each core.
    """
    return {
        "NUMBA_OPT": "0",
        "NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING": "1",
        "NUMBA_CPU_NAME": cpu.name,
        "NUMBA_CPU_FEATURES": cpu.features,
        **dict.fromkeys(_BLAS_THREADS, "1"),
    }


def main(arguments: Sequence[str]) -> NoReturn:
    """Compile the kernels that stdin names, for the CPU that the arguments describe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal: the parent ends us
    from gguf_hub.run.kernels.build.compile import compile_kernel
    from gguf_hub.run.kernels.build.numba_light import lighten

    lighten()
    *described, nice = arguments
    cpu = Cpu(*described)
    if int(nice) and hasattr(os, "nice"):
        os.nice(int(nice))
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)  # whatever a library prints goes to stderr
        for line in sys.stdin:
            code = compile_kernel(line.strip(), cpu)
            output.write(b"%d\n" % len(code) + code)
            output.flush()
    sys.stderr.flush()
    os._exit(0)  # what numba keeps takes 0.4 s to tear down, and the parent waits for it
