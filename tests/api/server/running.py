"""A server on loopback, for tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any


class Running:
    """A server on loopback, in a thread."""

    def __init__(self, path: Path, stack: ExitStack, app: dict[str, Any], **options: Any) -> None:
        import httpx

        from gguf_hub.api.server.app import create_app
        from gguf_hub.api.server.listening import Server
        from gguf_hub.api.server.opening import open_service
        from gguf_hub.run.model.settings import ModelSettings

        app = dict(app)
        options = {"n_ctx": 256, "n_slots": 3, "name": "stories", **options}
        names = [each.name for each in fields(ModelSettings) if each.name in options]
        settings = ModelSettings(**{name: options.pop(name) for name in names})
        self.service = stack.enter_context(open_service(path, settings, **options))
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        given = {name: app.pop(name) for name in ("limits", "grace_s") if name in app}
        wrap = app.pop("wrap", lambda app: app)
        self.server = Server(wrap(create_app(self.service, **app)), **{"grace_s": 0.2, **given})
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()
        stack.callback(self.stop)
        self.http = stack.enter_context(httpx.Client(base_url=self.url, timeout=30))
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def wait(self, condition: Callable[[], bool], timeout_s: float = 30) -> None:
        """Wait until something is so."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, "it did not come to pass"
            time.sleep(0.005)
