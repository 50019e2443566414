"""Objects of kernels for a wheel: what is compiled, for which CPUs, and how it lies there.

Used by ``hatch_build.py``; ``GGUF_HUB_BUILD_KERNELS=1 python -m build --wheel`` runs it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from gguf_hub.gguf.memory.cache import CACHE_TYPES
from gguf_hub.gguf.types import WRITABLE_TYPES
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.kernels.build.build import KernelBuilder, hash_of_sources
from gguf_hub.run.kernels.build.cpu import Cpu
from gguf_hub.run.kernels.build.objects import MANIFEST, object_path
from gguf_hub.run.kernels.build.shipped import SHIPPED_FORMAT, platform_name
from gguf_hub.run.kernels.vm.ops import ARGUMENTS

TYPES = (
    *("F32", "F16", "BF16", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"),
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS", "MXFP4"),
)
"""Weight types of the catalog's quants and of most other files."""

_SOURCE_TYPES = ("F32", "F16", "BF16")
"""Types that the quantiser usually reads."""

_NOT_SHIPPED = ("head_matmul", "read_bytes", "encode_weighted", "get_position_rows")
"""Steps of few models, or of none: they are compiled where they are needed."""


@dataclass(frozen=True)
class Target:
    """CPUs that objects are compiled for.

    Attributes:
        cpu: What LLVM is told: a level that many CPUs have, not the builder's own CPU.
        features: What a CPU must have to run that, as LLVM names it.
    """

    cpu: Cpu
    features: tuple[str, ...]


_V3 = (
    *("avx", "avx2", "bmi", "bmi2", "cx16", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sahf"),
    *("sse3", "sse4.1", "sse4.2", "ssse3", "xsave"),
)
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
"""Levels of the x86-64 psABI."""

_X86 = (
    Target(Cpu("x86-64-v3", "", "avx2"), _V3),
    Target(Cpu("x86-64-v3", "+avxvnni", "avxvnni"), (*_V3, "avxvnni")),
    Target(
        Cpu("x86-64-v4", "+avx512vnni,+avx512vbmi,+gfni", "avx512vnni"),
        (*_V4, "avx512vnni", "avx512vbmi", "gfni"),  # from Ice Lake and Zen 4 on
    ),
)
_ARM = (Target(Cpu("generic", "+neon,+dotprod", "dotprod"), ("dotprod",)),)
_TARGETS = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}


def targets() -> tuple[Target, ...]:
    """Return what this machine compiles for, one for each instruction set; none if it is rare."""
    return _TARGETS.get(platform.machine().lower(), ())


def kernel_names() -> list[str]:
    """Return the kernels that a wheel holds."""
    writable = {type_.name for type_ in WRITABLE_TYPES}
    caches = [
        f"{keys}.{values}"
        for keys, values in product(CACHE_TYPES, CACHE_TYPES)
        if (keys == "F32") == (values == "F32")
    ]  # mixed with F32 they are compiled
    by_type = {
        **dict.fromkeys(("get_rows", "matmul", "expert_matmul"), TYPES),
        **dict.fromkeys(("rope_store", "attention"), caches),
        "text_attention": ["F32.F32"],  # of encoders, which keep nothing
        "decode": _SOURCE_TYPES,
        "encode": [type_ for type_ in TYPES if type_ in writable],
    }
    plain = [name for name in ARGUMENTS if name not in (*by_type, *_NOT_SHIPPED)]
    weighted = [f"{step}.{type_}" for step, types in by_type.items() for type_ in types]
    return ["run_program", *plain, *weighted]


def ship(
    folder: Path, target: Target, names: Iterable[str], progress: Progress = SILENT
) -> dict[str, int]:
    """Write the objects of kernels and their manifest into a folder, by instruction set.

    Args:
        folder: Gets a folder named after the instruction set, which must not exist.
        target: What to compile for.
        names: Names of kernels.
        progress: Shows the compiling; what this user has compiled before is copied.

    Returns:
        Kernel -> size of its object in bytes.
    """
    names = list(names)
    objects, _ = KernelBuilder(target.cpu).objects(names, progress)
    inner = folder / target.cpu.isa
    inner.mkdir(parents=True)
    for name, code in objects.items():
        object_path(inner, name).write_bytes(code)
    manifest = {
        "format": SHIPPED_FORMAT,
        "sources": hash_of_sources(),
        "platform": platform_name(),
        "features": list(target.features),
        "sha256": {name: hashlib.sha256(objects[name]).hexdigest() for name in sorted(objects)},
    }
    (inner / MANIFEST).write_text(json.dumps(manifest, indent=0), "utf-8")
    return {name: len(objects[name]) for name in dict.fromkeys(names)}
