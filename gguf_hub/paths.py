"""Where gguf-hub keeps things of its own: its record of files, compiled kernels, settings.

Model files themselves lie in the Hugging Face cache or where ``--local-dir`` says.
``GGUF_HUB_HOME`` moves everything below one folder.
"""

from __future__ import annotations

import os
from pathlib import Path


def data_dir() -> Path:
    """Return the folder for lasting records (it may not exist yet)."""
    return _dir("data")


def cache_dir() -> Path:
    """Return the folder for what can be made again (it may not exist yet)."""
    return _dir("cache")


def kernel_cache_dir() -> Path:
    """Return the folder of compiled kernels; ``GGUF_HUB_KERNEL_CACHE`` moves it alone."""
    folder = os.environ.get("GGUF_HUB_KERNEL_CACHE")
    return expand_user(folder).absolute() if folder else cache_dir()


def default_cache_dir() -> Path:
    """Return the Hugging Face cache, found as huggingface_hub finds it (it may not exist yet)."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(name):
            return expand_user(folder)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{base}/huggingface"
    return expand_user(home) / "hub"


def _dir(kind: str) -> Path:
    home = os.environ.get("GGUF_HUB_HOME")
    if home:
        return expand_user(home) / kind
    import platformdirs

    base = platformdirs.user_data_path if kind == "data" else platformdirs.user_cache_path
    return base("gguf-hub")


def absolute(path: Path) -> Path:
    """Return the absolute path without ``..``; links are not followed, unlike ``Path.resolve``."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps `..`


def expand_user(path: str | os.PathLike[str]) -> Path:
    """Return the path that a user names; a ``~`` of nobody stands for itself."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib raises for it)
