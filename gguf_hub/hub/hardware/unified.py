"""GPUs that share the RAM: what of it they may take.

Apple's Metal recommends a working set of two thirds of the RAM up to 36 GiB and three quarters
above; ``iogpu.wired_limit_mb`` raises it.
"""

from __future__ import annotations

import platform

from gguf_hub.hub.hardware.gpus import Gpu
from gguf_hub.subprocesses import find_program, run_program
from gguf_hub.units import GIB, MIB

TIMEOUT_S = 2.0


def apple_gpu(ram_total_bytes: int | None) -> tuple[Gpu, ...]:
    """Return the GPU of a Mac with Apple's own processor, or nothing."""
    if platform.system() != "Darwin" or platform.machine() != "arm64" or not ram_total_bytes:
        return ()
    name = _sysctl("machdep.cpu.brand_string") or "Apple GPU"
    return (shared_gpu(name, ram_total_bytes, _sysctl("iogpu.wired_limit_mb")),)


def shared_gpu(name: str, ram_total_bytes: int, wired_limit_mb: str = "") -> Gpu:
    """Return a GPU that may take the usual part of the RAM, or what the system says."""
    share = 2 / 3 if ram_total_bytes <= 36 * GIB else 3 / 4
    budget_bytes = round(ram_total_bytes * share)
    if wired_limit_mb.isdecimal() and int(wired_limit_mb):
        budget_bytes = int(wired_limit_mb) * MIB
    return Gpu(name, budget_bytes, budget_bytes, is_unified=True)


def _sysctl(name: str) -> str:
    program = find_program("sysctl")
    if program is None:
        return ""
    try:
        done = run_program([program, "-n", name], timeout_s=TIMEOUT_S)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
