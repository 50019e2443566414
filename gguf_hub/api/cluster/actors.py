"""What runs on the machines of a cluster, started there by Ray."""

from __future__ import annotations

import os
import threading
from typing import Any

from gguf_hub.api.cluster.planning import describe_machine


class StageActor:
    """A process with a stage; it ends with its driver.

    Args:
        key: What the driver and the other stages prove to know.
        host: Address of this machine in the cluster.
    """

    def __init__(self, key: bytes, host: str) -> None:
        from gguf_hub.api.cluster.copies import NodeFiles
        from gguf_hub.run.cluster.server import StageServer

        self._server = StageServer(key, host, NodeFiles())
        threading.Thread(target=self._end, daemon=True).start()

    def address(self) -> tuple[str, int]:
        """Return where the stage listens."""
        return self._server.address

    def status(self) -> dict[str, Any]:
        """Return what it holds and has done, for people to read."""
        return self._server.status()

    def _end(self) -> None:
        self._server.is_over.wait()
        os._exit(0)


def describe_node() -> dict[str, Any]:
    """Return the facts of the machine that this runs on."""
    return describe_machine()
