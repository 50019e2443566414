"""The packages that only conversion needs."""

from __future__ import annotations

import importlib
from typing import Any

from gguf_hub.errors import GgufHubError


def require(package: str) -> Any:
    """Return a package of the extra ``convert``.

    Raises:
        GgufHubError: It is not installed; the hint is the pip command.
    """
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        raise GgufHubError(
            f"converting needs the package `{package}`, which is not installed",
            hint="pip install 'gguf-hub[convert]'",
        ) from exc
