"""Bodies that clients have compressed; the limits of bodies count what they unpack to."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.api.server.running import Running

HEADERS = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
BODY: dict[str, Any] = {"prompt": "Once", "temperature": 0, "n_predict": 3}


def ask(server: Running, content: Any, **headers: str) -> Any:
    return server.http.post("/completion", content=content, headers={**HEADERS, **headers})


def in_parts(data: bytes, n_bytes: int = 7) -> Iterator[bytes]:
    for start in range(0, len(data), n_bytes):
        yield data[start : start + n_bytes]


def test_a_packed_body_is_read_as_one_that_is_not(server: Running) -> None:
    plain = server.http.post("/completion", json=BODY).json()["content"]
    packed = gzip.compress(json.dumps(BODY).encode())
    assert ask(server, packed).json()["content"] == plain
    assert ask(server, in_parts(packed)).json()["content"] == plain
    assert ask(server, packed, **{"Content-Encoding": "X-GZip"}).json()["content"] == plain
    identity = {"Content-Encoding": "identity"}
    assert ask(server, json.dumps(BODY), **identity).json()["content"] == plain


@pytest.mark.parametrize("kind", ["br", "deflate", "gzip, gzip", "zstd"])
def test_other_encodings_are_named(server: Running, kind: str) -> None:
    reply = ask(server, b"x", **{"Content-Encoding": kind})
    assert (reply.status_code, reply.headers["accept-encoding"]) == (415, "gzip")
    assert f"expected gzip or none, found `{kind}`" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-9], "breaks off"),
        (lambda data: b"", "breaks off"),
        (lambda data: json.dumps(BODY).encode(), "cannot be unpacked"),
        (lambda data: data[:12] + b"\x00\xff\x00" + data[15:], "cannot be unpacked"),
        (lambda data: data + b"{}", "follows its end"),
    ],
    ids=["cut", "empty", "plain", "damaged", "longer"],
)
def test_a_damaged_body_is_refused(
    server: Running, change: Callable[[bytes], bytes], message: str
) -> None:
    reply = ask(server, change(gzip.compress(json.dumps(BODY).encode())))
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_a_body_that_unpacks_to_too_much_is_refused(serve: Callable[..., Running]) -> None:
    server = serve({"max_body_bytes": 1000})
    for n_spaces, status in ((900, 200), (1000, 413), (10**7, 413)):
        packed = gzip.compress(json.dumps(BODY).encode() + b" " * n_spaces)
        assert ask(server, packed).status_code == status
        assert ask(server, in_parts(packed)).status_code == status
    many = gzip.compress(b'{"prompt": [' + b"1," * 400_000 + b"1]}")
    reply = ask(serve(), many)
    assert (reply.status_code, "values" in reply.text) == (413, True)
