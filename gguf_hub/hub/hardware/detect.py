"""Looks at this machine once and returns what it saw as data."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from gguf_hub.hub.hardware.amd import amd_gpus
from gguf_hub.hub.hardware.gpus import AMD, NVIDIA, DetectedGpus, Gpu
from gguf_hub.hub.hardware.nvidia import nvidia_gpus
from gguf_hub.hub.hardware.unified import apple_gpu
from gguf_hub.resources.cgroup import MemoryLimit, cpu_quota, memory_limit
from gguf_hub.resources.cpus import cpu_name, last_cache_bytes, simd, threads_within, usable_cores
from gguf_hub.resources.memory import available_bytes, host_memory


@dataclass(frozen=True)
class Hardware:
    """What the machine has, and what of it this process may use; None is what is not known.

    Attributes:
        ram_total_bytes: Physical memory of the machine.
        ram_available_bytes: What a program can take now, within all limits, without swapping.
        ram_limit_bytes: The tightest limit of the container, or None without one.
        n_cores_physical: Physical cores that this process may run on.
        n_threads: Threads to compute with: those cores, within the CPU quota.
        cpu_name: As the maker calls it.
        gpus: Graphics processors with memory of their own.
        disk_free_bytes: Free space where the files would go.
        notes: What could not be seen, in words.
        swap_total_bytes: Swap of the machine; shown, but a model that swaps does not fit.
        swap_free_bytes: What of it is free.
        simd: Features of the CPU that matter to kernels, as Linux names them.
        last_cache_bytes: The largest cache of a core.
    """

    ram_total_bytes: int | None
    ram_available_bytes: int | None
    ram_limit_bytes: int | None
    n_cores_physical: int
    n_threads: int
    cpu_name: str
    gpus: tuple[Gpu, ...]
    disk_free_bytes: int | None
    notes: tuple[str, ...]
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    simd: tuple[str, ...] = ()
    last_cache_bytes: int | None = None

    @property
    def vram_free_bytes(self) -> int:
        """Free memory of all GPUs together: programs spread the layers of a model over them.

        A GPU that shares the RAM adds nothing to it.
        """
        return sum(gpu.vram_free_bytes for gpu in self.gpus if not gpu.is_unified)

    @property
    def unified_bytes(self) -> int:
        """RAM that a GPU may take for itself; 0 where none shares it."""
        ram = self.ram_available_bytes or 0
        budgets = [gpu.vram_free_bytes or ram for gpu in self.gpus if gpu.is_unified]
        return min(max(budgets, default=0), ram)

    @property
    def gpu_bytes_per_s(self) -> float | None:
        """Bandwidth of the slowest GPU; None where one is not known."""
        known = [gpu.bytes_per_s for gpu in self.gpus]
        rates = [rate for rate in known if rate is not None]
        return min(rates) if rates and len(rates) == len(known) else None


def detect(target: Path | None = None, *, root: Path = Path("/")) -> Hardware:
    """Look at this machine; never raises for anything that is missing.

    Args:
        target: Where files would be written; it need not exist yet. The current folder if None.
        root: The root of the file system, for ``/proc`` and ``/sys`` (another one in tests).
    """
    notes: list[str] = []
    total_bytes, free_bytes = host_memory(notes)
    limit = memory_limit(root)
    n_cores = usable_cores(root)
    swap_total, swap_free = _swap()
    gpus = detect_gpus(root)
    notes.extend(gpus.notes)
    apple = apple_gpu(total_bytes) if root == Path("/") else ()
    return Hardware(
        ram_total_bytes=total_bytes,
        ram_available_bytes=available_bytes(free_bytes, limit),
        ram_limit_bytes=_real_limit(limit, total_bytes),
        n_cores_physical=n_cores,
        n_threads=threads_within(n_cores, cpu_quota(root)),
        cpu_name=cpu_name(root),
        gpus=gpus.gpus + apple,
        disk_free_bytes=_disk_free(target or Path(), notes),
        notes=tuple(notes),
        swap_total_bytes=swap_total,
        swap_free_bytes=swap_free,
        simd=simd(root),
        last_cache_bytes=last_cache_bytes(root),
    )


def detect_gpus(root: Path) -> DetectedGpus:
    """Return the GPUs that this process may use; ``root`` is the root of the file system."""
    nvidia = nvidia_gpus(root)
    amd = amd_gpus(root / "sys/class/drm")
    gpus = [replace(gpu, vendor_id=NVIDIA) for gpu in nvidia.gpus]
    gpus += [replace(gpu, vendor_id=AMD) for gpu in amd.gpus]
    return DetectedGpus(tuple(gpus), nvidia.notes + amd.notes)


def _real_limit(limit: MemoryLimit | None, total_bytes: int | None) -> int | None:
    """A limit above the memory of the machine limits nothing."""
    if limit is None or (total_bytes is not None and limit.limit_bytes >= total_bytes):
        return None
    return limit.limit_bytes


def _swap() -> tuple[int | None, int | None]:
    """Return (total, free) of the machine's swap; nobody needs to know why there is no answer."""
    import warnings

    import psutil

    try:
        with warnings.catch_warnings():  # of counters that are not wanted here
            warnings.simplefilter("ignore")
            swap = psutil.swap_memory()
    except Exception:
        return None, None
    return swap.total, swap.free


def _disk_free(target: Path, notes: list[str]) -> int | None:
    """Return the free space at the nearest folder that exists."""
    path = target.absolute()
    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    notes.append(f"the free space at {target} cannot be read")
    return None
