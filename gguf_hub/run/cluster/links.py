"""Messages over a socket: a small JSON head, and numbers as they lie in memory.

::

    u32 bytes of the head | u64 bytes of the numbers | head | numbers

Nothing that is received is executed, unlike pickles. Both ends prove that they know the key of the
cluster before anything else is read; what is sent is not encrypted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import math
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import ClusterError
from gguf_hub.oserrors import reason_of

Address = tuple[str, int]
"""Host and port."""

_SIZES = struct.Struct("<IQ")
_MAX_HEAD_BYTES = 1 << 26
_MAX_NUMBERS_BYTES = 1 << 36
_BUFFER_BYTES = 1 << 16
"""What is read at once: a token's activations with their head."""
_NONCE_BYTES = 32
_DTYPES: dict[str, np.dtype[Any]] = {"f4": np.dtype("<f4"), "u2": np.dtype("<u2")}
_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")  # not on Windows
_encode = json.JSONEncoder(separators=(",", ":")).encode
CONNECT_S = 10.0
"""Time for a connection to be made, and for both ends to prove themselves."""


class LinkLostError(Exception):
    """The other end is gone, or sends what is no message."""


@dataclass(frozen=True)
class Message:
    """What is sent.

    Attributes:
        head: ``do`` says what; the rest are arguments.
        numbers: float32 or uint16, or None.
    """

    head: Mapping[str, Any]
    numbers: NDArray[Any] | None = None


class Link:
    """One end of a connection; several threads may send, one receives."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._lock = threading.Lock()
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0  # of what has been received, but not read
        self.received_at = time.monotonic()
        """When bytes came last, in the middle of a long message, too."""

    def wait_forever(self) -> None:
        """Wait for messages without a limit from now on: the connection is made.

        Raises:
            LinkLostError: It is closed already.
        """
        with _lost():
            self._socket.settimeout(None)

    def try_send(self, head: Mapping[str, Any]) -> None:
        """Send a message, unless something is being sent just now.

        Raises:
            LinkLostError: The other end is gone.
        """
        if not self._lock.locked():
            self.send(head)

    def send(self, head: Mapping[str, Any], numbers: NDArray[Any] | None = None) -> None:
        """Send a message.

        Raises:
            LinkLostError: The other end is gone.
        """
        if numbers is not None:
            kind = "u2" if numbers.dtype == np.uint16 else "f4"
            numbers = np.ascontiguousarray(numbers, _DTYPES[kind])
            head = {**head, "numbers": [kind, *numbers.shape]}
        text = _encode(head).encode()
        data = memoryview(b"") if numbers is None else _bytes(numbers)
        start = _SIZES.pack(len(text), len(data)) + text
        with self._lock:
            try:
                self._send_both(start, data)
            except (OSError, ValueError) as exc:  # ValueError: closed meanwhile
                raise LinkLostError(str(exc)) from exc

    def _send_both(self, start: bytes, data: memoryview) -> None:
        """Send all in one packet where it is small: a second one wakes the receiver twice."""
        n_sent = self._socket.sendmsg([start, data]) if _HAS_SENDMSG else 0
        if n_sent < len(start):
            self._socket.sendall(start[n_sent:])
            n_sent = len(start)
        if n_sent < len(start) + len(data):
            self._socket.sendall(data[n_sent - len(start) :])

    def receive(self) -> Message:
        """Wait for a message.

        Raises:
            LinkLostError: The other end is gone, or sends something else.
        """
        n_head, n_bytes = _SIZES.unpack(self._read(_SIZES.size))
        if n_head > _MAX_HEAD_BYTES or n_bytes > _MAX_NUMBERS_BYTES:
            raise LinkLostError("a message that is too large")
        try:
            head = json.loads(str(self._read(n_head), "utf-8"))
            kind, *shape = head.pop("numbers", None) or ("", 0)
            dtype = _DTYPES.get(kind)
            size_bytes = math.prod(shape) * dtype.itemsize if dtype else 0
        except (ValueError, TypeError, AttributeError) as exc:
            raise LinkLostError("a message that cannot be read") from exc
        if size_bytes != n_bytes or "do" not in head:
            raise LinkLostError("a message of another length than it says")
        if dtype is None:
            return Message(head)
        numbers = np.empty(shape, dtype)
        self._read_into(_bytes(numbers))
        return Message(head, numbers)

    def close(self) -> None:
        """End the connection; whoever waits for it is woken."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._socket.close()

    def _read(self, n_bytes: int) -> memoryview:
        """Return the next bytes, valid until the next call."""
        if n_bytes > _BUFFER_BYTES:
            data = memoryview(bytearray(n_bytes))
            self._read_into(data)
            return data
        if self._start == self._end or self._start + n_bytes > _BUFFER_BYTES:
            rest = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, len(rest)
            self._buffer[: len(rest)] = rest
        while self._end - self._start < n_bytes:
            self._end += self._receive_into(self._buffer[self._end :])
        self._start += n_bytes
        return self._buffer[self._start - n_bytes : self._start]

    def _read_into(self, view: memoryview) -> None:
        """Fill a view: with what the buffer holds, then with what comes."""
        n = min(len(view), self._end - self._start)
        view[:n] = self._buffer[self._start : self._start + n]
        self._start += n
        while n < len(view):
            n += self._receive_into(view[n:])

    def _receive_into(self, view: memoryview) -> int:
        try:
            n = self._socket.recv_into(view)
        except (OSError, ValueError) as exc:  # ValueError: closed meanwhile
            raise LinkLostError(str(exc)) from exc
        if not n:
            raise LinkLostError("the other end has closed the connection")
        self.received_at = time.monotonic()
        return n


def _bytes(numbers: NDArray[Any]) -> memoryview:
    return numbers.reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:  # ValueError: closed meanwhile
        raise LinkLostError(str(exc)) from exc


# -- making connections ----------------------------------------------------------------------------


def listen(host: str) -> socket.socket:
    """Return a socket that listens on a free port of an address.

    Raises:
        ClusterError: The machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.bind((host, 0))
        listener.listen(8)
    except (OSError, UnicodeError) as exc:  # the latter for names that no host can have
        listener.close()
        reason = reason_of(exc) if isinstance(exc, OSError) else "this is no host"
        raise ClusterError(f"cannot listen on {host}: {reason}") from exc
    return listener


def connect(address: Address, key: bytes, role: str) -> tuple[Link, Message]:
    """Connect to a stage; return the link, and how it introduced itself.

    Args:
        address: Where it listens.
        key: Of the cluster.
        role: What for: ``driver`` or ``stage``.

    Raises:
        LinkLostError: Nobody is there, or the other end does not know the key.
    """
    try:
        connection = socket.create_connection(address, CONNECT_S)
    except OSError as exc:
        where = f"{address[0]}:{address[1]}"
        raise LinkLostError(f"cannot connect to {where}: {reason_of(exc)}") from exc
    try:
        with _lost():
            theirs = _read_exactly(connection, _NONCE_BYTES)
            ours = secrets.token_bytes(_NONCE_BYTES)
            connection.sendall(ours + _proof(key, b"client", theirs, ours))
            answer = _read_exactly(connection, hashlib.sha256().digest_size)
        if not hmac.compare_digest(answer, _proof(key, b"server", theirs, ours)):
            raise LinkLostError("the other end does not know the key")
        link = Link(connection)
        link.send({"do": "hello", "role": role})
        hello = link.receive()
        link.wait_forever()
    except LinkLostError:
        connection.close()
        raise
    return link, hello


def accept(connection: socket.socket, key: bytes) -> Link | None:
    """Return the link of a connection that was accepted; None if the other end lacks the key."""
    connection.settimeout(CONNECT_S)
    try:
        with _lost():
            ours = secrets.token_bytes(_NONCE_BYTES)
            connection.sendall(ours)
            theirs = _read_exactly(connection, _NONCE_BYTES)
            proof = _read_exactly(connection, hashlib.sha256().digest_size)
            if hmac.compare_digest(proof, _proof(key, b"client", ours, theirs)):
                connection.sendall(_proof(key, b"server", ours, theirs))
                return Link(connection)
    except LinkLostError:
        pass
    connection.close()
    return None


def _proof(key: bytes, role: bytes, server: bytes, client: bytes) -> bytes:
    return hmac.digest(key, role + server + client, "sha256")


def _read_exactly(connection: socket.socket, n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes:
        more = connection.recv(n_bytes - len(data))
        if not more:
            raise LinkLostError("the other end has closed the connection")
        data += more
    return data
