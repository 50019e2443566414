"""A stage in a child process: the key comes on stdin, the address goes to stdout."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Serve a stage until the driver or the parent is gone."""
    from gguf_hub.run.cluster.server import StageServer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    line = sys.stdin.readline()
    if not line:
        return 1
    server = StageServer(bytes.fromhex(json.loads(line)["key"]))
    print(json.dumps({"address": server.address}), flush=True)  # noqa: T201 (the parent reads it)
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    server.is_over.wait()
    os._exit(0)  # threads that compute are not waited for


def _end_with_parent(server: object) -> None:
    sys.stdin.read()
    os._exit(0)
