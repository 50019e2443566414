"""The mirror on the network: HTTP/1.1, one thread per request, bodies by ``sendfile``."""

from __future__ import annotations

import io
import ipaddress
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

from gguf_hub import __version__
from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.hub.mirror.acceptor import MAX_HEAD_BYTES, Acceptor, Connection, body_length
from gguf_hub.hub.mirror.repository_index import RepositoryIndex
from gguf_hub.hub.mirror.routes import FileSlice, ManifestOf, Request, Response, Routes
from gguf_hub.oserrors import reason_of

MAX_REQUESTS = 256
MAX_WAITING = 384  # with a socket and a file for each request, below the usual limit of 1024
IDLE_S = 30.0
REQUEST_S = 10.0
_N_PENDING = 256

Log = Callable[[str], None]


class Mirror:
    """A hub with the files of an index, listening as soon as it is made.

    Args:
        index: What is offered.
        host: Name or address to listen on; ``0.0.0.0`` or ``::`` for all of this machine.
        port: Port; 0 for a free one.
        token: What clients must carry; needed on every address but this machine's own.
        manifest_of: Returns the SHA-256 of each tensor of a file as JSON, where it was computed.
        on_request: Called with a line for each request, which never has a token in it.
        on_error: Called with a line for each request that could not be answered.
        max_requests: Maximum number of requests answered at a time; further ones are queued.
        max_waiting: Maximum number of connections without a complete request; the one that has
            waited longest is closed when there are more.
        idle_s: Seconds after which a silent connection, or a stalled answer, is closed.
        request_s: Seconds after which an incomplete request is closed.

    Raises:
        UsageError: Other machines could reach it without a token.
        GgufHubError: It cannot listen there.
    """

    def __init__(
        self,
        index: RepositoryIndex,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        manifest_of: ManifestOf = lambda path: None,
        on_request: Log | None = None,
        on_error: Log | None = None,
        max_requests: int = MAX_REQUESTS,
        max_waiting: int = MAX_WAITING,
        idle_s: float = IDLE_S,
        request_s: float = REQUEST_S,
    ) -> None:
        family, address = _resolve(host, port)
        self.is_local = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        if not self.is_local and not token:
            raise UsageError(
                f"`{host}` can be reached by other machines, and there is no token",
                hint="pass --token, or drop --host to serve this machine alone",
            )
        self.index = index
        self.token = token or None
        routes = Routes(index, self.token, manifest_of)
        limits = {"n_requests": max_requests, "n_waiting": max_waiting, "idle_s": idle_s,
                  "request_s": request_s}  # fmt: skip
        try:
            self._server = _Server(family, address, routes, limits, on_request, on_error)
        except OSError as exc:
            raise _cannot_listen(host, port, exc) from exc
        self.port = self._server.port
        self.host = _reachable(family, address)
        self._thread: threading.Thread | None = None

    @property
    def sent_bytes(self) -> Mapping[str, int]:
        """Bytes of files that were sent, by the clients' addresses."""
        return self._server.sent_bytes

    @property
    def endpoint(self) -> str:
        """The address for ``HF_ENDPOINT``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def serve_forever(self) -> None:
        """Serve until the process is interrupted, or ``close`` is called in another thread."""
        self._server.acceptor.run()

    def start(self) -> Mirror:
        """Serve in a thread of its own, until ``close``."""
        self._thread = threading.Thread(target=self.serve_forever, name="mirror", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop listening and end what is under way."""
        self._server.acceptor.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._server.close()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Server:
    """Answers the requests that an acceptor reads."""

    def __init__(
        self,
        family: int,
        address: tuple[Any, ...],
        routes: Routes,
        limits: dict[str, Any],
        on_request: Log | None,
        on_error: Log | None,
    ) -> None:
        self.routes, self.on_request, self._on_error = routes, on_request, on_error
        self.sent_bytes: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if sys.platform != "win32":  # there it would let two share a port
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(address)
            self._listener.listen(_N_PENDING)
        except BaseException:
            self._listener.close()
            raise
        self.port: int = self._listener.getsockname()[1]
        self.acceptor = Acceptor(self._listener, self._answer, **limits)

    def close(self) -> None:
        """Stop listening and close every connection; ``acceptor.run`` has returned."""
        self._listener.close()
        self.acceptor.disconnect_all()

    def count_sent(self, address: str, n_bytes: int) -> None:
        """Count bytes of a file; several threads send."""
        with self._counting:
            self.sent_bytes[address] += n_bytes

    def _answer(self, connection: Connection) -> bytes | None:
        """Answer one request; return the bytes after it, or None to close the connection."""
        try:
            handler = _Handler(connection, self)
        except (ConnectionError, TimeoutError):  # the client has disconnected
            return None
        except Exception as exc:
            if self._on_error:
                self._on_error(f"{connection.address[0]}: {type(exc).__name__}: {exc}")
            return None
        return handler.rest


class _Handler(BaseHTTPRequestHandler):
    """Answers one complete request.

    Attributes:
        rest: Bytes received after it; None if the connection is to be closed.
    """

    protocol_version = "HTTP/1.1"
    server_version = f"gguf-hub/{__version__}"
    sys_version = ""
    error_content_type = "application/json"
    error_message_format = '{"error": "%(code)d"}'
    disable_nagle_algorithm = True  # else every small answer waits 40 ms for the client's ACK
    server: _Server  # type: ignore[assignment]

    def __init__(self, connection: Connection, server: _Server) -> None:
        self._source = connection
        self.rest: bytes | None = None
        super().__init__(connection.socket, connection.address, server)  # type: ignore[arg-type]

    def setup(self) -> None:
        """Read from the received bytes."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BytesIO(self._source.data)

    def handle(self) -> None:
        """Answer."""
        self.close_connection = True
        has_line = 0 <= self._source.data.find(b"\n") <= MAX_HEAD_BYTES
        if self._source.is_too_large and has_line:
            self.requestline = self.request_version = self.command = ""
            self.send_error(431)
        else:
            self.handle_one_request()
        if not self.close_connection:
            self.rest = self.rfile.read()

    def handle_expect_100(self) -> bool:
        """Continue: the body has been received."""
        return True

    def do_GET(self) -> None:
        """Answer."""
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    def _answer(self) -> None:
        status, length = body_length(self.headers)
        if len(self.headers.get_all("Host", [])) > 1:
            status = 400
        if status:
            self.close_connection = True  # where the next request begins is not known
            self.send_error(status)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(length)
        response = self.server.routes.answer(Request(self.command, self.path, headers, body))
        try:
            self._send(response)
        finally:
            if isinstance(response.body, FileSlice):
                response.body.file.close()

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

    def _send_slice(self, body: FileSlice) -> int:
        """Send bytes of a file without copying them through this process; return how many."""
        if body.n_bytes == 0:
            return 0
        connection: socket.socket = self.connection
        try:
            return connection.sendfile(body.file, body.start, body.n_bytes)
        finally:  # also of an answer that broke off: there the file stands
            n_sent = body.file.tell() - body.start
            self.server.count_sent(str(self.client_address[0]), n_sent)

    def log_message(self, format: str, *args: Any) -> None:
        """Log a line about a request, without control characters that a terminal obeys."""
        if self.server.on_request:
            text = format % args
            self.server.on_request(
                f"{self.client_address[0]} {text.encode('unicode_escape').decode()}"
            )


def _resolve(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as exc:
        raise _cannot_listen(host, port, exc) from exc
    family, *_, address = addresses[0]
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
    reason = reason_of(exc) if isinstance(exc, OSError) else str(exc).lower()
    return GgufHubError(
        f"cannot listen on `{host}` port {port}: {reason}",
        hint="`--host` takes an address of this machine, `--port 0` any free port",
    )
