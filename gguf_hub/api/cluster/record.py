"""Which cluster this machine belongs to, as ``cluster up`` wrote it down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gguf_hub.paths import data_dir
from gguf_hub.resources.processes import is_running


@dataclass(frozen=True)
class Membership:
    """This machine's part in a cluster.

    Attributes:
        pid: Of the process that runs Ray.
        started: When it started.
        address: Of the cluster.
        host: Of this machine in it.
    """

    pid: int
    started: float
    address: str
    host: str


def record_path() -> Path:
    """Return where it is written down that this machine belongs to a cluster."""
    return data_dir() / "cluster" / "node.json"


def membership() -> Membership | None:
    """Return the cluster that this machine belongs to, or None."""
    try:
        found = Membership(**json.loads(record_path().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if is_running(found.pid, found.started) else None
