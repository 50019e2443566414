"""The processor: its name, and how many of its cores this process may keep busy."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from gguf_hub.progress import Progress
from gguf_hub.resources.cgroup import cpu_quota
from gguf_hub.units import KIB, MIB


def cpu_name(root: Path) -> str:
    """Return the marketing name of the CPU, or at least its architecture."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("model name", "hardware") and value.strip():
            return value.strip()
    return os.environ.get("PROCESSOR_IDENTIFIER") or platform.machine() or "unknown"  # on Windows


SIMD = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512bw", "avx512_vnni",
    "avx512_bf16", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip
"""Features that matter to kernels, as Linux names them."""


def simd(root: Path) -> tuple[str, ...]:
    """Return those features of ``SIMD`` that the CPU has; none where nobody tells.

    macOS has no ``/proc``, but every Mac processor of Apple's, from the M1 on, has NEON's dot
    product.
    """
    has: set[str] = set()
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            has |= set(value.split())
            break  # the cores of a machine are alike
    if root == Path("/") and (platform.system(), platform.machine()) == ("Darwin", "arm64"):
        has |= {"asimd", "asimddp"}
    return tuple(name for name in SIMD if name in has)


def last_cache_bytes(root: Path) -> int | None:
    """Return the size of the largest cache of the first core; None where nobody tells.

    E.g. ``32768K`` in ``cpu0/cache/index3/size``.
    """
    sizes = []
    for path in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = _read(path).strip()
        if text[:-1].isdecimal() and text[-1:] in "KM":
            sizes.append(int(text[:-1]) * (KIB if text[-1] == "K" else MIB))
    return max(sizes, default=None)


def usable_cpus() -> frozenset[int]:
    """Return the ids of the logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def count_cores(root: Path, cpus: frozenset[int]) -> int | None:
    """Count the physical cores behind some logical CPUs; None where the system does not tell.

    Two hyperthreads name the same siblings: with 0 and 4 on one core, ``cpu0`` and ``cpu4`` both
    hold the text ``0,4``.
    """
    cores = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        for name in ("core_cpus_list", "thread_siblings_list"):  # the second is its older name
            try:
                cores.add((topology / name).read_text(encoding="utf-8").strip())
                break
            except OSError:
                continue
        else:
            return None
    return len(cores) or None


def usable_threads(root: Path = Path("/")) -> int:
    """Return how many threads to compute with: physical cores, within affinity and quota."""
    return threads_within(usable_cores(root), cpu_quota(root))


def limit_threads(n_threads: int, progress: Progress) -> int:
    """Return how many threads to start where so many are asked for, with a note if fewer.

    Threads wait for each other at every step: with more of them than CPUs, each step takes as long
    as the system leaves one of them without any (8 threads on 2 CPUs: 3 % of the speed of 2).

    Args:
        n_threads: As asked for; 0, which stands for a default, stays 0.
        progress: Notified of a smaller number.
    """
    most = threads_within(len(usable_cpus()), cpu_quota(Path("/")))
    if n_threads > most:
        progress.note(f"{n_threads} threads: only {most} can run at once here, so {most} are used")
    return min(n_threads, most)


def usable_cores(root: Path) -> int:
    """Count the physical cores that this process may run on."""
    cpus = usable_cpus()
    return count_cores(root, cpus) or _psutil_cores(len(cpus))


def _psutil_cores(n_cpus: int) -> int:
    """Count physical cores where there is no /sys to read."""
    import psutil

    return min(psutil.cpu_count(logical=False) or n_cpus, n_cpus)


def threads_within(n_cores: int, quota: float | None) -> int:
    """Return how many threads to compute with.

    One for each physical core, as hyperthreads share the units that multiply. A quota of 1.5 CPUs
    gives 1: a second thread would be stopped half of the time, and all others wait for it.
    """
    return max(1, n_cores if quota is None else min(n_cores, int(quota)))


def _read(path: Path) -> str:
    """Return the text of a file, or nothing where there is none to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
