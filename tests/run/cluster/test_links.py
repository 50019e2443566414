"""Messages between machines: nothing but numbers, and only from who knows the key."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from gguf_hub.errors import ClusterError
from gguf_hub.run.cluster.links import Link, LinkLostError, accept, connect, listen
from gguf_hub.run.cluster.server import StageServer

KEY = b"k" * 32


@pytest.fixture
def pair() -> Iterator[tuple[Link, socket.socket]]:
    left, right = socket.socketpair(socket.AF_UNIX)
    left.close(), right.close()
    listener = listen("127.0.0.1")
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    yield Link(server), client
    for each in (listener, client, server):
        each.close()


@pytest.mark.parametrize(
    "numbers",
    [
        None,
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.empty((0, 5), np.float32),
        np.arange(100_000, dtype=np.uint16),
        np.arange(20, dtype=np.float32)[::2],
    ],
)
def test_numbers_arrive_as_they_were_sent(
    pair: tuple[Link, socket.socket], numbers: np.ndarray | None
) -> None:
    receiver, client = pair
    sender = Link(client)
    thread = threading.Thread(target=sender.send, args=({"do": "x", "tokens": [1, 2]}, numbers))
    thread.start()
    message = receiver.receive()
    thread.join()
    assert message.head == {"do": "x", "tokens": [1, 2]}
    if numbers is None:
        assert message.numbers is None
    else:
        assert message.numbers is not None and message.numbers.dtype == numbers.dtype
        np.testing.assert_array_equal(message.numbers, numbers)


def test_bytes_of_a_long_message_are_signs_of_life(pair: tuple[Link, socket.socket]) -> None:
    receiver, client = pair

    def receive() -> None:
        with pytest.raises(LinkLostError):
            receiver.receive()

    thread = threading.Thread(target=receive)
    thread.start()
    head = b'{"do":"x","numbers":["u2",1000000]}'
    before = receiver.received_at
    client.sendall(struct.pack("<IQ", len(head), 2_000_000) + head + bytes(10))
    while receiver.received_at == before:
        time.sleep(0.01)
    client.close()
    thread.join()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",  # too large
        struct.pack("<IQ", 2, 0) + b"[]",
        struct.pack("<IQ", 2, 0) + b"{}",
        struct.pack("<IQ", 4, 0) + b"\xff\xfe{}",
        struct.pack("<IQ", 33, 1) + b'{"do":"x","numbers":["f4",2,1]}  ' + b"x",
        struct.pack("<IQ", 31, 8) + b'{"do":"x","numbers":["O8",1,1]}' + b"x" * 8,
        struct.pack("<IQ", 31, 4) + b'{"do":"x","numbers":["f4","a"]}' + b"x" * 4,
        struct.pack("<IQ", 31, 4) + b'{"do":"x","numbers":["f4",-1]} ' + b"x" * 4,
        struct.pack("<IQ", 10, 0) + b"{",
        b"",
    ],
)
def test_what_is_no_message_ends_the_link(pair: tuple[Link, socket.socket], sent: bytes) -> None:
    receiver, client = pair
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(LinkLostError):
        receiver.receive()


def test_a_stage_answers_only_who_knows_the_key() -> None:
    server = StageServer(KEY)
    with pytest.raises(LinkLostError):
        connect(server.address, b"other" * 8, "driver")
    link, hello = connect(server.address, KEY, "driver")
    assert "program" in hello.head
    link.close()
    assert server.is_over.wait(5)
    with pytest.raises(LinkLostError, match="cannot connect"):
        connect(server.address, KEY, "driver")


def test_a_driver_talks_only_to_who_knows_the_key() -> None:
    listener = listen("127.0.0.1")
    accepted = []

    def serve() -> None:
        connection, _ = listener.accept()
        connection.sendall(bytes(32))
        accepted.append(connection.recv(64))
        connection.sendall(bytes(32))
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(LinkLostError, match="key"):
        connect(("127.0.0.1", listener.getsockname()[1]), KEY, "driver")
    thread.join()
    listener.close()
    assert KEY not in accepted[0]


def test_a_proof_serves_once() -> None:
    """Who recorded a greeting cannot send it again: the other end's number is another."""
    listener = listen("127.0.0.1")
    seen: list[bytes] = []

    def record() -> None:
        connection, _ = listener.accept()
        connection.sendall(bytes(32))
        seen.append(connection.recv(64, socket.MSG_WAITALL))
        connection.close()

    thread = threading.Thread(target=record)
    thread.start()
    with pytest.raises(LinkLostError):
        connect(("127.0.0.1", listener.getsockname()[1]), KEY, "driver")
    thread.join()
    replay = socket.create_connection(listener.getsockname())
    connection, _ = listener.accept()
    replay.sendall(seen[0])
    assert accept(connection, KEY) is None
    for each in (listener, replay):
        each.close()


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(ClusterError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1")
