"""A folder with a file for each module that a program may import: each records that it was run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

CODE = """
import os
with open({path!r}, "a") as file:
    file.write(f"{name} in {{os.sys.argv}}\\n")
raise ImportError("{name}.py of the working folder was imported")
"""


def module_names() -> set[str]:
    """Names of all modules of the standard library, of all installed packages, and of ours."""
    more = {"gguf_hub", "hf_transfer", "pynvml", "sitecustomize", "usercustomize", "readline"}
    installed = {name for name in packages_distributions() if name.isidentifier()}
    return set(sys.stdlib_module_names) | installed | more


class HostileFolder:
    """The folder, at ``path``; programs of the system are in it, too."""

    def __init__(self, path: Path, *, without: Iterable[str] = ()) -> None:
        self.path = path
        self._record = path.with_name(path.name + ".executed")
        path.mkdir(exist_ok=True)
        for name in module_names() - set(without):
            path.joinpath(f"{name}.py").write_text(CODE.format(path=str(self._record), name=name))
        for name in ("nvidia-smi", "sysctl", "uname", "gcc", "ldconfig"):
            program = path / name
            program.write_text(f"#!/bin/sh\necho {name} >> '{self._record}'\n")
            program.chmod(0o755)

    def executed(self) -> list[str]:
        """What of it has run."""
        return self._record.read_text().splitlines() if self._record.exists() else []
