"""The processor: its name, and how many of its cores this process may keep busy."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_name(root: Path) -> str:
    """Return the marketing name of the CPU, or at least its architecture."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("model name", "hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


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


def threads_within(n_cores: int, quota: float | None) -> int:
    """Return how many threads to compute with.

    One for each physical core, as hyperthreads share the units that multiply. A quota of 1.5 CPUs
    gives 1: a second thread would be stopped half of the time, and all others wait for it.
    """
    return max(1, n_cores if quota is None else min(n_cores, int(quota)))
