"""Which instructions this CPU has, and so which of our kernels run on it.

Light: needs llvmlite's binding only, not numba.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache

from gguf_hub.errors import UsageError

ENTRY = "gguf_hub_kernel"
"""Name of the one function that a kernel's object file exports."""

ISAS = ("generic", "avx2", "avxvnni", "avx512vnni", "dotprod")
"""Instruction sets that have kernels of their own, x86's and then ARM's, poorest first.

``generic`` is plain loops that LLVM compiles for whatever CPU this is.
"""

_NEEDS = {
    "avx2": ("avx2", "fma", "f16c"),
    "avxvnni": ("avx2", "fma", "f16c", "avxvnni"),
    "avx512vnni": ("avx2", "fma", "f16c", "avx512vnni", "avx512vl", "avx512bw"),
    "dotprod": ("dotprod",),
}


@dataclass(frozen=True)
class Cpu:
    """The CPU that kernels are compiled for.

    Attributes:
        name: LLVM's name of it, e.g. ``znver4``.
        features: LLVM's feature string, e.g. ``+avx2,+fma,-avx512f``.
        isa: One of ``ISAS``.
    """

    name: str
    features: str
    isa: str


_FORCED = {"avx2": "", "avxvnni": "+avxvnni"}
"""Instruction set that may be forced -> LLVM features beyond those of ``x86-64-v3``."""


def usable_isas() -> list[str]:
    """Return those of ``ISAS`` that run on this CPU, poorest first."""
    features = _host_features()
    return ["generic", *(isa for isa, needs in _NEEDS.items() if all(map(features.get, needs)))]


def detect_cpu() -> Cpu:
    """Return this machine's CPU; ``GGUF_HUB_ISA`` forces a poorer instruction set.

    Raises:
        UsageError: ``GGUF_HUB_ISA`` names none, or one that this CPU lacks.
    """
    import llvmlite.binding as llvm

    usable = usable_isas()
    isa = os.environ.get("GGUF_HUB_ISA") or usable[-1]
    if isa not in usable:
        raise UsageError(
            f"GGUF_HUB_ISA is `{isa}`: expected one of {', '.join(usable)} on this CPU",
            hint="unset GGUF_HUB_ISA to use the best of them",
        )
    if isa in _FORCED and isa != usable[-1]:  # compile as for a machine that has no more than that
        return Cpu(name="x86-64-v3", features=_FORCED[isa], isa=isa)
    return Cpu(name=llvm.get_host_cpu_name(), features=_host_features().flatten(), isa=isa)


def has_feature(name: str) -> bool:
    """Return whether this CPU has a feature, under LLVM's name of it."""
    return bool(_host_features().get(name))


def is_compiled_for(feature: str) -> bool:
    """Return whether kernels that this process compiles may use a feature.

    That is this CPU's features, unless numba is set to compile for another (``children``): objects
    of a wheel must not depend on the machine that made them.
    """
    features = os.environ.get("NUMBA_CPU_FEATURES")
    return has_feature(feature) if features is None else f"+{feature}" in features.split(",")


@cache
def _host_features():
    """Return LLVM's features of this CPU, and the dot product where it missed that.

    On ARM it reads ``/proc/cpuinfo`` or goes by the CPU's name, which may be unknown to it.
    """
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if platform.machine().lower() in ("aarch64", "arm64") and _has_dot_product():
        features["dotprod"] = True
    return features


def _has_dot_product() -> bool:
    """Return whether this ARM CPU has ``sdot``, as the system reports it.

    Source: Linux 6.12 Documentation/arch/arm64/elf_hwcaps.rst, HWCAP_ASIMDDP; Apple's
    "Determining instruction set characteristics", FEAT_DotProd; Windows SDK 10.0.22000 winnt.h,
    PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE.
    """
    if sys.platform == "win32":
        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(43))
    library = ctypes.CDLL(None)
    if sys.platform == "darwin":
        value, size = ctypes.c_int(0), ctypes.c_size_t(4)
        name = b"hw.optional.arm.FEAT_DotProd"
        failed = library.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0)
        return not failed and value.value == 1
    if not hasattr(library, "getauxval"):
        return False
    library.getauxval.restype, library.getauxval.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    return bool(library.getauxval(16) >> 20 & 1)  # AT_HWCAP


def target_machine(cpu: Cpu):
    """Return LLVM's description of the machine to emit code for."""
    import llvmlite.binding as llvm

    return llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu.name, features=cpu.features, opt=3, jit=True, codemodel="jitdefault"
    )
