"""Requests to the process of a model, and its answers back, byte by byte as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import h11
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gguf_hub.api.server.replies import framing_of, stream_error
from gguf_hub.api.server.router.children import Child
from gguf_hub.errors import UnavailableError

_READ_BYTES = 2**16
_OF_CONNECTIONS = frozenset(
    (*(b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade"),
     *(b"date", b"server"))
)  # fmt: skip
"""Headers between neighbours."""
_OF_REQUESTS = _OF_CONNECTIONS | frozenset(
    (*(b"host", b"content-length", b"expect", b"authorization", b"x-api-key", b"cookie"),
     *(b"proxy-authorization", b"origin", b"referer"),
     *(b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"))
)  # fmt: skip
"""Those of requests that the router has judged, or that it writes itself."""

Headers = list[tuple[bytes, bytes]]


class ProcessEndedError(UnavailableError):
    """The process of a model has ended, or closed the connection, before its answer did.

    Args:
        when: The moment, for the message.
        child: The process.
    """

    def __init__(self, when: str, child: Child) -> None:
        super().__init__(f"the process of this model has ended {when}", hint="try again")
        self.child = child


@dataclass(frozen=True)
class Call:
    """A request to pass on.

    Attributes:
        method: ``GET``, …
        target: Path and query, as they came.
        path: The path alone.
        headers: All of them; those of the connection are left out.
        body: The whole body.
    """

    method: str
    target: bytes
    path: str
    headers: Headers
    body: bytes = b""

    @classmethod
    def of(cls, request: Request, body: bytes = b"") -> Call:
        """Return the call that passes a request on."""
        scope = request.scope
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        return cls(request.method, target, request.url.path, list(scope["headers"]), body)


class Answer:
    """The answer of a process: its head, and its body as it comes.

    Attributes:
        status: Of the reply.
        headers: Without those of the connection.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._http = h11.Connection(h11.CLIENT)
        self._writer: asyncio.StreamWriter | None = None
        self.status, self.headers = 0, list[tuple[bytes, bytes]]()

    async def open(self, call: Call) -> None:
        """Send a request and read the head of its answer.

        Raises:
            ProcessEndedError: The process has ended, or ends before it answers.
        """
        try:
            self._reader, self._writer = await asyncio.open_connection(*self._child.address)
            headers = [
                (b"Host", b"127.0.0.1"),
                (b"Authorization", b"Bearer " + self._child.key.encode()),
                (b"Connection", b"close"),
                (b"Content-Length", str(len(call.body)).encode()),
                *_without(_OF_REQUESTS, call.headers),
            ]
            event = h11.Request(method=call.method, target=call.target, headers=headers)
            for part in (event, h11.Data(data=call.body), h11.EndOfMessage()):
                self._writer.write(self._http.send(part) or b"")
            await self._writer.drain()
            while not isinstance(head := await self._next(), h11.Response):
                pass
        except (OSError, h11.ProtocolError) as exc:
            self.close()
            raise ProcessEndedError("before it answered", self._child) from exc
        self.status = head.status_code
        self.headers = _without(_OF_CONNECTIONS, list(head.headers))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body.

        Raises:
            ProcessEndedError: The process has ended in the middle of it.
        """
        try:
            while not isinstance(event := await self._next(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    yield bytes(event.data)
        except (OSError, h11.ProtocolError) as exc:
            raise ProcessEndedError("in the middle of its answer", self._child) from exc
        finally:
            self.close()

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def _next(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_READ_BYTES))
        return event  # type: ignore[return-value]  # PAUSED is for servers

    def close(self) -> None:
        """Close the connection: the process stops what it computes for it."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()


async def ask(child: Child, call: Call) -> Answer:
    """Send a request to a process and return its answer, whose head is there.

    Raises:
        ProcessEndedError: The process has ended, or ends before it answers.
    """
    answer = Answer(child)
    try:
        await answer.open(call)
    except BaseException:
        answer.close()
        raise
    return answer


class Forwarded(StreamingResponse):
    """An answer on its way to the client.

    Args:
        answer: The answer.
        path: Of the request, whose interface has a shape of errors.
        release: Called at the end, whatever happens.
    """

    def __init__(self, answer: Answer, path: str, release: Callable[[], Awaitable[object]]) -> None:
        self._answer, self._release = answer, release
        super().__init__(_body(answer, path), status_code=answer.status)
        self.raw_headers = answer.headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; close the connection to the process in any case."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()
            await asyncio.shield(asyncio.ensure_future(_called(self._release)))


async def _called(function: Callable[[], Awaitable[object]]) -> None:
    await function()


async def _body(answer: Answer, path: str) -> AsyncIterator[bytes]:
    """Yield the body; a stream that breaks off ends with an error, as streams here do."""
    try:
        async for chunk in answer.chunks():
            yield chunk
    except ProcessEndedError as exc:
        kind = next((value for name, value in answer.headers if name == b"content-type"), b"")
        framing = framing_of(kind.decode("latin-1"), path)
        if framing is None:
            raise  # the client sees that the body is not whole
        yield framing.chunk(stream_error(exc, path)).encode()


def _without(left_out: frozenset[bytes], headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in left_out]
