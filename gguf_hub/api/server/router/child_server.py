"""The server of one model in a process of its own, from the inside; see ``children``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

from fastapi import FastAPI

from gguf_hub.api.server.connections import Limits
from gguf_hub.api.server.listening import N_PENDING, Server
from gguf_hub.progress import SilentProgress, Task

_STALL_S = 120.0  # the router gives up on clients that do not read long before
_STEP = 0.02  # of a task's progress, between two reports


class Parent:
    """The process that has started this one: what it says, and what is said to it."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._stdin, self._stdout = stdin, stdout
        self._lock = threading.Lock()

    @classmethod
    def of_this_process(cls) -> Parent:
        """Return the parent; what is printed from now on goes to stderr, not to it."""
        out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the parent
        return cls(sys.stdin.buffer, out)

    def ask(self) -> dict[str, Any]:
        """Return what to serve."""
        return dict(json.loads(self._stdin.readline()))

    def tell(self, **message: Any) -> None:
        """Say something; nothing if nobody listens any more."""
        with self._lock, contextlib.suppress(OSError):
            self._stdout.write(json.dumps(message).encode() + b"\n")
            self._stdout.flush()

    def follow(self, at_end: Callable[[], None]) -> None:
        """Call ``at_end`` in a thread when the parent wants this process to end, or has ended."""

        def wait() -> None:
            """Read until the parent is gone."""
            # not through Python's buffer, whose lock would hold up the end of this process
            with contextlib.suppress(OSError):
                while os.read(self._stdin.fileno(), 1):
                    pass
            at_end()

        threading.Thread(target=wait, name="gguf-hub-parent", daemon=True).start()


class ParentProgress(SilentProgress):
    """Reports notes and tasks to the parent."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent

    def note(self, text: str) -> None:
        """Pass a line on."""
        self._parent.tell(note=text)

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        """Return a task that is reported as a share of 1, as in llama-server."""
        return _ParentTask(self._parent, label, total, done)


class _ParentTask:
    def __init__(self, parent: Parent, label: str, total: int | None, done: int) -> None:
        self._parent, self._label, self._total, self._done = parent, label, total, done
        self._told = -1.0

    def advance(self, n: int) -> None:
        self._done += n
        value = self._done / self._total if self._total else 0.0
        if value - self._told >= _STEP or not self._total:
            self._told = value
            self._parent.tell(progress={"current": self._label, "value": min(value, 1.0)})

    def __enter__(self) -> _ParentTask:
        self.advance(0)
        return self

    def __exit__(self, *error: object) -> None:
        """End nothing."""


class ChildServer(Server):
    """Serves until the parent closes the pipe; it handles no signals."""

    def __init__(self, app: FastAPI, parent: Parent, port: int, n_connections: int) -> None:
        limits = Limits(n_connections, stall_s=_STALL_S)
        super().__init__(app, limits=limits, grace_s=0)
        self._parent, self._port = parent, port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that it is ready, once it is."""
        await super().startup(sockets)
        self._parent.tell(ready=self._port)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals as they are."""
        yield


def serve_child(app: FastAPI, parent: Parent, n_connections: int, stop: threading.Event) -> None:
    """Serve on a free port of loopback until ``stop`` is set.

    Args:
        app: The application.
        parent: Is told when it is ready.
        n_connections: Maximum number of open connections.
        stop: Set when the parent wants this process to end.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(N_PENDING)
        server = ChildServer(app, parent, listener.getsockname()[1], n_connections)

        def end() -> None:
            """Let the server end its answers once told to stop."""
            stop.wait()
            server.should_exit = True

        threading.Thread(target=end, name="gguf-hub-end", daemon=True).start()
        server.run(sockets=[listener])
