"""The first code of a child process: ``python -I bootstrap.py ENTRIES MODULE [ARGUMENT]...``.

``-I`` keeps the working folder, ``PYTHONPATH`` and the user's own packages off ``sys.path``;
ENTRIES, a JSON list, is what the parent trusts. This package is not searched for: it is the one
that this file belongs to, so that its folder need not be an entry (see ``subprocesses``).
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> int:
    """Run ``main(arguments)`` of MODULE and return its exit code."""
    entries, module, *arguments = sys.argv[1:]
    sys.path[:] = json.loads(entries)
    _load_package(Path(__file__).parent)
    code: int = import_module(module).main(arguments)
    return code


def _load_package(folder: Path) -> None:
    spec = spec_from_file_location(folder.name, folder / "__init__.py")
    assert spec and spec.loader
    package = module_from_spec(spec)
    sys.modules[folder.name] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    sys.exit(main())
