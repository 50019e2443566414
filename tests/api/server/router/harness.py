"""A router on loopback whose models are served by ``process.py``."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gguf_hub.hub.fit import Machine
from gguf_hub.hub.resolve import Resolver
from gguf_hub.hub.store import Store

PROCESS = Path(__file__).with_name("process.py")


class RunningRouter:
    """A router in a thread.

    Attributes:
        orders: Name of a model -> what its next process does while it loads, see ``process.py``.
        started: Names of the models whose processes were started, in order.
        notes: What whoever runs the server was told.
    """

    def __init__(
        self,
        stack: ExitStack,
        files: list[Path] | None,
        *,
        folder: Path | None = None,
        ram_bytes: int = 10**12,
        n_ctx: int = 128,
        app: dict[str, Any] | None = None,
        autoload: bool = True,
        **settings: Any,
    ) -> None:
        import httpx

        from gguf_hub.api.server.listening import Server
        from gguf_hub.api.server.router.app import create_router_app
        from gguf_hub.api.server.router.fleet import Fleet, FleetSettings
        from gguf_hub.api.server.router.library import Library
        from gguf_hub.api.server.router.pulls import Pulls
        from gguf_hub.api.server.router.room import OpeningFacts, Room
        from gguf_hub.api.server.router.service import Router, ask_models

        self.orders: dict[str, dict[str, Any]] = {}
        self.started: list[str] = []
        self.notes: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        opening = OpeningFacts(n_ctx=n_ctx, n_slots=1)
        room = Room(opening, lambda: Machine(ram_bytes), lambda: None)
        fleet_settings = FleetSettings(**{"wait_s": 30.0, **settings})
        self.fleet = Fleet(self._start, ask_models, room, fleet_settings, self.notes.append)

        def resolver(progress: Any) -> Resolver:
            return Resolver(store=Store(folder), progress=progress)

        named = None if files is None else [(str(path), path) for path in files]
        self.library = Library(resolver(None), named)
        pulls = Pulls(resolver, self.fleet.events, lambda: self.library.models(is_fresh=True))
        self.router = Router(
            self.library, self.fleet, pulls, resolver(None), opening, autoload=autoload
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = Server(create_router_app(self.router, **(app or {})), grace_s=0.2)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()
        stack.callback(self.stop)
        self.http = stack.enter_context(httpx.Client(base_url=self.url, timeout=60))
        while not self.server.started:
            time.sleep(0.01)

    def _start(self, name: str, path: Path, key: str) -> subprocess.Popen[bytes]:
        self.started.append(name)
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROCESS)], stdin=pipe, stdout=pipe
        )
        orders = self.orders.pop(name, {})
        assert process.stdin is not None
        process.stdin.write(json.dumps({"name": name, "key": key, "orders": orders}).encode())
        process.stdin.write(b"\n")
        process.stdin.flush()
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Stop the server; no process is left."""
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        assert [process.poll() is None for process in self.processes].count(True) == 0
        for process in self.processes:
            assert process.stdout is not None
            process.stdout.close()

    def ask(self, model: str, **body: Any) -> Any:
        """Return the answer of a model."""
        reply = self.http.post("/completion", json={"model": model, **body})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def statuses(self) -> dict[str, str]:
        """Return what becomes of each model."""
        data = self.http.get("/v1/models").json()["data"]
        return {entry["id"]: entry["status"]["value"] for entry in data}

    def wait(self, condition: Callable[[], bool], timeout_s: float = 30) -> None:
        """Wait until something is so."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, "it did not come to pass"
            time.sleep(0.01)
