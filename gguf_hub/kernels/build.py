"""From a kernel's name to the address of its machine code.

A kernel is a Python function of ``(tid, nth, op, n, f, q, kv, w)`` (see ``steps``). numba turns it
into LLVM IR once; what lies in the cache is the finished object file, so that later starts need
neither numba nor a compiler pass: llvmlite links the object, in about a millisecond.

The cache folder is named after everything that the code depends on: the kernel sources, the
versions of numba and llvmlite, and the CPU. (numba's own cache looks at the time stamp of one file
only and misses a change in a helper.)
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from gguf_hub.kernels.cpu import Cpu, detect_cpu
from gguf_hub.paths import writable_cache_dir
from gguf_hub.progress import SILENT, Progress

ENTRY = "gguf_hub_kernel"


class KernelBuilder:
    """Compiles, caches and links kernels for one CPU.

    Args:
        cpu: What to compile for; this machine's when None.
        folder: Where finished objects are kept; None for the user's cache.
    """

    def __init__(self, cpu: Cpu | None = None, folder: Path | None = None) -> None:
        self.cpu = cpu or detect_cpu()
        self._folder = folder or writable_cache_dir(f"kernels-{_key(self.cpu)}")
        self._addresses: dict[str, int] = {}
        self._linker = _Linker(self.cpu)

    def addresses(self, names: Iterable[str], progress: Progress = SILENT) -> dict[str, int]:
        """Return the machine code address of every named kernel.

        Args:
            names: Kernel names as ``library.kernel_function`` knows them, e.g. ``matmul.Q4_K``.
            progress: Told about compiling, which happens once per machine and kernel.
        """
        wanted = dict.fromkeys(names)
        missing = [name for name in wanted if name not in self._addresses]
        to_compile = [name for name in missing if not self._object(name).is_file()]
        if to_compile:
            progress.note(f"compiling {len(to_compile)} kernels for this CPU (once)")
            with progress.task("compile kernels", len(to_compile), unit="kernels") as task:
                for name in to_compile:
                    self._compile(name)
                    task.advance(1)
        for name in missing:
            self._addresses[name] = self._linker.link(self._object(name).read_bytes())
        return {name: self._addresses[name] for name in wanted}

    def _object(self, name: str) -> Path:
        return self._folder / f"{name}.o"

    def _compile(self, name: str) -> None:
        from gguf_hub.kernels.compile import compile_kernel

        _write_atomic(self._object(name), compile_kernel(name, self.cpu))


def _write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that another process sees it whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    Path(temporary).replace(path)


def _key(cpu: Cpu) -> str:
    """Return a hash of all that compiled code depends on."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for text in (version("numba"), version("llvmlite"), platform.machine(), sys.platform):
        digest.update(text.encode())
    digest.update(f"{cpu.name} {cpu.features} {cpu.isa}".encode())
    return digest.hexdigest()[:16]


class _Linker:
    """LLVM's just-in-time linker: object files in, addresses out."""

    def __init__(self, cpu: Cpu) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._cpu = cpu
        self._engines: list[object] = []  # machine code lives as long as its engine

    def link(self, code: bytes) -> int:
        """Return the address of the entry of one object file."""
        import llvmlite.binding as llvm

        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(self._cpu))
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        self._engines.append(engine)
        return engine.get_function_address(ENTRY)


def target_machine(cpu: Cpu):
    """Return LLVM's description of the machine to emit code for."""
    import llvmlite.binding as llvm

    return llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu.name, features=cpu.features, opt=3, jit=True, codemodel="jitdefault"
    )


KERNEL_TYPE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
"""C type of a kernel's entry: ``tid, nth, address of op, address of bases``."""
