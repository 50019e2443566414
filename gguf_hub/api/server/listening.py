"""uvicorn with limits on connections and a bounded shutdown."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from pathlib import Path
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from gguf_hub.api.server.connections import Connections, Limits, protocol_of
from gguf_hub.errors import UsageError
from gguf_hub.oserrors import reason_of

GRACE_S = 1
N_PENDING = 2048  # backlog of the listening socket, uvicorn's default
_KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that they close them first
_N_FILES = 200  # open files besides connections, including those that are being refused
_END_S = 0.25  # from the end of generations to that of connections, for errors to be sent


class Computing(Protocol):
    """What computes the answers of an application: its ``state.service``."""

    def end(self) -> None:
        """Fail open requests, without waiting."""
        ...


class Server(uvicorn.Server):
    """Serves an application of ``create_app`` or ``create_router_app``.

    Args:
        app: The application.
        limits: Limits of its connections.
        grace_s: How long generations may continue on shutdown.
        is_verbose: Log a line for each request.
        tls: Certificate and private key of HTTPS; see ``check_tls``.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        limits: Limits | None = None,
        grace_s: float = GRACE_S,
        is_verbose: bool = False,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self._connections = Connections(limits or Limits())
        self._service: Computing = app.state.service
        self._grace_s = grace_s
        config = uvicorn.Config(
            app, http=protocol_of(self._connections), ws="none", server_header=False,
            log_level="info" if is_verbose else "warning", access_log=is_verbose,
            timeout_keep_alive=_KEEP_ALIVE_S, backlog=N_PENDING,
            timeout_graceful_shutdown=int(grace_s) + 2,
            ssl_certfile=tls and tls[0], ssl_keyfile=tls and tls[1],
        )  # fmt: skip
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let generations continue for a while, then end them and close the connections."""
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


def check_tls(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Return the files of HTTPS; None without any.

    Raises:
        UsageError: One is missing, cannot be read, is not PEM, does not belong to the other, or is
            protected by a password.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("expected --ssl-cert-file and --ssl-key-file, found one of them")
    for option, path in (("--ssl-cert-file", certificate), ("--ssl-key-file", key)):
        try:
            path.read_bytes()
        except OSError as exc:
            raise UsageError(f"`{option} {path}`: cannot be read: {reason_of(exc)}") from exc
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _no_password)
    except (ssl.SSLError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or str(exc)
        raise UsageError(
            f"`--ssl-cert-file {certificate}` and `--ssl-key-file {key}`: expected a certificate "
            f"and its key in PEM, without a password: {reason}"
        ) from exc
    return certificate, key


def _no_password() -> str:
    """Answer instead of the terminal, which nobody may watch."""
    return ""


def allow_connections(n: int, *, n_files: int = 1) -> None:
    """Raise this process's limit of open files to ``n`` connections, if necessary.

    Args:
        n: Connections.
        n_files: Open files that each of them takes.

    Raises:
        UsageError: The system does not allow as many.
    """
    if sys.platform == "win32":  # no such limit there
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n * n_files + _N_FILES
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        most = max(1, (hard - _N_FILES) // n_files)
        raise UsageError(
            f"{n} connections: expected at most {most}, because this system limits a process to "
            f"{hard} open files",
            hint="lower --max-connections, or raise the limit (`ulimit -n`)",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
