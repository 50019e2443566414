"""How long a request is, however its bytes come."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.hub.mirror.acceptor import BODY_BYTES_PER_S, MAX_HEAD_BYTES, Connection, body_length

HEADS = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\n\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\nContent-Length: 5\n\nhe\n\no",
    b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"\r\n",
    b"\n",
]


@pytest.fixture(scope="module")
def end() -> Iterator[socket.socket]:
    one, other = socket.socketpair()
    with one, other:
        yield one


@given(request=st.sampled_from(HEADS), more=st.binary(max_size=9), cuts=st.sets(st.integers(0, 60)))
def test_a_request_is_complete_at_the_same_byte_however_it_is_cut(
    request: bytes, more: bytes, cuts: set[int]
) -> None:
    one, other = socket.socketpair()
    with one, other:
        connection, data = Connection(one, None), request + more
        places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        for begin, stop in itertools.pairwise(places):
            connection.feed(data[begin:stop])
            assert connection.is_complete is (stop >= len(request))
        assert connection.n_total == len(request)
        assert bytes(connection.data) == data


@given(st.binary(max_size=300))
def test_no_bytes_do_harm(data: bytes) -> None:
    one, other = socket.socketpair()
    with one, other:
        connection = Connection(one, None)
        for i in range(0, len(data), 7):
            connection.feed(data[i : i + 7])
        assert connection.is_complete in (True, False)


def test_a_head_without_an_end_is_too_large(end: socket.socket) -> None:
    connection = Connection(end, None)
    connection.feed(b"GET / HTTP/1.1\r\nX: " + b"y" * (MAX_HEAD_BYTES - 20))
    assert not connection.is_complete
    connection.feed(b"y" * 20)
    assert connection.is_complete and connection.is_too_large


def test_time_runs_from_the_first_byte_and_a_body_gives_some(end: socket.socket) -> None:
    connection = Connection(end, None, since=5.0)
    assert connection.deadline(30, 10) == 35.0
    connection.feed(b"POST / HTTP/1.1\r\n")
    assert connection.deadline(30, 10) == connection.since + 10 > 15
    since = connection.since
    connection.feed(b"Content-Length: 99999\r\n\r\n" + b"x" * 2 * BODY_BYTES_PER_S)
    assert connection.deadline(30, 10) == since + 12


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], (0, 0)),
        ([("Content-Length", "7")], (0, 7)),
        ([("Content-Length", "-7")], (411, 0)),
        ([("Content-Length", "\u00b2")], (411, 0)),
        ([("Content-Length", "9" * 5000)], (413, 0)),
        ([("Content-Length", "1"), ("Content-Length", "2")], (400, 0)),
        ([("Content-Length", "1"), ("Transfer-Encoding", "chunked")], (411, 0)),
    ],
)
def test_lengths_that_cannot_be_are_refused(
    headers: list[tuple[str, str]], expected: tuple[int, int]
) -> None:
    message = Message()
    for name, value in headers:
        message[name] = value
    assert body_length(message) == expected
