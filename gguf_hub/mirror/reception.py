"""Where connections of the mirror wait until a request has come whole.

One thread reads from all of them, so that a client that says nothing, or says it slowly, takes no
thread from those that are to be answered. It knows how long a request is, and no more of HTTP.
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
BODY_BYTES_PER_S = 4096  # a body that comes more slowly than this, in the long run, is given up

_POLL_S = 0.05
_READ_BYTES = 1 << 16
_HEAD_END = re.compile(rb"\n\r?\n|\A\r?\n")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def body_length(headers: Message) -> tuple[int, int]:
    """Return (0, length) of a request's body, or (status, 0) for one that is not taken."""
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
class Caller:
    """A connection that waits for a whole request.

    Attributes:
        socket: It.
        address: Whose it is.
        data: What has come of the request.
        since: When it began to wait, and then when the first byte of the request came.
        n_head: Bytes of the head; 0 before it is whole.
        n_needed: Bytes of the whole request, once the head is.
    """

    socket: socket.socket
    address: Any
    data: bytearray = field(default_factory=bytearray)
    since: float = field(default_factory=time.monotonic)
    n_head: int = 0
    n_needed: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the request can be answered, be it that it is too large."""
        has_all = self.n_head > 0 and len(self.data) >= self.n_needed
        return has_all or self.is_too_large

    @property
    def is_too_large(self) -> bool:
        """Whether the head has no end where it should have one."""
        return not self.n_head and len(self.data) > MAX_HEAD_BYTES

    def take(self, data: bytes) -> None:
        """Take bytes; note what the head says when it is whole."""
        if data and not self.data:
            self.since = time.monotonic()
        begin = max(0, len(self.data) - 2)  # the end of a head may come in pieces
        self.data += data
        if self.n_head or (end := _HEAD_END.search(self.data, begin)) is None:
            return
        if end.end() > MAX_HEAD_BYTES:
            return
        self.n_head = self.n_needed = end.end()
        headers = _headers(bytes(self.data[: self.n_head]))
        if headers is None:  # whoever answers says what is wrong
            return
        self.n_needed += body_length(headers)[1]
        if not self.is_whole and headers.get("Expect", "").lower() == "100-continue":
            with contextlib.suppress(OSError):
                self.socket.send(_CONTINUE)

    def due(self, idle_s: float, request_s: float) -> float:
        """Return when it is given up."""
        if not self.data:
            return self.since + idle_s
        n_body = len(self.data) - self.n_head if self.n_head else 0
        return self.since + request_s + n_body / BODY_BYTES_PER_S


def _headers(head: bytes) -> Message | None:
    try:
        return parse_headers(io.BytesIO(head[head.find(b"\n") + 1 :]))
    except HTTPException:
        return None


class Reception:
    """Accepts connections, waits for their requests, and hands them on.

    Args:
        listener: Where connections come from.
        answer: Is called in a thread of its own with a connection whose request is whole; returns
            what has come beyond it, or None when the connection is at its end.
        n_answers: Requests that are answered at once; others wait.
        n_waiting: Connections that wait for a request; the oldest goes when there are more.
        idle_s: How long a connection may say nothing.
        request_s: How long a request may take to come, besides the time that its body gives.
    """

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[Caller], bytes | None],
        *,
        n_answers: int,
        n_waiting: int,
        idle_s: float,
        request_s: float,
    ) -> None:
        self._listener, self._answer = listener, answer
        self._n_answers, self._n_waiting = n_answers, n_waiting
        self._idle_s, self._request_s = idle_s, request_s
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        for one in (listener, self._ear, self._bell):
            one.setblocking(False)
        self._waiting: dict[Caller, None] = {}  # in the order in which they came
        self._ready: deque[Caller] = deque()
        self._answering: set[Caller] = set()
        self._back: deque[Caller] = deque()  # answered, and to be waited for again
        self._lock = threading.Lock()
        self._is_closing = False

    def run(self) -> None:
        """Work until ``close`` is called, in this thread or another."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)
        checked = time.monotonic()
        while not self._is_closing:
            for key, _ in self._selector.select(_POLL_S):
                self._serve(key)
            while self._back:
                self._wait_for(self._back.popleft())
            self._start_answers()
            if time.monotonic() - checked >= _POLL_S:
                self._give_up_late()
                checked = time.monotonic()

    def close(self) -> None:
        """Let ``run`` return, and hang up on everybody."""
        self._is_closing = True
        self._ring()

    def hang_up(self) -> None:
        """Hang up on everybody, after ``run`` has returned."""
        self._is_closing = True
        with self._lock:
            answering = list(self._answering)
        for caller in answering:
            with contextlib.suppress(OSError):
                caller.socket.shutdown(socket.SHUT_RDWR)
        for caller in [*self._waiting, *self._ready, *self._back]:
            _end(caller)
        self._selector.close()
        self._bell.close()
        self._ear.close()

    # -- in the thread that waits ----------------------------------------------------------------

    def _serve(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._listener:
            self._accept()
        elif key.fileobj is self._ear:
            with contextlib.suppress(BlockingIOError):
                self._ear.recv(_READ_BYTES)
        elif key.data in self._waiting:  # an earlier event may have ended it
            self._read(key.data)

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except OSError:  # the client has gone, or there are too many files
            time.sleep(_POLL_S / 10)
            return
        connection.setblocking(False)
        self._wait_for(Caller(connection, address))

    def _wait_for(self, caller: Caller) -> None:
        """Let a connection wait, or have it answered where its request has come already."""
        if caller.is_whole:
            self._ready.append(caller)
            return
        if len(self._waiting) >= self._n_waiting:
            self._forget(next(iter(self._waiting)))
        self._waiting[caller] = None
        self._selector.register(caller.socket, selectors.EVENT_READ, caller)

    def _read(self, caller: Caller) -> None:
        try:
            data = caller.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._forget(caller)
            return
        caller.take(data)
        if caller.is_whole:
            self._leave(caller)
            self._ready.append(caller)

    def _start_answers(self) -> None:
        while self._ready and len(self._answering) < self._n_answers:
            caller = self._ready.popleft()
            with self._lock:
                self._answering.add(caller)
            threading.Thread(target=self._work, args=(caller,), daemon=True).start()

    def _give_up_late(self) -> None:
        now = time.monotonic()
        for caller in list(self._waiting):
            if caller.due(self._idle_s, self._request_s) <= now:
                self._forget(caller)

    def _forget(self, caller: Caller) -> None:
        self._leave(caller)
        _end(caller)

    def _leave(self, caller: Caller) -> None:
        del self._waiting[caller]
        self._selector.unregister(caller.socket)

    # -- in a thread of an answer ----------------------------------------------------------------

    def _work(self, caller: Caller) -> None:
        """Answer, then let the connection wait for its next request."""
        rest = None
        try:
            caller.socket.settimeout(self._idle_s)
            rest = self._answer(caller)
            caller.socket.setblocking(False)
        except OSError:
            rest = None
        finally:
            with self._lock:
                self._answering.discard(caller)
            if rest is None or self._is_closing:
                _end(caller)
            else:
                again = Caller(caller.socket, caller.address)
                again.take(rest)
                self._back.append(again)
            self._ring()

    def _ring(self) -> None:
        """Wake the thread that waits."""
        with contextlib.suppress(OSError):  # closed, or there is a ring that nobody heard yet
            self._bell.send(b"\0")


def _end(caller: Caller) -> None:
    with contextlib.suppress(OSError):
        caller.socket.shutdown(socket.SHUT_WR)
    caller.socket.close()
