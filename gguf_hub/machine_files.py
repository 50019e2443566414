"""What was found out about this machine, once, and is kept in the cache: speeds, GPUs, memory.

A file that cannot be read or written costs the time to find it out again, and is no error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gguf_hub.files import write_atomically
from gguf_hub.paths import cache_dir

FOLDER = "machine"


def read_machine_file(filename: str) -> dict[str, Any]:
    """Return what a file holds; nothing where it cannot be read."""
    try:
        data = json.loads((cache_dir() / FOLDER / filename).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_machine_file(filename: str, rows: Mapping[str, Any]) -> None:
    """Write a file, if the cache can be written."""
    with suppress(OSError):
        write_atomically(cache_dir() / FOLDER / filename, json.dumps(rows, indent=1))


def positive(value: Any) -> float | None:
    """Return a number that was remembered; None where it is none, or not above 0."""
    return float(value) if isinstance(value, (int, float)) and value > 0 else None
