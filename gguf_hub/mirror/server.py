"""The mirror on the network: HTTP/1.1, one thread per connection, bodies by ``sendfile``."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from types import TracebackType
from typing import Any

from gguf_hub import __version__
from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.mirror.routes import Request, Response, Routes, Slice
from gguf_hub.mirror.shelf import Shelf

MAX_CONNECTIONS = 256
IDLE_S = 30.0  # how long a client may neither send nor take anything
MAX_BODY_BYTES = 1 << 20
_POLL_S = 0.05

Log = Callable[[str], None]


class Mirror:
    """A hub with the files of a shelf, listening as soon as it is made.

    Args:
        shelf: What is offered.
        host: Name or address to listen on; ``0.0.0.0`` or ``::`` for all of this machine.
        port: Port; 0 for a free one.
        token: What clients must carry; needed on every address but this machine's own.
        on_request: Told one line for each request; never of a token.
        on_error: Told one line for each request that could not be answered.
        max_connections: Connections at once; others wait until one ends.
        idle_s: Seconds after which a silent connection is closed.

    Raises:
        UsageError: Other machines could reach it without a token.
        GgufHubError: It cannot listen there.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        on_request: Log | None = None,
        on_error: Log | None = None,
        max_connections: int = MAX_CONNECTIONS,
        idle_s: float = IDLE_S,
    ) -> None:
        family, address = _resolve(host, port)
        self.is_local = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        if not self.is_local and not token:
            raise UsageError(
                f"`{host}` can be reached by other machines, and there is no token",
                hint="pass --token, or leave --host away to serve this machine alone",
            )
        self.shelf = shelf
        self.token = token or None
        routes = Routes(shelf, self.token)
        try:
            self._server = _Server(family, address, routes, max_connections)
        except OSError as exc:
            raise _cannot_listen(host, port, exc) from exc
        self._server.on_request, self._server.on_error = on_request, on_error
        self._server.idle_s = idle_s
        self.port: int = self._server.server_address[1]
        self.host = _reachable(family, address)
        self._thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        """The address for ``HF_ENDPOINT``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def serve_forever(self) -> None:
        """Serve until the process is interrupted, or ``close`` is called in another thread."""
        self._server.serve_forever(_POLL_S)

    def start(self) -> Mirror:
        """Serve in a thread of its own, until ``close``."""
        self._thread = threading.Thread(target=self.serve_forever, name="mirror", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop listening and end what is under way."""
        self._server.is_closing = True
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()
        self._server.end_connections()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Server(ThreadingTCPServer):
    """Accepts connections, as many as there are slots; the system's queue keeps the others."""

    allow_reuse_address = sys.platform != "win32"  # there it would let two share a port
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    on_request: Log | None = None
    on_error: Log | None = None
    idle_s = IDLE_S
    is_closing = False

    def __init__(
        self, family: int, address: tuple[Any, ...], routes: Routes, max_connections: int
    ) -> None:
        self.address_family = family
        self.routes = routes
        self._slots = threading.BoundedSemaphore(max_connections)
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection when there is a slot."""
        while not self._slots.acquire(timeout=_POLL_S):
            if self.is_closing:
                self.shutdown_request(request)
                return
        try:
            self._connections.add(request)
            super().process_request(request, client_address)
        except BaseException:
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, then free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: socket.socket) -> None:
        self._connections.discard(request)
        self._slots.release()

    def end_connections(self) -> None:
        """Hang up on everybody."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell what went wrong, unless a client has merely gone."""
        error = sys.exc_info()[1]
        if self.on_error and not isinstance(error, (ConnectionError, TimeoutError)):
            self.on_error(f"{client_address[0]}: {type(error).__name__}: {error}")


class _Handler(BaseHTTPRequestHandler):
    """Reads requests off a connection and writes their answers."""

    protocol_version = "HTTP/1.1"
    server_version = f"gguf-hub/{__version__}"
    sys_version = ""
    error_content_type = "application/json"
    error_message_format = '{"error": "%(code)d"}'
    disable_nagle_algorithm = True  # else every small answer waits 40 ms for the client's ACK
    server: _Server

    def setup(self) -> None:
        """Give the connection its time limit."""
        super().setup()
        self.connection.settimeout(self.server.idle_s)

    def do_GET(self) -> None:
        """Answer."""
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    def _answer(self) -> None:
        body = self._read_body()
        if body is None:
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = self.server.routes.answer(Request(self.command, self.path, headers, body))
        try:
            self._send(response)
        finally:
            if isinstance(response.body, Slice):
                response.body.file.close()

    def _read_body(self) -> bytes | None:
        """Return the request's body, or None after an answer to one that cannot be taken."""
        length = self.headers.get("Content-Length", "0")
        if self.headers.get("Transfer-Encoding") or not length.isascii() or not length.isdigit():
            status = 411
        elif len(length) > 9 or int(length) > MAX_BODY_BYTES:
            status = 413
        else:
            return self.rfile.read(int(length))
        self.close_connection = True  # where the next request begins is unknown
        self.send_error(status)
        return None

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(response.n_bytes))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(response.body, bytes):
            self.wfile.write(response.body)
        elif self._send_slice(response.body) < response.n_bytes:
            self.close_connection = True  # the file became shorter: the client must notice

    def _send_slice(self, body: Slice) -> int:
        """Send bytes of a file without copying them through this process; return how many."""
        if body.n_bytes == 0:
            return 0
        connection: socket.socket = self.connection
        return connection.sendfile(body.file, body.start, body.n_bytes)

    def log_message(self, format: str, *args: Any) -> None:
        """Tell one line about a request, without control characters that a terminal obeys."""
        if self.server.on_request:
            text = format % args
            self.server.on_request(
                f"{self.client_address[0]} {text.encode('unicode_escape').decode()}"
            )


def _resolve(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """Return the family and the address of a host to listen on."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as exc:
        raise _cannot_listen(host, port, exc) from exc
    family, *_, address = found[0]
    return family, address


def _reachable(family: int, address: tuple[Any, ...]) -> str:
    """Return the address that clients use: for "all addresses" the one that faces the network."""
    if not ipaddress.ip_address(address[0].partition("%")[0]).is_unspecified:
        return str(address[0])
    far = ("192.0.2.1", 9) if family == socket.AF_INET else ("2001:db8::1", 9)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(far)  # chooses a route; nothing is sent
            return str(probe.getsockname()[0])
        except OSError:  # no network at all
            return "127.0.0.1" if family == socket.AF_INET else "::1"


def _cannot_listen(host: str, port: int, exc: Exception) -> GgufHubError:
    reason = (getattr(exc, "strerror", None) or str(exc)).lower()
    return GgufHubError(
        f"cannot listen on `{host}` port {port}: {reason}",
        hint="`--host` takes an address of this machine, `--port 0` any free port",
    )
