"""The mirror over real connections."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from gguf_hub.errors import GgufHubError, HubError, UsageError
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.download.destinations import LocalFolder
from gguf_hub.hub.download.fetch import Fetcher
from gguf_hub.hub.download.plan import FileSelector, select
from gguf_hub.hub.mirror import Mirror, RepositoryIndex
from gguf_hub.hub.store import Store
from tests.hub.mirror.files import REPO, add
from tests.hub.mirror.test_routes import HOSTILE
from tests.noise import noise

DATA = noise(3_000_000)
FILE = f"/{REPO}/resolve/main/m.Q4_0.gguf"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "record")
    add(store, tmp_path / "files", {"m.Q4_0.gguf": DATA, "m.Q8_0.gguf": b"q8"})
    return store


Serve = Callable[..., Mirror]


@pytest.fixture
def serve(store: Store) -> Iterator[Serve]:
    mirrors: list[Mirror] = []

    def start(**options: object) -> Mirror:
        mirrors.append(Mirror(RepositoryIndex(store), **options).start())
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.close()


@pytest.fixture
def mirror(serve: Serve) -> Mirror:
    return serve()


def connect(mirror: Mirror) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(mirror.host, mirror.port, timeout=20)


def get(mirror: Mirror, target: str, **headers: str) -> tuple[int, bytes]:
    connection = connect(mirror)
    try:
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def raw(mirror: Mirror, request: bytes) -> bytes:
    """Send bytes as they are and return all that comes until the server hangs up."""
    with socket.create_connection((mirror.host, mirror.port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_thirty_two_clients_at_once_get_equal_bytes(mirror: Mirror) -> None:
    gate = threading.Barrier(32)

    def fetch(i: int) -> bytes:
        gate.wait()
        if i % 2:
            return get(mirror, FILE)[1]
        parts = [get(mirror, FILE, Range=f"bytes={at}-{at + 999_999}")[1]
                 for at in range(0, len(DATA), 1_000_000)]  # fmt: skip
        return b"".join(parts)

    with ThreadPoolExecutor(32) as pool:
        assert all(data == DATA for data in pool.map(fetch, range(32)))


def test_more_clients_than_slots_wait_for_their_turn(serve: Serve) -> None:
    mirror = serve(max_requests=2)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: get(mirror, FILE)[1] == DATA, range(12)))
    assert found == [True] * 12


def test_one_connection_serves_many_requests(mirror: Mirror) -> None:
    connection = connect(mirror)
    for method, target, status, n_bytes in [
        ("HEAD", FILE, 200, 0),
        ("GET", FILE, 200, len(DATA)),
        ("GET", "/nothing", 404, None),
        ("GET", FILE, 200, len(DATA)),
    ]:
        connection.request(method, target)
        socket_before = connection.sock
        response = connection.getresponse()
        body = response.read()
        assert response.status == status
        assert n_bytes is None or len(body) == n_bytes
        assert connection.sock is socket_before
        length = int(response.headers["Content-Length"])
        assert length == (len(DATA) if target == FILE else len(body))
    connection.close()


@pytest.mark.parametrize("target", [t for t in HOSTILE if "\0" not in t and t], ids=ascii)
def test_paths_that_lead_anywhere_else_are_404(mirror: Mirror, target: str) -> None:
    answer = raw(mirror, f"GET {target} HTTP/1.0\r\n\r\n".encode())
    assert answer.split(b"\r\n")[0].split()[1] == b"404"


def test_a_raw_nul_in_a_path_is_404(mirror: Mirror) -> None:
    for target in (FILE.encode() + b"\0", b"/\0", b"/\xff\xfe/../\0"):
        answer = raw(mirror, b"GET " + target + b" HTTP/1.0\r\n\r\n")
        assert answer.split()[1] == b"404"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /api/models HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"POST /api/models HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"POST /api/models HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"TRACE / HTTP/1.1\r\n\r\n", b"501"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 0\r\n\r\nx", b"400"),
    ],
)
def test_requests_that_are_wrong_are_answered_and_end(
    mirror: Mirror, request_bytes: bytes, status: bytes
) -> None:
    answer = raw(mirror, request_bytes)
    assert status in answer.split(b"\r\n")[0] + answer[-40:]
    assert answer.count(b"Content-Length:") <= 1  # what follows is not taken for a request
    assert get(mirror, "/api/models")[0] == 200


def test_a_silent_client_is_sent_away(serve: Serve) -> None:
    mirror = serve(idle_s=0.1)
    with socket.create_connection((mirror.host, mirror.port), timeout=20) as connection:
        began = time.monotonic()
        assert connection.recv(1) == b""
    assert time.monotonic() - began < 10


HALF = f"GET {FILE} HTTP/1.1\r\nHost: localhost\r\nX-".encode()
WHOLE = f"HEAD {FILE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
PATHS = f"POST /api/models/{REPO}/paths-info/main HTTP/1.1\r\nHost: localhost\r\n".encode()


def open_some(mirror: Mirror, stack: ExitStack, n: int) -> list[socket.socket]:
    """Open connections that rest: silent, in the middle of a request, or after one."""
    opened = []
    for i in range(n):
        address = (mirror.host, mirror.port)
        client = stack.enter_context(socket.create_connection(address, timeout=20))
        client.sendall((b"", HALF, WHOLE, PATHS + b"Content-Length: 9\r\n\r\n{")[i % 4])
        if i % 4 == 2:
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        opened.append(client)
    return opened


def test_connections_that_rest_keep_nobody_out(serve: Serve) -> None:
    mirror = serve(max_requests=2)
    with ExitStack() as stack:
        resting = open_some(mirror, stack, 60)
        for _ in range(3):
            assert get(mirror, FILE) == (200, DATA)
        for client in resting[2::4]:  # and they can go on
            client.sendall(WHOLE)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_of_too_many_that_rest_the_oldest_goes(serve: Serve) -> None:
    mirror = serve(max_waiting=8)
    with ExitStack() as stack:
        resting = open_some(mirror, stack, 40)
        assert get(mirror, FILE) == (200, DATA)
        assert resting[0].recv(65536) == b""


def test_half_a_request_is_given_up(serve: Serve) -> None:
    mirror = serve(request_s=0.2)
    with ExitStack() as stack:
        resting = open_some(mirror, stack, 4)
        for client in (resting[1], resting[3]):
            assert client.recv(65536) == b""
        resting[2].sendall(WHOLE)  # between requests there is more time
        assert resting[2].recv(65536).startswith(b"HTTP/1.1 200")


def test_a_drip_of_bytes_buys_no_time(serve: Serve) -> None:
    mirror = serve(request_s=0.2)
    client = socket.create_connection((mirror.host, mirror.port), timeout=20)
    with client, pytest.raises(ConnectionError):
        for _ in range(1000):
            client.sendall(HALF[:1])
            time.sleep(0.02)


def test_requests_that_come_at_once_are_answered_in_turn(mirror: Mirror) -> None:
    body = b'{"paths":["m.Q8_0.gguf"]}'
    kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = raw(mirror, WHOLE * 3 + PATHS + kind + body + WHOLE)
    assert answer.count(b"HTTP/1.1 200") == 5
    assert answer.count(b'"m.Q8_0.gguf"') == 1


def test_who_asks_first_whether_to_send_is_told_to(mirror: Mirror) -> None:
    body = b'{"paths":["m.Q8_0.gguf"]}'
    kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    with socket.create_connection((mirror.host, mirror.port), timeout=20) as client:
        client.sendall(PATHS + kind + b"Expect: 100-continue\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_client_that_goes_away_does_no_harm(serve: Serve) -> None:
    lines: list[str] = []
    mirror = serve(on_request=lines.append, on_error=lines.append)
    for _ in range(3):
        with socket.create_connection((mirror.host, mirror.port), timeout=20) as connection:
            connection.sendall(f"GET {FILE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            connection.recv(1)
    assert get(mirror, FILE) == (200, DATA)
    assert [line for line in lines if "Error" in line] == []


def test_an_empty_file_is_served(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    add(store, tmp_path / "files", {"empty.gguf": b""})
    target = FILE.replace("m.Q4_0", "empty")
    assert get(mirror, target) == (200, b"")
    assert get(mirror, target, Range="bytes=0-")[0] == 416


def test_a_file_that_becomes_shorter_on_the_way_ends_the_connection(
    serve: Serve, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = add(store, tmp_path / "files", {"cut.gguf": b"x" * 1000}).values()
    mirror = serve()

    def open_then_cut(entry: object) -> object:
        file = path.open("rb", buffering=0)
        os.truncate(path, 10)
        return file

    monkeypatch.setattr("gguf_hub.hub.mirror.routes.open_unchanged", open_then_cut)
    with pytest.raises(http.client.IncompleteRead):
        get(mirror, FILE.replace("m.Q4_0", "cut"))


def test_what_goes_wrong_inside_is_a_line_of_the_log_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    mirror = serve(on_error=lines.append)
    monkeypatch.setattr("gguf_hub.hub.mirror.routes.Routes.answer", lambda *_: 1 / 0)
    with pytest.raises(http.client.RemoteDisconnected):
        get(mirror, FILE)
    assert any("ZeroDivisionError" in line for line in lines)


def test_each_request_is_a_line_of_the_log_without_its_token(serve: Serve) -> None:
    lines: list[str] = []
    mirror = serve(on_request=lines.append, token="tok-en")
    assert get(mirror, "/api/models")[0] == 401
    get(mirror, "/api/models", Authorization="Bearer tok-en")
    raw(mirror, b"GET /\x1b[31m HTTP/1.0\r\n\r\n")
    assert [line.split()[-2] for line in lines] == ["401", "200", "401"]
    assert "tok-en" not in "".join(lines)
    assert "\x1b" not in "".join(lines)


def test_the_real_client_downloads_and_verifies(
    mirror: Mirror, store: Store, tmp_path: Path
) -> None:
    fetcher = Fetcher(HfHub(mirror.endpoint), LocalFolder(tmp_path / "to"), Store(tmp_path / "r2"))
    listing = fetcher.hub.list_files(REPO)
    assert [file.path for file in listing.files] == ["m.Q4_0.gguf", "m.Q8_0.gguf"]
    (fetched,) = fetcher.fetch(listing, select(listing, FileSelector(quant="Q4_0")))
    assert fetched.path.read_bytes() == DATA
    assert fetched.sha256 == hashlib.sha256(DATA).hexdigest()


def test_every_question_that_huggingface_hub_asks_is_answered(mirror: Mirror) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=mirror.endpoint, token=False)
    info = api.model_info(REPO, files_metadata=True)
    assert [(s.rfilename, s.size) for s in info.siblings or []] == [
        ("m.Q4_0.gguf", len(DATA)), ("m.Q8_0.gguf", 2),
    ]  # fmt: skip
    assert [model.id for model in api.list_models(search="model")] == [REPO]
    assert api.list_repo_refs(REPO).branches[0].target_commit == info.sha
    assert api.list_repo_files(REPO, revision=info.sha) == ["m.Q4_0.gguf", "m.Q8_0.gguf"]
    (found,) = api.get_paths_info(REPO, ["m.Q8_0.gguf", "nothing"])
    assert found.lfs.sha256 == hashlib.sha256(b"q8").hexdigest()
    assert (api.repo_exists(REPO), api.repo_exists("org/no")) == (True, False)
    assert (api.file_exists(REPO, "m.Q8_0.gguf"), api.file_exists(REPO, "no")) == (True, False)
    assert (api.revision_exists(REPO, "main"), api.revision_exists(REPO, "v2")) == (True, False)


def test_the_real_client_needs_the_token(serve: Serve) -> None:
    mirror = serve(token="secret")
    with pytest.raises(HubError, match="401"):
        HfHub(mirror.endpoint, token="wrong").list_files(REPO)
    assert HfHub(mirror.endpoint, token="secret").list_files(REPO).files


def test_closing_ends_what_is_under_way(store: Store) -> None:
    with Mirror(RepositoryIndex(store)) as mirror:
        mirror.start()
        connection = connect(mirror)
        connection.request("GET", "/api/models")
        connection.getresponse().read()
    with pytest.raises(OSError):
        connect(mirror).connect()
    assert connection.sock is not None
    assert connection.sock.recv(1) == b""
    connection.close()


def test_closing_works_while_clients_wait_for_a_slot(store: Store) -> None:
    with Mirror(RepositoryIndex(store), max_requests=1) as mirror:
        mirror.start()
        first, second = connect(mirror), connect(mirror)
        first.connect()
        second.connect()
        time.sleep(0.05)
    first.close()
    second.close()


# --- where it listens


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_this_machine_alone_needs_no_token(store: Store, host: str) -> None:
    with Mirror(RepositoryIndex(store), host=host) as mirror:
        assert mirror.is_local
        assert mirror.endpoint == f"http://{mirror.host}:{mirror.port}"


@pytest.mark.parametrize("token", [None, ""])
def test_the_network_needs_a_token(store: Store, token: str | None) -> None:
    with pytest.raises(UsageError, match="no token"):
        Mirror(RepositoryIndex(store), host="0.0.0.0", token=token)


def test_all_addresses_are_announced_as_one_that_can_be_reached(serve: Serve) -> None:
    mirror = serve(host="0.0.0.0", token="t")
    assert not mirror.is_local
    assert mirror.host != "0.0.0.0"
    assert get(mirror, "/api/models", Authorization="Bearer t")[0] == 200


def test_ip_version_6(serve: Serve) -> None:
    try:
        mirror = serve(host="::1")
    except GgufHubError:
        pytest.skip("this machine has no IPv6")
    assert mirror.endpoint == f"http://[::1]:{mirror.port}"
    assert get(mirror, FILE) == (200, DATA)


def test_a_port_in_use_is_told(mirror: Mirror, store: Store) -> None:
    with pytest.raises(GgufHubError, match="in use") as caught:
        Mirror(RepositoryIndex(store), port=mirror.port)
    assert "--port" in str(caught.value.hint)


@pytest.mark.parametrize("host", ["192.0.2.7", "no such host", "x" * 70])
def test_a_host_that_is_not_ours_is_told(store: Store, host: str) -> None:
    with pytest.raises(GgufHubError, match="cannot listen"):
        Mirror(RepositoryIndex(store), host=host, token="t")
