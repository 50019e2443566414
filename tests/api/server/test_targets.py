"""Request targets in absolute form (RFC 9112, 3.2.2)."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from tests.api.server.running import Running


def ask(server: Running, target: str, *headers: str) -> tuple[int, str]:
    """Return status and body of the reply to a GET with a target that is sent as it is."""
    host, port = server.url.removeprefix("http://").split(":")
    lines = [f"GET {target} HTTP/1.1", "Connection: close", *headers, "", ""]
    with socket.create_connection((host, int(port))) as client, client.makefile("rb") as reply:
        client.sendall("\r\n".join(lines).encode())
        head, _, body = reply.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://localhost/v1/models", "/v1/models"),
        ("HTTP://127.0.0.1:8080/v1/models?x=1", "/v1/models?x=1"),
        ("https://[::1]:1/health", "/health"),
        ("http://localhost", "/"),
        ("http://localhost?x", "/"),
        ("http://localhost/v1/models/a%20b", "/v1/models/a%20b"),
        ("http://localhost/nothing", "/nothing"),
    ],
)
def test_a_target_with_a_host_means_its_path(server: Running, target: str, path: str) -> None:
    assert ask(server, target, "Host: x") == ask(server, path, "Host: x")


def test_the_host_of_a_target_counts_and_not_the_header(serve: Callable[..., Running]) -> None:
    server = serve({"hosts": ()})
    assert ask(server, "http://localhost/props", "Host: evil.example")[0] == 200
    for host in ("evil.example", "user@localhost", ""):
        assert ask(server, f"http://{host}/props", "Host: localhost")[0] == 421


def test_a_target_with_a_host_needs_the_key(serve: Callable[..., Running]) -> None:
    server = serve({"api_keys": ("secret",)})
    assert ask(server, "http://localhost/props", "Host: x")[0] == 401
    assert ask(server, "http://localhost/health", "Host: x")[0] == 200
