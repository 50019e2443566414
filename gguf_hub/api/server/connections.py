"""Limits on connections: their number, and timeouts for slow clients.

uvicorn has no timeout for incomplete requests, nor for clients that stop reading a response. When
all connections are in use, the one that has gone longest without a complete request is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BODY_BYTES_PER_S = 4096
"""Minimum average rate of a request body."""

_N_REFUSED = 64  # connections that are being refused with 503; further ones are just closed
_REFUSED_S = 1.0  # time for that reply to be read
_FULL_BODY = (
    b'{"error":{"message":"too many open connections; try again in a moment",'
    b'"type":"server_error","param":null,"code":503}}'
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_FULL_BODY), _FULL_BODY)
)


@dataclass(frozen=True)
class Limits:
    """Limits of a server's connections.

    Attributes:
        n_connections: Maximum number of open connections.
        timeout_s: Time limit of a request's head, and of its body, which extends its own by a
            second for every ``BODY_BYTES_PER_S``.
        stall_s: Time limit of a response that the client does not read.
    """

    n_connections: int = 512
    timeout_s: float = 10.0
    stall_s: float = 60.0


class Phase(IntEnum):
    """What a connection is waiting for, in the order in which connections are evicted."""

    IDLE = 0  # the next request
    HEAD = 1  # the first request, or the rest of a head
    DRAIN = 2  # the rest of a body whose request has been answered
    BODY = 3  # the rest of a body
    RESPONSE = 4
    REFUSED = 5  # the end, after 503


class Connections:
    """The open connections of a server.

    Args:
        limits: Their limits.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: set[GuardedProtocol] = set()
        self._refused: set[GuardedProtocol] = set()

    def admit(self, new: GuardedProtocol) -> bool:
        """Return whether a new connection is served; evict an incomplete one if necessary."""
        if len(self._open) >= self.limits.n_connections:
            oldest = min(self._open, key=lambda connection: (connection.phase, connection.since))
            if oldest.phase >= Phase.RESPONSE:
                return False
            self.forget(oldest)
            oldest.transport.abort()
        self._open.add(new)
        return True

    def can_refuse(self, new: GuardedProtocol) -> bool:
        """Return whether a connection that is not served gets a reply."""
        if len(self._refused) >= _N_REFUSED:
            return False
        self._refused.add(new)
        return True

    def forget(self, old: GuardedProtocol) -> None:
        """Remove a connection that has ended."""
        self._open.discard(old)
        self._refused.discard(old)

    def abort(self) -> None:
        """Close every connection at once."""
        for connection in [*self._open, *self._refused]:
            connection.transport.abort()


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with the limits of ``Connections``."""

    registry: Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.phase, self.since = Phase.HEAD, self.loop.time()
        self._n_received = 0  # bytes received in this phase
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # -- what asyncio calls ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve a new connection, or refuse it with 503."""
        super().connection_made(transport)
        if self.registry.admit(self):
            self._enter(Phase.HEAD)
        else:
            self._refuse()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        if self.phase is Phase.REFUSED:
            return
        self._n_received += len(data)
        super().data_received(data)
        self._follow(idle=Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.registry.forget(self)
        _cancel(self._timer)
        _cancel(self._stall_timer)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timeout of a client that does not read."""
        super().pause_writing()
        self._watch_writing()

    # -- what uvicorn calls ----------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of this one's body."""
        super().on_response_complete()
        self._follow(idle=Phase.HEAD if self.conn.trailing_data[0] else Phase.IDLE)
        if self.transport.get_write_buffer_size():
            self._watch_writing()

    def shutdown(self) -> None:
        """Close after the current response; at once if the request is incomplete."""
        if self.phase is Phase.RESPONSE:
            super().shutdown()
        else:
            self.transport.abort()

    # -- time ------------------------------------------------------------------------------------

    def _follow(self, idle: Phase) -> None:
        """Update the phase; ``idle`` is the phase between requests."""
        theirs, phase = self.conn.their_state, Phase.RESPONSE
        if theirs is h11.IDLE:
            phase = idle
        elif theirs is h11.SEND_BODY:
            phase = Phase.DRAIN if self.cycle.response_complete else Phase.BODY
        if phase is not self.phase:
            self._enter(phase)

    def _enter(self, phase: Phase) -> None:
        self.phase, self.since, self._n_received = phase, self.loop.time(), 0
        _cancel(self._timer)
        if phase in (Phase.HEAD, Phase.BODY, Phase.DRAIN):  # uvicorn handles keep-alive
            self._set_timer(self.registry.limits.timeout_s, self._check_time)

    def _check_time(self) -> None:
        due = self.since + self.registry.limits.timeout_s
        if self.phase is Phase.BODY:
            due += self._n_received / BODY_BYTES_PER_S
        left_s = due - self.loop.time()
        if left_s > 0:
            self._set_timer(left_s, self._check_time)
        elif self.flow.read_paused:  # the delay is ours
            self._set_timer(self.registry.limits.timeout_s, self._check_time)
        else:
            self.transport.abort()

    def _set_timer(self, delay_s: float, action: Callable[[], None]) -> None:
        self._timer = self.loop.call_later(delay_s, action)

    def _watch_writing(self) -> None:
        _cancel(self._stall_timer)
        n_left = self.transport.get_write_buffer_size()
        stall_s = self.registry.limits.stall_s
        self._stall_timer = self.loop.call_later(stall_s, self._check_writing, n_left)

    def _check_writing(self, n_left: int) -> None:
        """Close the connection if none of the ``n_left`` unsent bytes have been read."""
        now = self.transport.get_write_buffer_size()
        if now >= n_left > 0:
            self.transport.abort()
        elif now:
            self._watch_writing()

    def _refuse(self) -> None:
        self.phase = Phase.REFUSED
        if not self.registry.can_refuse(self):
            self.transport.abort()
            return
        self.transport.write(_FULL)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # closing at once would reset the connection before the client has read the reply
        self._set_timer(_REFUSED_S, self.transport.abort)


def protocol_of(connections: Connections) -> type[GuardedProtocol]:
    """Return the protocol class of a server with these connections."""

    class Protocol(GuardedProtocol):
        registry = connections

    return Protocol


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
