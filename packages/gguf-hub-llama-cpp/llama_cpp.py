"""The name ``llama_cpp`` on gguf-hub, where llama-cpp-python is not installed.

This is a module, and llama-cpp-python's is a package, which Python prefers in the same folder:
where both are installed, in whichever order, the real one is imported, and no file of one
overwrites a file of the other. In another folder this one may come first in ``sys.path``: then it
refuses.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def _real() -> str | None:
    """Return where llama-cpp-python is installed; None where it is not."""
    for folder in sys.path:
        package = Path(folder, "llama_cpp")
        if (package / "__init__.py").is_file():
            return str(package)
    try:
        return str(distribution("llama-cpp-python").locate_file(""))
    except PackageNotFoundError:
        return None


if (_found := _real()) is not None:
    raise ImportError(
        f"llama_cpp: gguf-hub-llama-cpp does not stand in for llama-cpp-python, which is installed "
        f"in `{_found}`; this is `{__file__}`\n\n"
        "hint: `pip uninstall gguf-hub-llama-cpp` to use llama-cpp-python, `pip uninstall "
        "llama-cpp-python` to use gguf-hub"
    )

from gguf_hub.api.compat import llama_cpp as _package  # noqa: E402

_package.install(sys.modules[__name__])
