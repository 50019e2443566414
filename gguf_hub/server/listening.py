"""uvicorn as we run it: limits of connections, and a stop that comes to an end."""

from __future__ import annotations

import asyncio
import socket
import sys

import uvicorn
from fastapi import FastAPI

from gguf_hub.errors import UsageError
from gguf_hub.server.connections import Connections, Limits, protocol_of
from gguf_hub.server.service import Service

GRACE_S = 1
N_PENDING = 2048  # connections that the system accepts before the server does, uvicorn's own
_KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that they close them, not we
_N_FILES = 200  # that a server opens besides connections, those included that it refuses
_END_S = 0.25  # from the end of all texts to that of connections: errors have yet to be sent


class Server(uvicorn.Server):
    """Serves an application until it is told to stop.

    Args:
        app: The application.
        limits: Of connections.
        grace_s: How long texts may go on when the server stops.
        is_verbose: Log a line for each request.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        limits: Limits | None = None,
        grace_s: float = GRACE_S,
        is_verbose: bool = False,
    ) -> None:
        self._connections = Connections(limits or Limits())
        self._service: Service = app.state.service
        self._grace_s = grace_s
        config = uvicorn.Config(
            app, http=protocol_of(self._connections), ws="none", server_header=False,
            log_level="info" if is_verbose else "warning", access_log=is_verbose,
            timeout_keep_alive=_KEEP_ALIVE_S, backlog=N_PENDING,
            timeout_graceful_shutdown=int(grace_s) + 2,
        )  # fmt: skip
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let texts go on for a while, then end them, then hang up on who is left."""
        ending = asyncio.ensure_future(self._end())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end(self) -> None:
        await asyncio.sleep(self._grace_s)
        self._service.end()
        await asyncio.sleep(_END_S)
        self._connections.abort()


def allow_connections(n: int) -> None:
    """Let this process open so many connections.

    Raises:
        UsageError: The system does not allow it.
    """
    if sys.platform == "win32":  # where there is no such limit
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n + _N_FILES
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UsageError(
            f"{n} connections: this system lets a process open {hard} files, of which "
            f"{_N_FILES} are for other uses",
            hint=f"expected at most --max-connections {max(1, hard - _N_FILES)}",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
