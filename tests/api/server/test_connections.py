"""Clients that are slow, silent, or too many, against an application that holds no model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

for package in ("fastapi", "uvicorn", "httpx"):
    pytest.importorskip(package, reason=f"{package} is not installed")

from fastapi import FastAPI, Request  # noqa: E402
from starlette.requests import ClientDisconnect  # noqa: E402
from starlette.responses import PlainTextResponse, Response, StreamingResponse  # noqa: E402

from gguf_hub.api.server.connections import BODY_BYTES_PER_S, Limits  # noqa: E402
from gguf_hub.api.server.listening import Server  # noqa: E402

HALF_HEAD = b"POST /length HTTP/1.1\r\nHost: localhost\r\nX-"
HEAD = b"POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
PATIENCE_S = 30.0


class Service:
    """Stands for a model: ends what hangs."""

    def __init__(self) -> None:
        self.is_ended = threading.Event()

    def end(self) -> None:
        self.is_ended.set()


def application(service: Service) -> FastAPI:
    app = FastAPI()
    app.state.service = service

    @app.get("/health")
    async def health() -> Response:
        return PlainTextResponse("ok")

    @app.post("/length")
    async def length(request: Request) -> Response:
        with contextlib.suppress(ClientDisconnect):
            return PlainTextResponse(str(len(await request.body())))
        return PlainTextResponse("gone")

    @app.get("/hang")
    async def hang(request: Request) -> Response:
        while not service.is_ended.is_set() and not await request.is_disconnected():
            await asyncio.sleep(0.01)
        return PlainTextResponse("ended")

    @app.get("/endless")
    async def endless() -> Response:
        return StreamingResponse(_endless())

    return app


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536
        await asyncio.sleep(0.01)


class Bare:
    """A server in a thread, and connections to it."""

    def __init__(self, stack: contextlib.ExitStack, limits: Limits, grace_s: float) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self._stack = stack
        self.server = Server(application(Service()), limits=limits, grace_s=grace_s)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()
        stack.callback(self.stop)
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()

    def connect(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(self.address, timeout=PATIENCE_S)
        self._stack.callback(client.close)
        client.sendall(data)
        return client

    def ask(self, path: str = "/health") -> bytes:
        text = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        return rest_of(self.connect(text.encode()))

    def wait_for(self, n: int) -> None:
        """Wait until the server has so many connections."""
        end = time.monotonic() + PATIENCE_S
        while len(self.server.server_state.connections) != n:
            assert time.monotonic() < end, "it did not come to pass"
            time.sleep(0.01)


def rest_of(client: socket.socket) -> bytes:
    """Return what comes until the server hangs up."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def received(client: socket.socket, end: bytes) -> bytes:
    """Return what comes up to an end."""
    found = b""
    while not found.endswith(end) and (part := client.recv(65536)):
        found += part
    return found


Serve = Callable[..., Bare]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(grace_s: float = 0.1, **limits: Any) -> Bare:
            return Bare(stack, Limits(**limits), grace_s)

        yield start


SLOW = {
    "nothing": b"",
    "half a head": HALF_HEAD,
    "half a line": b"POST /le",
    "half a body": HEAD % 100 + b"x" * 50,
    "no body": HEAD % 100,
    "half a chunked body": HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")
    + b"5\r\nhello\r\n",
    "half of a second request": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + HALF_HEAD,
    "a body that nobody reads": HEAD.replace(b"/length", b"/none") % 100 + b"x",
}


def test_half_a_request_is_given_up(serve: Serve) -> None:
    server = serve(timeout_s=0.3)
    clients = {name: server.connect(data) for name, data in SLOW.items()}
    for name, client in clients.items():
        answer = rest_of(client)  # ends: the server has hung up
        assert answer.count(b"HTTP/1.1 200") == (b"/health" in SLOW[name]), name
    server.wait_for(0)
    assert b"200 OK" in server.ask()


@pytest.mark.parametrize("start", [b"GET /health HTTP/1.1\r\nX: ", HEAD % 10_000],
                         ids=["head", "body"])  # fmt: skip
def test_a_drip_of_bytes_buys_no_time(serve: Serve, start: bytes) -> None:
    server = serve(timeout_s=0.3)
    client = server.connect(start)
    with pytest.raises(ConnectionError):
        for _ in range(int(PATIENCE_S / 0.02)):
            client.sendall(b"x")
            time.sleep(0.02)
    server.wait_for(0)


def test_a_body_may_take_long_if_it_comes_steadily(serve: Serve) -> None:
    server, piece = serve(timeout_s=0.3), b"x" * 2 * BODY_BYTES_PER_S
    client = server.connect(
        (HEAD % (10 * len(piece))).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )
    for _ in range(10):
        client.sendall(piece)
        time.sleep(0.1)
    assert rest_of(client).endswith(b"\r\n\r\n%d" % (10 * len(piece)))


def test_an_answer_may_take_longer_than_a_request(serve: Serve) -> None:
    server = serve(timeout_s=0.1, grace_s=0.5)
    client = server.connect(b"GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(0.5)
    server.server.should_exit = True
    assert rest_of(client).endswith(b"ended")


def test_half_requests_keep_nobody_out(serve: Serve) -> None:
    server = serve(n_connections=8, timeout_s=PATIENCE_S)
    slow = [server.connect(data) for data in list(SLOW.values())[:5] * 6]
    for _ in range(5):
        assert b"200 OK" in server.ask()
    assert len(server.server.server_state.connections) <= 8
    assert rest_of(slow[0]) == b""  # the first is the first to go


def test_more_than_can_be_served_are_told(serve: Serve) -> None:
    server = serve(n_connections=3)
    busy = [server.connect(b"GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(3)]
    server.wait_for(3)
    time.sleep(0.05)  # all have been read
    head, body = server.ask().split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in head
    assert json.loads(body)["error"]["code"] == 503
    busy[0].close()
    server.wait_for(2)
    assert b"200 OK" in server.ask()


def test_a_connection_is_used_again(serve: Serve) -> None:
    server = serve(timeout_s=0.2)
    client = server.connect()
    for _ in range(3):
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert received(client, b"ok").endswith(b"ok")
        time.sleep(0.3)  # between requests it may rest for longer than within one


def test_who_takes_nothing_of_an_answer_is_given_up(serve: Serve) -> None:
    server = serve(stall_s=0.3)
    server.connect(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
    server.wait_for(1)
    server.wait_for(0)


def test_a_stop_waits_for_none_of_them(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    server = serve(timeout_s=PATIENCE_S, grace_s=0.2)
    for data in SLOW.values():
        server.connect(data)
    for path in (b"/hang", b"/endless"):
        server.connect(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
    server.wait_for(len(SLOW) + 2)
    server.stop()
    assert "Traceback" not in capfd.readouterr().err
