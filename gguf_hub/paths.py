"""Where gguf-hub keeps things of its own: its record of files, compiled kernels, settings.

Model files themselves lie in the Hugging Face cache or where ``--local-dir`` says.
``GGUF_HUB_HOME`` moves everything below one folder.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def data_dir() -> Path:
    """Return the folder for lasting records (it may not exist yet)."""
    return _dir("data")


def cache_dir() -> Path:
    """Return the folder for what can be made again (it may not exist yet)."""
    return _dir("cache")


def writable_cache_dir(name: str) -> Path:
    """Return an existing, writable folder ``name`` in the cache, or else under the temporary one.

    A read-only or absent home must not keep the program from running; only the next start is then
    slower.
    """
    uid = os.getuid() if hasattr(os, "getuid") else "user"
    for folder in (cache_dir() / name, Path(tempfile.gettempdir()) / f"gguf-hub-{uid}" / name):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and _is_mine(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="gguf-hub-"))


def _is_mine(folder: Path) -> bool:
    """Tell whether this user owns the folder: code is loaded from it."""
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def _dir(kind: str) -> Path:
    home = os.environ.get("GGUF_HUB_HOME")
    if home:
        return Path(home).expanduser() / kind
    import platformdirs

    base = platformdirs.user_data_path if kind == "data" else platformdirs.user_cache_path
    return base("gguf-hub")
