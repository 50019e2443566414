"""Build hook of wheels: brings compiled kernels along when asked to.

``GGUF_HUB_BUILD_KERNELS=1 python -m build --wheel`` makes a wheel for this platform. Without the
variable, wheels are pure Python as ever, and nothing of the package is imported.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "GGUF_HUB_BUILD_KERNELS"
_PLATFORM_TAGS = {
    # what numba's own wheels need; the objects call nothing but the C library's oldest functions
    "linux": "manylinux_2_17_{machine}.manylinux2014_{machine}",
    "darwin": "macosx_11_0_{machine}",
    "win32": "win_{machine}",
}


class KernelsHook(BuildHookInterface):
    """Adds objects for the instruction sets of this machine's kind to a wheel."""

    def dependencies(self) -> list[str]:
        """Return what the build needs beside hatchling: compiling needs numba and the rest."""
        return list(self.metadata.core.dependencies) if _is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the kernels and add them to the files of a wheel; tag it with the platform."""
        if not _is_wanted() or self.target_name != "wheel" or version != "standard":
            return
        sys.path.insert(0, self.root)
        from gguf_hub.run.kernels.build.shipped import SHIPPED_FOLDER
        from tools.ship_kernels import kernel_names, ship, targets

        if not targets():
            raise ValueError(
                f"{VARIABLE}: no instruction set is known for `{platform.machine()}`; "
                "hint: unset it for a pure wheel"
            )
        self._scratch = tempfile.TemporaryDirectory(prefix="gguf-hub-kernels-")
        names = kernel_names()
        for target in targets():
            sizes = ship(Path(self._scratch.name), target, names)
            n_bytes = sum(sizes.values())
            self.app.display_info(f"{target.cpu.isa}: {len(sizes)} kernels, {n_bytes:,} bytes")
        build_data["force_include"][self._scratch.name] = f"gguf_hub/{SHIPPED_FOLDER}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform_tag()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what is in the wheel now."""
        if hasattr(self, "_scratch"):
            self._scratch.cleanup()


def _is_wanted() -> bool:
    return os.environ.get(VARIABLE, "") not in ("", "0")


def _platform_tag() -> str:
    """Return the platforms that a wheel with this machine's objects is for."""
    return _PLATFORM_TAGS[sys.platform].format(machine=platform.machine().lower())
