"""Objects that came with this package: a first start links them and compiles nothing.

Wheels for a platform hold a folder for each instruction set (``tools/ship_kernels.py`` writes
them). Its manifest says what the objects are good for: the kernel sources that they were compiled
from, the platform, and the features that a CPU must have. Whatever is not exactly that, or could
have been changed by others, is compiled here as if nothing had been shipped.

The versions of numba and llvmlite need not be those of this machine: an object has one C entry and
calls the C library at most.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gguf_hub.importpath import PACKAGE
from gguf_hub.ownership import weakness_of_folder
from gguf_hub.run.kernels.build.cpu import has_feature
from gguf_hub.run.kernels.build.objects import (
    load_manifest,
    read_object,
    reason_unused,
    sound_objects,
)

SHIPPED_FORMAT = "gguf-hub shipped kernels 1"
SHIPPED_FOLDER = "run/kernels/objects"
"""Where the package holds them, by instruction set."""


class ShippedObjects:
    """The objects of one instruction set that came with this package; none in a checkout.

    Args:
        isa: One of ``cpu.ISAS``.
        sources: Hash of the kernel sources of this installation.
        folder: Where the instruction sets lie; the package's own folder when None.
    """

    def __init__(self, isa: str, sources: str, folder: Path | None = None) -> None:
        self._folder = (folder or Path(PACKAGE, SHIPPED_FOLDER)) / isa
        self._problems: dict[str, None] = {}  # each once
        self._sha256 = self._usable_objects(sources)

    def problems(self) -> list[str]:
        """Return, once, why objects that are there are not used."""
        problems, self._problems = list(self._problems), {}
        return problems

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the sound objects of some kernels, by name."""
        listed = [name for name in names if name in self._sha256]
        objects, damage = sound_objects(
            listed, lambda name: read_object(self._folder, name, self._sha256)
        )
        if damage:
            self._refuse(damage)
        return objects

    def _usable_objects(self, sources: str) -> dict[str, str]:
        """Return the SHA-256 of each object, by kernel: of none where they are not for us."""
        try:
            weakness = weakness_of_folder(self._folder)
            if weakness:
                raise PermissionError(weakness)
            manifest = load_manifest(self._folder, SHIPPED_FORMAT)
            _require_ours(manifest, sources)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._refuse(reason_unused(error))
            return {}
        return manifest["sha256"]

    def _refuse(self, reason: str) -> None:
        self._problems[f"not using kernels shipped in `{self._folder}`: {reason}"] = None


def platform_name() -> str:
    """Return what the form of object files depends on, e.g. ``linux x86_64``."""
    return f"{sys.platform} {platform.machine()}"


def _require_ours(manifest: dict[str, Any], sources: str) -> None:
    """Refuse objects of other sources, for another platform, or for a CPU that has more.

    Raises:
        ValueError: The first of these, as a reason.
    """
    if manifest.get("sources") != sources:
        raise ValueError("they were compiled from other sources than this version's")
    if manifest.get("platform") != platform_name():
        raise ValueError(f"they are for {manifest.get('platform')}, this is {platform_name()}")
    features = manifest.get("features")
    if not isinstance(features, list) or not all(isinstance(name, str) for name in features):
        raise ValueError("the manifest does not list the CPU features that they use")
    if missing := [name for name in features if not has_feature(name)]:
        raise ValueError(f"this CPU lacks {', '.join(missing)}")
