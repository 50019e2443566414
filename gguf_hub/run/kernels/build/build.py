"""From a kernel's name to the address of its machine code.

A kernel is a Python function of ``(tid, nth, op, n, f, q, kv, w)`` (see ``steps``). numba turns it
into LLVM IR once; the cache holds the finished object file, so that later starts need
neither numba nor a compiler pass: llvmlite links the object, in about a millisecond. Objects of the
usual kernels may have come with the package (``shipped``).

The cache folder is named after everything that the code depends on: the kernel sources, the
versions of numba and llvmlite, and the CPU. (numba's own cache looks at the time stamp of one file
only and misses a change in a helper.)
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from gguf_hub.importpath import PACKAGE
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.kernels.build.background import BackgroundCompile
from gguf_hub.run.kernels.build.children import compile_in_children
from gguf_hub.run.kernels.build.cpu import ENTRY, Cpu, detect_cpu, target_machine
from gguf_hub.run.kernels.build.objects import ObjectCache, forget_old, user_folders
from gguf_hub.run.kernels.build.shipped import ShippedObjects
from gguf_hub.run.kernels.build.stand_ins import stand_in


class KernelBuilder:
    """Compiles, caches and links kernels for one CPU.

    Args:
        cpu: What to compile for; this machine's when None.
        folder: Where object files are saved; None for the user's cache.
        shipped: Where instruction sets with shipped objects lie; None for the package's own.
        is_staged: Compile first what a first token needs, the rest in the background: ``replaced``
            tells of it. Call ``stop`` at the end.
    """

    def __init__(
        self,
        cpu: Cpu | None = None,
        folder: Path | None = None,
        shipped: Path | None = None,
        *,
        is_staged: bool = False,
    ) -> None:
        self.cpu = cpu or detect_cpu()
        sources = hash_of_sources()
        self._folders = [folder] if folder else list(user_folders(_key(self.cpu, sources)))
        self._cache = ObjectCache(self._folders)
        self._shipped = ShippedObjects(self.cpu.isa, sources, shipped)
        if self.folder and not folder:
            forget_old(self.folder)
        self._addresses: dict[str, int] = {}
        self.is_staged = is_staged
        self._background: list[BackgroundCompile] = []
        self._replaced: dict[int, int] = {}
        self._linker = _Linker(self.cpu)

    @property
    def folder(self) -> Path | None:
        """Where object files are saved; None when no folder is safe and writable."""
        return self._cache.folder

    @property
    def n_unsaved(self) -> int:
        """Objects that could not be written to a folder and last until this process ends."""
        return self._cache.n_unsaved

    def problems(self) -> list[str]:
        """Return, once, why objects are not saved or not used."""
        return [*self._shipped.problems(), *self._cache.problems()]

    def compile(self, names: Iterable[str], progress: Progress = SILENT) -> int:
        """Compile the named kernels that are not here yet; return how many those were."""
        return len(self.objects(names, progress)[1])

    def addresses(self, names: Iterable[str], progress: Progress = SILENT) -> dict[str, int]:
        """Return the machine code address of every named kernel.

        Args:
            names: Kernel names as ``library.kernel_function`` knows them, e.g. ``matmul.Q4_K``.
            progress: Shows the compiling, which happens once per machine and kernel.
        """
        names = dict.fromkeys(names)
        unknown = [name for name in names if name not in self._addresses]
        later = self._stand_ins(unknown) if self.is_staged else {}
        now = [later.get(name, name) for name in unknown]
        objects, _ = self._objects(now, progress, n_later=len(later))
        for name in unknown:
            self._addresses[name] = self._linker.link(objects[later.get(name, name)])
        if later:
            self._background.append(
                BackgroundCompile(list(later), self.cpu, self._save_later, progress.note)
            )
        return {name: self._addresses[name] for name in names}

    def replaced(self, *, wait: bool = False) -> dict[int, int]:
        """Return addresses of kernels, and of those that compute the same and are to be used now.

        Args:
            wait: Wait for those that are being compiled.
        """
        for compiling in self._background:
            if wait:
                compiling.wait()
            if compiling.has_objects:
                for name, code in compiling.take().items():
                    new = self._linker.link(code)
                    self._replaced[self._addresses[name]] = new
                    self._addresses[name] = new
        return self._replaced

    @property
    def is_compiling(self) -> bool:
        """Whether kernels are being compiled in the background."""
        return any(compiling.is_running for compiling in self._background)

    def stop(self) -> None:
        """End compiling in the background; what is not finished is compiled another time."""
        for compiling in self._background:
            compiling.stop()

    def _stand_ins(self, names: list[str]) -> dict[str, str]:
        """Return the kernels that are not here yet and can wait, and what stands for them."""
        found = {name: other for name in names if (other := stand_in(name, self.cpu.isa))}
        here = self._shipped.read(found)
        here |= self._cache.read(name for name in found if name not in here)
        return {name: other for name, other in found.items() if name not in here}

    def _save_later(self, name: str, code: bytes) -> None:
        """Save an object that was compiled in the background; others may be compiling, too."""
        cache = ObjectCache(self._folders)
        with cache.locked(SILENT):
            cache.write(name, code)

    def objects(
        self, names: Iterable[str], progress: Progress = SILENT
    ) -> tuple[dict[str, bytes], list[str]]:
        """Return the objects of kernels, and which of these had to be compiled."""
        return self._objects(names, progress)

    def _objects(
        self, names: Iterable[str], progress: Progress, n_later: int = 0
    ) -> tuple[dict[str, bytes], list[str]]:
        names = list(dict.fromkeys(names))
        objects = self._shipped.read(names)
        objects |= self._cache.read(name for name in names if name not in objects)
        if len(objects) == len(names):
            if n_later:
                progress.note(f"compiling {n_later} kernels in the background")
            return objects, []
        with self._cache.locked(progress):  # another process may have compiled some by now
            objects |= self._cache.read(name for name in names if name not in objects)
            missing = [name for name in names if name not in objects]
            if missing:
                self._compile(missing, objects, progress, n_later)
            else:
                self._cache.problems()  # another process has solved them
        return objects, missing

    def _compile(
        self, names: list[str], objects: dict[str, bytes], progress: Progress, n_later: int
    ) -> None:
        def save(name: str, code: bytes) -> None:
            objects[name] = code
            self._cache.write(name, code)

        for problem in self.problems():
            progress.note(problem)
        once = ", once" if self.folder else ""
        rest = f"; {n_later} more in the background" if n_later else ""
        progress.note(f"compiling {len(names)} kernels for this CPU{once}{rest}")
        with progress.task("compile kernels", len(names), unit="kernels") as task:
            compile_in_children(names, self.cpu, save, task)
        for problem in self._cache.problems():
            progress.note(problem)


def hash_of_sources() -> str:
    """Return a hash of the files of this package that kernels are made of, in hex."""
    digest = hashlib.sha256()
    package = Path(PACKAGE)
    for path in source_files(package):
        digest.update(f"{path.relative_to(package).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _key(cpu: Cpu, sources: str) -> str:
    """Return a hash of all that compiled code depends on."""
    digest = hashlib.sha256(sources.encode())
    for text in (_numba_version(), _llvmlite_version(), platform.machine(), sys.platform):
        digest.update(text.encode())
    digest.update(f"{cpu.name} {cpu.features} {cpu.isa}".encode())
    return digest.hexdigest()[:16]


def source_files(package: Path) -> list[Path]:
    """Return the files of the package that kernels are made of."""
    folders = (package / "run/kernels", package / "gguf/memory")
    sources = (path for folder in folders for path in sorted(folder.rglob("*.py")))
    return [*sources, package / "gguf/types.py"]


def _llvmlite_version() -> str:
    import llvmlite

    return str(llvmlite.__version__)


def _numba_version() -> str:
    """Return text that changes with numba's version; importing numba takes half a second.

    Its version file is read, as importlib.metadata takes 12 ms.
    """
    spec = find_spec("numba")
    path = Path(spec.origin).with_name("_version.py") if spec and spec.origin else None
    if path is not None and path.is_file():
        return path.read_text("utf-8")
    from importlib.metadata import version

    return version("numba")


class _Linker:
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
