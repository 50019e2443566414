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
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from gguf_hub.kernels.children import compile_in_children, object_path
from gguf_hub.kernels.cpu import ENTRY, Cpu, detect_cpu, target_machine
from gguf_hub.paths import writable_cache_dir
from gguf_hub.progress import SILENT, Progress

_KEEP_S = 30 * 24 * 3600


class KernelBuilder:
    """Compiles, caches and links kernels for one CPU.

    Args:
        cpu: What to compile for; this machine's when None.
        folder: Where finished objects are kept; None for the user's cache.
    """

    def __init__(self, cpu: Cpu | None = None, folder: Path | None = None) -> None:
        self.cpu = cpu or detect_cpu()
        self._folder = folder or _cache_folder(self.cpu)
        self._addresses: dict[str, int] = {}
        self._linker = _Linker(self.cpu)

    @property
    def folder(self) -> Path:
        """Where finished objects are kept."""
        return self._folder

    def compile(self, names: Iterable[str], progress: Progress = SILENT) -> int:
        """Compile the named kernels that the cache lacks; return how many those were."""
        names = list(dict.fromkeys(names))
        if not self._missing(names):
            return 0
        with _alone_in(self._folder, progress):
            missing = self._missing(names)  # some may have come from who was here before
            if missing:
                progress.note(f"compiling {len(missing)} kernels for this CPU, once")
                with progress.task("compile kernels", len(missing), unit="kernels") as task:
                    compile_in_children(missing, self.cpu, self._folder, task)
        return len(missing)

    def _missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not object_path(self._folder, name).is_file()]

    def addresses(self, names: Iterable[str], progress: Progress = SILENT) -> dict[str, int]:
        """Return the machine code address of every named kernel.

        Args:
            names: Kernel names as ``library.kernel_function`` knows them, e.g. ``matmul.Q4_K``.
            progress: Told about compiling, which happens once per machine and kernel.
        """
        wanted = dict.fromkeys(names)
        missing = [name for name in wanted if name not in self._addresses]
        self.compile(missing, progress)
        for name in missing:
            code = object_path(self._folder, name).read_bytes()
            self._addresses[name] = self._linker.link(code)
        return {name: self._addresses[name] for name in wanted}


@contextmanager
def _alone_in(folder: Path, progress: Progress) -> Iterator[None]:
    """Let one process at a time compile: a second one would compile the same kernels again."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.note("waiting for another gguf-hub that compiles kernels")
        lock.acquire()
    except NotImplementedError:
        pass  # a file system without locks: there the work is done twice, which harms nothing
    try:
        yield
    finally:
        lock.release()


def _cache_folder(cpu: Cpu) -> Path:
    """Return the folder of finished objects; ``GGUF_HUB_KERNEL_CACHE`` moves it."""
    name = f"kernels-{_key(cpu)}"
    base = os.environ.get("GGUF_HUB_KERNEL_CACHE")
    if base:
        folder = Path(base) / name
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = writable_cache_dir(name)
    _forget_old(folder)
    return folder


def _forget_old(folder: Path) -> None:
    """Remove sibling folders that no start has used for a month: other versions, other CPUs."""
    os.utime(folder)
    for other in folder.parent.glob("kernels-*"):
        if time.time() - other.stat().st_mtime > _KEEP_S:
            shutil.rmtree(other, ignore_errors=True)


def _key(cpu: Cpu) -> str:
    """Return a hash of all that compiled code depends on."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for text in (_numba_version(), _llvmlite_version(), platform.machine(), sys.platform):
        digest.update(text.encode())
    digest.update(f"{cpu.name} {cpu.features} {cpu.isa}".encode())
    return digest.hexdigest()[:16]


def _llvmlite_version() -> str:
    import llvmlite

    return str(llvmlite.__version__)


def _numba_version() -> str:
    """Return what tells numba's version; not by importing it, which takes half a second.

    The file that holds it is read, as importlib.metadata takes 12 ms to say the same.
    """
    spec = find_spec("numba")
    path = Path(spec.origin).with_name("_version.py") if spec and spec.origin else None
    if path is not None and path.is_file():
        return path.read_text("utf-8")
    from importlib.metadata import version

    return version("numba")


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


KERNEL_TYPE = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 4)
"""C type of a kernel's entry: ``(tid, nth, address of op, address of bases) -> 0``."""
