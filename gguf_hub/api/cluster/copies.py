"""Which file of a machine is the one that the driver names: its bytes are compared afterwards."""

from __future__ import annotations

import socket
from pathlib import Path

from gguf_hub.errors import ClusterError


def find_copy(path: Path) -> Path:
    """Return this machine's copy of the driver's file.

    The same path, as in a shared folder; else a file of the same name where model files of this
    machine lie.

    Raises:
        ClusterError: There is none.
    """
    if path.is_file():
        return path
    from gguf_hub.hub.download.inventory import Condition, inventory
    from gguf_hub.hub.resolve import known_roots
    from gguf_hub.hub.store import Store

    store = Store()
    there = [
        file
        for file in inventory(store, known_roots(store))
        if file.path.name == path.name and file.path.is_file()
    ]
    there.sort(key=lambda file: file.condition is not Condition.VERIFIED)
    if there:
        return there[0].path
    raise ClusterError(
        f"{socket.gethostname()} has no copy of `{path.name}`",
        hint="fetch it there with `gguf-hub download` (`gguf-hub mirror` on the machine that has "
        "it serves it), or mount the same folder on all machines",
    )
