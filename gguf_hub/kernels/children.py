"""Compiling kernels in child processes: on all cores, and with numba in none of ours.

A child reads kernel names from stdin, one a line, and answers each with a line when the object file
lies in its place. Run as ``python -m gguf_hub.kernels.children FOLDER CPU FEATURES ISA``.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from gguf_hub.errors import GgufHubError
from gguf_hub.kernels.cpu import Cpu, usable_cores
from gguf_hub.progress import Task

_DONE = "done"


def object_path(folder: Path, name: str) -> Path:
    """Return where the object file of a kernel lies."""
    return folder / f"{name}.o"


def compile_in_children(names: Sequence[str], cpu: Cpu, folder: Path, task: Task) -> None:
    """Compile kernels, one child for each core; ``task`` advances with each that is done.

    Raises:
        GgufHubError: A child failed; what it printed last is in the message.
    """
    queue = deque(sorted(names, key=_is_quick))
    failures: list[str] = []
    n_children = min(len(names), usable_cores())
    threads: list[threading.Thread] = []
    for _ in range(n_children):
        thread = threading.Thread(target=_feed, args=(queue, cpu, folder, task, failures))
        try:
            thread.start()
        except RuntimeError:  # no more threads: those that run do all of it
            break
        threads.append(thread)
    for thread in threads:
        thread.join()
    if not threads:
        failures.append("the system starts no more threads")
    if failures:
        raise GgufHubError(
            f"compiling kernels failed: {failures[0]}",
            hint="`gguf-hub doctor` shows versions; GGUF_HUB_ISA=generic avoids SIMD kernels",
        )


def _is_quick(name: str) -> bool:
    """Kernels that read weights take longest and go first."""
    return "." not in name


def _environment(cpu: Cpu) -> dict[str, str]:
    """Return what children have in their environment.

    ``compile`` optimises when all functions have come together: numba need not, one by one. It
    emits each of them, too, and must know of instructions that LLVM does not see on this CPU.
    """
    return {
        "NUMBA_OPT": "0",
        "NUMBA_CPU_NAME": cpu.name,
        "NUMBA_CPU_FEATURES": cpu.features,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def _feed(queue: deque[str], cpu: Cpu, folder: Path, task: Task, failures: list[str]) -> None:
    """Give names to one child until there are none left or it fails."""
    import subprocess
    import tempfile

    arguments = [str(folder), cpu.name, cpu.features, cpu.isa]
    with tempfile.TemporaryFile("w+") as errors:
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "gguf_hub.kernels.children", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | _environment(cpu),
            )
        except OSError as exc:  # no memory, or no more processes
            failures.append(f"cannot start a compiler: {(exc.strerror or str(exc)).lower()}")
            return
        assert child.stdin and child.stdout
        with child:
            while queue and not failures:
                try:
                    name = queue.popleft()
                except IndexError:
                    break  # another thread took the last one
                try:
                    print(name, file=child.stdin, flush=True)
                    answer = child.stdout.readline().strip()
                except BrokenPipeError:
                    answer = ""
                if answer != _DONE:
                    errors.seek(0)
                    lines = errors.read().strip().splitlines()
                    failures.append(f"`{name}`: {lines[-1] if lines else 'no answer'}")
                    break
                task.advance(1)


def _serve(folder: Path, cpu: Cpu) -> None:
    """Compile the kernels that stdin names."""
    from gguf_hub.kernels.compile import compile_kernel

    for line in sys.stdin:
        name = line.strip()
        _write_atomic(object_path(folder, name), compile_kernel(name, cpu))
        sys.stdout.write(f"{_DONE}\n")
        sys.stdout.flush()


def _write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that another process sees it whole or not at all."""
    import tempfile

    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    Path(temporary).replace(path)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Cpu(*sys.argv[2:]))
