"""Connections of the mirror, read by one thread until a request is complete.

Only a complete request occupies a worker thread, so idle and slow clients cannot keep the others
out. Of HTTP this module knows where a request ends, and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import re
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, parse_headers
from typing import Any

MAX_HEAD_BYTES = 1 << 16
MAX_BODY_BYTES = 1 << 20
BODY_BYTES_PER_S = 4096  # minimum average rate of a request body

_POLL_S = 0.05
_READ_BYTES = 1 << 16
_HEAD_END = re.compile(rb"\n\r?\n|\A\r?\n")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def body_length(headers: Message) -> tuple[int, int]:
    """Return (0, length) of a request's body, or (error status, 0) for one that is refused."""
    lengths = headers.get_all("Content-Length", ["0"])
    length = lengths[0]
    if headers.get("Transfer-Encoding") or not length.isascii() or not length.isdigit():
        return 411, 0
    if len(lengths) > 1:
        return 400, 0
    if len(length) > 9 or int(length) > MAX_BODY_BYTES:
        return 413, 0
    return 0, int(length)


@dataclass(eq=False)
class Connection:
    """A connection and the part of its next request that has arrived.

    Attributes:
        socket: The socket.
        address: Address of the client.
        data: Bytes received.
        since: Start of the wait; from the first byte of the request on, the time it arrived.
        n_head: Size of the head in bytes; 0 while it is incomplete.
        n_total: Size of the request in bytes, once the head is complete.
    """

    socket: socket.socket
    address: Any
    data: bytearray = field(default_factory=bytearray)
    since: float = field(default_factory=time.monotonic)
    n_head: int = 0
    n_total: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the request can be answered, if only with an error."""
        has_all = self.n_head > 0 and len(self.data) >= self.n_total
        return has_all or self.is_too_large

    @property
    def is_too_large(self) -> bool:
        """Whether the head exceeds its limit."""
        return not self.n_head and len(self.data) > MAX_HEAD_BYTES

    def feed(self, data: bytes) -> None:
        """Append received bytes; read the size of the body once the head is complete."""
        if data and not self.data:
            self.since = time.monotonic()
        begin = max(0, len(self.data) - 2)  # the blank line may be split between reads
        self.data += data
        if self.n_head or (end := _HEAD_END.search(self.data, begin)) is None:
            return
        if end.end() > MAX_HEAD_BYTES:
            return
        self.n_head = self.n_total = end.end()
        headers = _headers(bytes(self.data[: self.n_head]))
        if headers is None:  # the handler reports what is wrong
            return
        self.n_total += body_length(headers)[1]
        if not self.is_complete and headers.get("Expect", "").lower() == "100-continue":
            with contextlib.suppress(OSError):
                self.socket.send(_CONTINUE)

    def deadline(self, idle_s: float, request_s: float) -> float:
        """Return when the connection is closed unless the request is complete by then."""
        if not self.data:
            return self.since + idle_s
        n_body = len(self.data) - self.n_head if self.n_head else 0
        return self.since + request_s + n_body / BODY_BYTES_PER_S


def _headers(head: bytes) -> Message | None:
    try:
        return parse_headers(io.BytesIO(head[head.find(b"\n") + 1 :]))
    except HTTPException:
        return None


class Acceptor:
    """Accepts connections, reads requests and starts a thread for each complete one.

    Args:
        listener: The listening socket.
        answer: Called in a thread with a connection whose request is complete; returns the bytes
            received after that request, or None to close the connection.
        n_requests: Maximum number of requests answered at a time; further ones are queued.
        n_waiting: Maximum number of connections without a complete request; the one that has
            waited longest is closed when there are more.
        idle_s: Time limit of a connection between requests, and of a stalled answer.
        request_s: Time limit of a request from its first byte; its body extends it by a second
            for every ``BODY_BYTES_PER_S``.
    """

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[Connection], bytes | None],
        *,
        n_requests: int,
        n_waiting: int,
        idle_s: float,
        request_s: float,
    ) -> None:
        self._listener, self._answer = listener, answer
        self._n_requests, self._n_waiting = n_requests, n_waiting
        self._idle_s, self._request_s = idle_s, request_s
        self._selector = selectors.DefaultSelector()
        self._wake_sender, self._wake_receiver = socket.socketpair()
        for one in (listener, self._wake_receiver, self._wake_sender):
            one.setblocking(False)
        self._waiting: dict[Connection, None] = {}  # oldest first
        self._ready: deque[Connection] = deque()
        self._answering: set[Connection] = set()
        self._answered: deque[Connection] = deque()  # kept alive
        self._lock = threading.Lock()
        self._is_closing = False

    def run(self) -> None:
        """Serve until ``close`` is called, from this thread or another."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_receiver, selectors.EVENT_READ)
        checked = time.monotonic()
        while not self._is_closing:
            for key, _ in self._selector.select(_POLL_S):
                self._serve(key)
            while self._answered:
                self._enqueue(self._answered.popleft())
            self._start_answers()
            if time.monotonic() - checked >= _POLL_S:
                self._close_expired()
                checked = time.monotonic()

    def close(self) -> None:
        """Make ``run`` return."""
        with self._lock:
            self._is_closing = True
        self._wake()

    def disconnect_all(self) -> None:
        """Close every connection; call this after ``run`` has returned."""
        with self._lock:
            self._is_closing = True
            answering = list(self._answering)
        for connection in answering:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for connection in [*self._waiting, *self._ready, *self._answered]:
            _shut(connection)
        self._selector.close()
        self._wake_sender.close()
        self._wake_receiver.close()

    # -- in the reading thread --------------------------------------------------------------------

    def _serve(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._listener:
            self._accept()
        elif key.fileobj is self._wake_receiver:
            with contextlib.suppress(BlockingIOError):
                self._wake_receiver.recv(_READ_BYTES)
        elif key.data in self._waiting:  # it may just have been closed
            self._read(key.data)

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except OSError:  # the client has disconnected, or there are too many open files
            time.sleep(_POLL_S / 10)
            return
        connection.setblocking(False)
        self._enqueue(Connection(connection, address))

    def _enqueue(self, connection: Connection) -> None:
        """Wait for a connection's request, or queue the request if it is complete already."""
        if connection.is_complete:
            self._ready.append(connection)
            return
        if len(self._waiting) >= self._n_waiting:
            self._close(next(iter(self._waiting)))
        self._waiting[connection] = None
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.feed(data)
        if connection.is_complete:
            self._unregister(connection)
            self._ready.append(connection)

    def _start_answers(self) -> None:
        while self._ready and len(self._answering) < self._n_requests:
            connection = self._ready.popleft()
            with self._lock:
                self._answering.add(connection)
            threading.Thread(target=self._work, args=(connection,), daemon=True).start()

    def _close_expired(self) -> None:
        now = time.monotonic()
        for connection in list(self._waiting):
            if connection.deadline(self._idle_s, self._request_s) <= now:
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._unregister(connection)
        _shut(connection)

    def _unregister(self, connection: Connection) -> None:
        del self._waiting[connection]
        self._selector.unregister(connection.socket)

    # -- in a worker thread ----------------------------------------------------------------------

    def _work(self, connection: Connection) -> None:
        """Answer a request, then return the connection to the reading thread."""
        rest = None
        try:
            connection.socket.settimeout(self._idle_s)
            rest = self._answer(connection)
            connection.socket.setblocking(False)
        except OSError:
            rest = None
        finally:
            with self._lock:  # what is added before closing is closed by `disconnect_all`
                self._answering.discard(connection)
                is_kept = rest is not None and not self._is_closing
                if is_kept:
                    self._answered.append(_next(connection, rest or b""))
            if not is_kept:
                _shut(connection)
            self._wake()

    def _wake(self) -> None:
        """Interrupt the wait of the reading thread."""
        with contextlib.suppress(OSError):  # closed, or enough wake-ups are pending
            self._wake_sender.send(b"\0")


def _next(connection: Connection, rest: bytes) -> Connection:
    """Return a connection for its next request, of which ``rest`` has been received."""
    following = Connection(connection.socket, connection.address)
    following.feed(rest)
    return following


def _shut(connection: Connection) -> None:
    with contextlib.suppress(OSError):
        connection.socket.shutdown(socket.SHUT_WR)
    connection.socket.close()
