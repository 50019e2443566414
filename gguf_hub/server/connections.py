"""Connections: how long a client may take, and how many there may be.

uvicorn waits without end for the rest of a request and for a client that takes no more of its
answer. Here each has its time, and where all connections are in use the one goes that has been
without a whole request for longest.
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
"""A body that comes more slowly than this, in the long run, is given up."""

_N_REFUSED = 64  # connections that are told at once that the server is full; others are cut off
_REFUSED_S = 1.0  # how long the reply has to reach them
_FULL_BODY = (
    b'{"error":{"message":"too many connections are open; ask again in a moment",'
    b'"type":"server_error","param":null,"code":503}}'
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_FULL_BODY), _FULL_BODY)
)


@dataclass(frozen=True)
class Limits:
    """What connections may take.

    Attributes:
        n_connections: Most of them.
        timeout_s: For the head of a request, and for a body besides the time that its bytes give.
        stall_s: For a client to take some of its answer.
    """

    n_connections: int = 512
    timeout_s: float = 10.0
    stall_s: float = 60.0


class Phase(IntEnum):
    """What a connection waits for; the first are given up for others first."""

    IDLE = 0  # another request
    HEAD = 1  # the rest of a request's head, or the first one
    REST = 2  # the rest of a body whose request has been answered
    BODY = 3  # the rest of a body
    ANSWER = 4  # us
    REFUSED = 5  # its end


class Connections:
    """The connections of a server.

    Args:
        limits: What they may take.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: set[GuardedProtocol] = set()
        self._refused: set[GuardedProtocol] = set()

    def admit(self, new: GuardedProtocol) -> bool:
        """Tell whether one more may be served, after another had to go or not."""
        if len(self._open) >= self.limits.n_connections:
            oldest = min(self._open, key=lambda one: (one.phase, one.since))
            if oldest.phase >= Phase.ANSWER:
                return False
            self.forget(oldest)
            oldest.transport.abort()
        self._open.add(new)
        return True

    def may_be_told(self, new: GuardedProtocol) -> bool:
        """Tell whether one that is not served still gets a reply that says so."""
        if len(self._refused) >= _N_REFUSED:
            return False
        self._refused.add(new)
        return True

    def forget(self, old: GuardedProtocol) -> None:
        """Take note that one has ended."""
        self._open.discard(old)
        self._refused.discard(old)

    def abort(self) -> None:
        """Hang up on everybody."""
        for one in [*self._open, *self._refused]:
            one.transport.abort()


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with the limits of ``Connections``."""

    registry: Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.phase, self.since = Phase.HEAD, self.loop.time()
        self._n_received = 0  # bytes in this phase
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # -- what asyncio calls ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve one more connection, or say that there are too many."""
        super().connection_made(transport)
        if self.registry.admit(self):
            self._enter(Phase.HEAD)
        else:
            self._refuse()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self.phase is Phase.REFUSED:
            return
        self._n_received += len(data)
        super().data_received(data)
        self._follow(idle=Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.registry.forget(self)
        self._timer = _cancelled(self._timer)
        self._stall_timer = _cancelled(self._stall_timer)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the client its time to take what is written."""
        super().pause_writing()
        self._watch_writing()

    # -- what uvicorn calls ----------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the end of a body that nobody wants."""
        super().on_response_complete()
        self._follow(idle=Phase.HEAD if self.conn.trailing_data[0] else Phase.IDLE)
        if self.transport.get_write_buffer_size():
            self._watch_writing()

    def shutdown(self) -> None:
        """End after the answer that is under way; a request that is not whole gets none."""
        if self.phase is Phase.ANSWER:
            super().shutdown()
        else:
            self.transport.abort()

    # -- time ------------------------------------------------------------------------------------

    def _follow(self, idle: Phase) -> None:
        """Note what the connection waits for now; ``idle`` is what it is between requests."""
        theirs, phase = self.conn.their_state, Phase.ANSWER
        if theirs is h11.IDLE:
            phase = idle
        elif theirs is h11.SEND_BODY:
            phase = Phase.REST if self.cycle.response_complete else Phase.BODY
        if phase is not self.phase:
            self._enter(phase)

    def _enter(self, phase: Phase) -> None:
        self.phase, self.since, self._n_received = phase, self.loop.time(), 0
        self._timer = _cancelled(self._timer)
        if phase in (Phase.HEAD, Phase.BODY, Phase.REST):  # uvicorn sees to the others
            self._set_timer(self.registry.limits.timeout_s, self._check_time)

    def _check_time(self) -> None:
        """Hang up on a client that has used up its time."""
        due = self.since + self.registry.limits.timeout_s
        if self.phase is Phase.BODY:
            due += self._n_received / BODY_BYTES_PER_S
        left = due - self.loop.time()
        if left > 0:
            self._set_timer(left, self._check_time)
        elif self.flow.read_paused:  # it is we who have not read
            self._set_timer(self.registry.limits.timeout_s, self._check_time)
        else:
            self.transport.abort()

    def _set_timer(self, delay_s: float, action: Callable[[], None]) -> None:
        self._timer = self.loop.call_later(delay_s, action)

    def _watch_writing(self) -> None:
        self._stall_timer = _cancelled(self._stall_timer)
        n_left = self.transport.get_write_buffer_size()
        stall_s = self.registry.limits.stall_s
        self._stall_timer = self.loop.call_later(stall_s, self._check_writing, n_left)

    def _check_writing(self, n_left: int) -> None:
        """Hang up on a client that has taken nothing of its answer since ``n_left`` were left."""
        now = self.transport.get_write_buffer_size()
        if now >= n_left > 0:
            self.transport.abort()
        elif now:
            self._watch_writing()

    def _refuse(self) -> None:
        """Say that the server is full."""
        self.phase = Phase.REFUSED
        if not self.registry.may_be_told(self):
            self.transport.abort()
            return
        self.transport.write(_FULL)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # closing at once would reset the connection, and the client might never see the reply
        self._set_timer(_REFUSED_S, self.transport.abort)


def protocol_of(connections: Connections) -> type[GuardedProtocol]:
    """Return the protocol of a server whose connections these are."""

    class Protocol(GuardedProtocol):
        registry = connections

    return Protocol


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
