"""Processes that serve one model each, as their parent sees them.

A child is told what to open by one line of JSON on its stdin, and says what becomes of it in lines
of JSON on its stdout: ``{"note": TEXT}``, ``{"progress": {...}}``, ``{"ready": PORT}``, or
``{"error": TEXT, "hint": TEXT}``. It ends when its stdin is closed, so that none is left behind
whatever happens to its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gguf_hub.api.server.flow import call_in
from gguf_hub.errors import GgufHubError
from gguf_hub.subprocesses import Process

STOP_S = 10.0
"""How long a child may take to end by itself, as in llama-server."""
_MAX_LINE_BYTES = 2**16


class LoadError(GgufHubError):
    """A model that could not be loaded.

    Args:
        message: Why.
        status: Exit status of the process; negative for a signal, None where it still runs.
        hint: The next step, or None.
    """

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class StartProcess(Protocol):
    """Starts the process of a model and tells it what to open."""

    def __call__(self, name: str, path: Path, key: str) -> Process:
        """Return the process.

        Args:
            name: The model's name for clients.
            path: Its file.
            key: The API key that its server is to ask for.
        """
        ...


@dataclass(eq=False)
class Child:
    """A process that serves one model on loopback.

    Args:
        process: As ``StartProcess`` returns it.
        key: Its API key.
        on_message: Called with what it says besides, in the event loop's thread.

    Attributes:
        address: Where it listens, once it is ready.
        ready: Set when it is, or with a ``LoadError``.
        exited: Set to its exit status at its end.
    """

    process: Process
    key: str
    on_message: Callable[[dict[str, Any]], None]
    address: tuple[str, int] = ("127.0.0.1", 0)
    ready: asyncio.Future[None] = field(init=False)
    exited: asyncio.Future[int] = field(init=False)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready, self.exited = self._loop.create_future(), self._loop.create_future()
        self.ready.add_done_callback(retrieve)
        threading.Thread(target=self._read, name="gguf-hub-child", daemon=True).start()

    @classmethod
    def start(
        cls, start: StartProcess, name: str, path: Path, on_message: Callable[[Any], None]
    ) -> Child:
        """Start a process with a key of its own.

        Raises:
            GgufHubError: It cannot be started.
        """
        key = secrets.token_urlsafe(32)
        return cls(start(name, path, key), key, on_message)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self.process.pid

    def end(self) -> None:
        """Let it end by itself; it closes its connections."""
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    async def stop(self, timeout_s: float = STOP_S) -> int:
        """Let it end by itself, or kill it if that takes too long; return its exit status."""
        self.end()
        try:
            return await asyncio.wait_for(asyncio.shield(self.exited), timeout_s)
        except asyncio.TimeoutError:
            self.process.kill()
            return await self.exited

    # -- in a thread -----------------------------------------------------------------------------

    def _read(self) -> None:
        """Pass on what the process says until its end, then its exit status."""
        stdout = self.process.stdout
        assert stdout is not None
        with contextlib.suppress(OSError), stdout:
            while line := stdout.readline(_MAX_LINE_BYTES):
                with contextlib.suppress(ValueError):  # what a library prints is none of it
                    call_in(self._loop, self._receive, dict(json.loads(line)))
        status = self.process.wait()
        call_in(self._loop, self._finish, status)

    # -- in the event loop -----------------------------------------------------------------------

    def _receive(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.address = ("127.0.0.1", int(message["ready"]))
            if not self.ready.done():
                self.ready.set_result(None)
        elif "error" in message:
            if not self.ready.done():
                self.ready.set_exception(LoadError(message["error"], hint=message.get("hint")))
        else:
            self.on_message(message)

    def _finish(self, status: int) -> None:
        self.end()
        if not self.ready.done():
            self.ready.set_exception(LoadError(f"its process {ending(status)}", status=status))
        if not self.exited.done():
            self.exited.set_result(status)


def ending(status: int) -> str:
    """Return how a process ended, in words."""
    if status < 0:
        return f"was ended by signal {-status}"
    return f"ended with exit code {status}"


def retrieve(future: asyncio.Future[None]) -> None:
    """Mark an error as seen: who waits for it gets it, and nobody may wait any more."""
    if not future.cancelled():
        future.exception()
