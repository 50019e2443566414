"""What is refused before any route sees it; the application behind the guard counts its work."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")

from starlette.exceptions import HTTPException  # noqa: E402

from gguf_hub.api.server.addresses import AllowedHosts, AllowedOrigins  # noqa: E402
from gguf_hub.api.server.api_keys import ApiKeys  # noqa: E402
from gguf_hub.api.server.guard import MAX_VALUES, Access, Guard  # noqa: E402

JSON = {"Content-Type": "application/json"}


class Guarded:
    """A guard before an application that reads the body and counts."""

    def __init__(self, access: Access | None = None, max_body_bytes: int = 1000) -> None:
        self.n_worked = 0
        self.n_read = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        access = access or Access(hosts=AllowedHosts(["127.0.0.1"]))
        self.app = Guard(
            self.work, access=access, max_body_bytes=max_body_bytes, requests=self.requests
        )

    async def work(self, scope: Any, receive: Any, send: Any) -> None:
        more, self.headers = True, scope["headers"]
        while more:
            message = await receive()
            self.n_read += len(message["body"])
            more = message.get("more_body", False)
        self.n_worked += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"worked"})

    def ask(self, method: str = "POST", path: str = "/completion", **options: Any) -> Any:
        async def ask() -> Any:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                return await http.request(method, path, **options)

        return asyncio.run(ask())


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_a_foreign_host_is_misdirected_whatever_is_asked(method: str) -> None:
    guarded = Guarded()
    reply = guarded.ask(method, headers={**JSON, "Host": "evil.example:8080"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (421, 421)
    assert "--allowed-host" in reply.json()["error"]["message"]
    assert "evil" not in reply.text
    assert guarded.n_worked == 0
    assert guarded.requests["other", 421] == 1
    assert guarded.ask(method, headers={**JSON, "Host": "localhost:8080"}).status_code == 200


def test_two_hosts_are_refused_and_none_is_not() -> None:
    guarded = Guarded()
    sent: list[Any] = []

    async def call(*hosts: bytes) -> int:
        headers = [(b"host", host) for host in hosts]
        scope = {"type": "http", "method": "GET", "path": "/health", "headers": headers}

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            sent.append(message)

        sent.clear()
        await guarded.app(scope, receive, send)
        status: int = sent[0]["status"]
        return status

    assert asyncio.run(call(b"localhost", b"localhost")) == 400
    assert asyncio.run(call(b"localhost")) == asyncio.run(call()) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "https://evil.example", **JSON},
        {"Origin": "https://evil.example", "Content-Type": "text/plain"},
        {"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"},
        {"Origin": "null", **JSON},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9", **JSON},
    ],
)
def test_a_page_of_another_origin_starts_no_work(headers: dict[str, str]) -> None:
    guarded = Guarded()
    reply = guarded.ask(content=b"{}", headers=headers)
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")
    assert "--cors" in reply.json()["error"]["message"]
    assert guarded.n_worked == 0


def test_other_programs_the_own_page_and_named_origins_do() -> None:
    guarded = Guarded(Access(origins=AllowedOrigins(["https://friend.example"])))
    for headers in (
        {},
        {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"},
    ):
        assert guarded.ask(content=b"{}", headers={**JSON, **headers}).status_code == 200
    assert guarded.n_worked == 4
    read = guarded.ask("GET", "/health", headers={"Origin": "https://evil.example"})
    assert read.status_code == 200  # starts nothing; browsers keep the reply from the page


KINDS = [
    "",
    "text/plain",
    "json",
    "application/x-www-form-urlencoded",
    "Application/JSON",
    "a/x+json",
]


@pytest.mark.parametrize("kind", KINDS)
def test_programs_may_call_json_what_they_like(kind: str) -> None:
    guarded = Guarded()
    headers = {"Content-Type": kind} if kind else {}
    assert guarded.ask(content=b"{}", headers=headers).status_code == 200
    declared = dict(guarded.headers)[b"content-type"].lower().partition(b";")[0]
    assert declared == b"application/json" or declared.endswith(b"+json")
    parts = guarded.ask(content=b"{}", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (parts.status_code, guarded.n_worked) == (415, 1)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize(
    "page", ["https://evil.example/form", "https://evil.example", "about:blank"]
)
def test_a_page_that_names_no_origin_is_known_by_its_address(kind: str, page: str) -> None:
    guarded = Guarded()
    headers = {"Content-Type": kind} if kind else {}
    refused = guarded.ask(content=b"{}", headers={**headers, "Referer": page})
    assert (refused.status_code, guarded.n_worked) == (403, 0)
    own = guarded.ask(content=b"{}", headers={**headers, "Referer": "http://127.0.0.1/page/"})
    assert own.status_code == 200


def test_a_key_is_asked_for_and_hosts_come_first() -> None:
    guarded = Guarded(Access(ApiKeys(["k"]), AllowedHosts(["127.0.0.1"])))
    assert guarded.ask(headers=JSON).status_code == 401
    assert guarded.ask(headers={**JSON, "Authorization": "Bearer k"}).status_code == 200
    assert guarded.ask("GET", "/health").status_code == 200
    foreign = {"Host": "evil.example", "Authorization": "Bearer k"}
    assert guarded.ask("GET", "/health", headers=foreign).status_code == 421


@pytest.mark.parametrize("length", ["1001", "9" * 5000, "9" * 18])
def test_a_length_that_is_too_large_is_refused(length: str) -> None:
    guarded = Guarded()
    reply = guarded.ask(content=b"{}", headers={**JSON, "Content-Length": length})
    assert (reply.status_code, guarded.n_worked) == (413, 0)


@pytest.mark.parametrize("length", ["\u00b2", "-1", "x"])
def test_a_length_that_is_none_does_no_harm(length: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", length.encode("latin1"))]
    assert Guarded().ask(content=b"{}", headers=headers).status_code == 200


@pytest.mark.parametrize("n_pieces", [10, 11, 200])
def test_a_body_without_a_length_is_counted_over_all_its_messages(n_pieces: int) -> None:
    guarded = Guarded()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(n_pieces):
            yield b"x" * 100

    if n_pieces == 10:
        assert guarded.ask(content=pieces(), headers=JSON).status_code == 200
    else:  # here nobody stands by to make a reply of it, as the application does
        with pytest.raises(Exception, match="the body is too large: expected at most 1000 bytes"):
            guarded.ask(content=pieces(), headers=JSON)
        assert guarded.n_worked == 0
    assert guarded.n_read <= 1000


def test_a_body_with_very_many_values_is_refused() -> None:
    guarded = Guarded(max_body_bytes=10**7)
    for n_values, is_refused in ((MAX_VALUES, False), (MAX_VALUES + 1, True)):
        body = b"[" + b"1," * n_values + b"1]"
        if is_refused:
            with pytest.raises(HTTPException, match=f"expected at most {MAX_VALUES:,} values"):
                guarded.ask(content=body, headers=JSON)
        else:
            assert guarded.ask(content=body, headers=JSON).status_code == 200


@pytest.mark.parametrize(
    "sizes", [[1001], [600, 600], [600, 600, 0], [600, 600, 600, 600]], ids=str
)
def test_a_body_that_is_too_large_is_read_to_its_end_and_no_further(sizes: list[int]) -> None:
    guarded, left = Guarded(), list(sizes)

    async def receive() -> Any:
        assert left, "nothing more comes: here a server would wait for the client to go"
        return {"type": "http.request", "body": b"x" * left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        raise AssertionError("no reply here")

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/completion", "headers": headers}
    with pytest.raises(HTTPException, match="too large"):
        asyncio.run(guarded.app(scope, receive, send))
    assert guarded.n_worked == 0
