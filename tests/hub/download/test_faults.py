"""Everything that can go wrong on the way, from a real server through the real client."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gguf_hub.errors import (
    DownloadError,
    HubError,
    HubUnreachableError,
)
from gguf_hub.hub.client import HfHub, retry
from gguf_hub.hub.download import engine, segment_queue
from gguf_hub.hub.download.destinations import Destination
from gguf_hub.hub.download.fetch import Status
from gguf_hub.hub.download.link import Source
from gguf_hub.hub.download.partfile import PartFile
from gguf_hub.hub.download.segments import Segments, SegmentState
from gguf_hub.progress import SILENT
from tests.hub.download.transfers import (
    BIG,
    NAME,
    QUICK,
    REPO,
    SEGMENT,
    Make,
    fetch,
    listed,
    sent_bytes,
    stop_after,
)
from tests.hub_server import Fault, HubServer, sha256
from tests.notes import Notes

# --- the fault table


PASSING = {
    "reset": [Fault("GET", "*", times=5, drop_after=30_000)],
    "slow": [Fault("GET", "*", times=2, bytes_per_s=1e6)],
    "stalled": [Fault("GET", "*", times=2, stall_s=1.0)],
    "500": [Fault("GET", "*", times=2, status=500)],
    "504": [Fault("GET", "*", times=2, status=504)],
    "429 Retry-After": [Fault("GET", "*", times=2, status=429, headers={"Retry-After": "1"})],
    "429 RateLimit": [Fault("GET", "*", times=2, status=429, headers={"RateLimit": '"r";r=0;t=1'})],
    "200 once": [Fault("GET", "*", times=1, ignore_range=True)],
    "200 always": [Fault("GET", "*", ignore_range=True)],
    "200 and dropped": [Fault("GET", "*", times=3, ignore_range=True, drop_after=400_000)],
    "short body": [Fault("GET", "*", times=2, headers={"Content-Length": "1000"})],
    "long body": [Fault("GET", "*", times=2, body=BIG + b"more")],
    "flipped once": [Fault("GET", "*", times=1, flip_at=5)],
    "no ETag": [Fault("GET", "*", headers={"ETag": None})],
    "weak ETag": [Fault("GET", "*", headers={"ETag": 'W/"weak"'})],
    "another ETag": [Fault("GET", "*", times=1, headers={"ETag": '"other"'})],
}


@pytest.mark.slow
@pytest.mark.parametrize("redirect", [False, True], ids=["direct", "redirected"])
@pytest.mark.parametrize("name", PASSING)
def test_passing_faults_end_in_the_right_bytes(
    server: HubServer, fetcher: Make, name: str, redirect: bool
) -> None:
    server.redirect = redirect
    listing = fetcher().hub.list_files(REPO)
    server.faults += [Fault(**vars(fault)) for fault in PASSING[name]]
    (done,) = fetcher().fetch(listing, listing.files)
    assert (done.path.read_bytes(), done.status) == (BIG, Status.DOWNLOADED)


def test_a_wrong_total_is_not_believed(server: HubServer, fetcher: Make) -> None:
    headers = {"Content-Range": "bytes 0-99/100"}
    server.faults.append(Fault("GET", "*/resolve/*", times=1, headers=headers, body=b"x" * 100))
    assert fetch(fetcher(replace(QUICK, connections=1))).path.read_bytes() == BIG
    assert len([r for r in server.requests if r.method == "HEAD"]) == 2  # the hub was asked again


def test_a_pause_that_the_server_asks_for_is_kept_by_all(server: HubServer, fetcher: Make) -> None:
    listing = fetcher().hub.list_files(REPO)
    server.faults.append(Fault("GET", "*", times=1, status=429, headers={"Retry-After": "1"}))
    start = time.monotonic()
    fetcher(replace(QUICK, connections=1)).fetch(listing, listing.files)
    assert time.monotonic() - start >= 1.0


class Waits(threading.Event):
    """Waits for nothing, and keeps how long the threads of a transfer wanted to."""

    def __init__(self, clock: SimpleNamespace) -> None:
        super().__init__()
        self.clock = clock
        self.wanted_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            return super().wait(timeout)
        assert timeout is not None
        self.wanted_s.append(timeout)
        self.clock.ahead_s += timeout
        return self.is_set()


def waits_of(part: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[float]:
    """Fetch with one connection; return its waits, each as long as chance may make it."""
    clock = SimpleNamespace(ahead_s=0.0, monotonic=lambda: time.monotonic() + clock.ahead_s)
    monkeypatch.setattr(segment_queue, "time", clock)
    monkeypatch.setattr(retry, "random", SimpleNamespace(uniform=lambda low, high: high))
    hub = HfHub(retry_waits_s=())
    listing = hub.list_files(REPO)
    segments = Segments(len(BIG), len(BIG))
    with PartFile(part, len(BIG)) as file:
        transfer = engine.Transfer(
            hub,
            Source(REPO, listing.commit, listing.files[0]),
            file,
            engine.TransferState(segments, {}, (SegmentState(0, 0),)),
            journal=None,
            settings=engine.Settings(connections=1, **settings),
            progress=SILENT,
            cancel=threading.Event(),
        )
        transfer.queue.stop_event = waits = Waits(clock)
        with contextlib.suppress(HubUnreachableError):
            assert transfer.run() == sha256(BIG)
    return waits.wanted_s


def test_waits_grow_with_every_try_that_brings_nothing(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", status=503))
    assert waits_of(tmp_path / "part", monkeypatch, waits_s=(1.0, 2.0, 4.0)) == [1.0, 2.0, 4.0]
    assert len(server.body_requests()) == 4
    assert list(engine.WAITS_S) == sorted(engine.WAITS_S)


def test_a_try_that_brings_something_makes_waits_short_again(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults += [
        Fault("GET", "*/resolve/*", times=2, status=503),
        Fault("GET", "*/resolve/*", times=1, drop_after=300_000),
        Fault("GET", "*/resolve/*", times=1, status=503),
    ]
    waits_s = waits_of(tmp_path / "part", monkeypatch, waits_s=(1.0, 2.0, 4.0))
    assert waits_s == [1.0, 2.0, 1.0, 1.0]
    assert (tmp_path / "part").read_bytes() == BIG


@pytest.mark.parametrize(("asked", "waited_s"), [("7", 7.0), ("1", 5.0)], ids=["longer", "shorter"])
def test_a_wait_is_as_long_as_the_server_asks_for(
    server: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    waited_s: float,
) -> None:
    headers = {"Retry-After": asked}
    server.faults.append(Fault("GET", "*/resolve/*", times=1, status=429, headers=headers))
    assert waits_of(tmp_path / "part", monkeypatch, waits_s=(5.0,)) == [waited_s]


def test_a_server_that_sends_whole_files_gets_one_connection(
    server: HubServer, fetcher: Make
) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", ignore_range=True, bytes_per_s=5e6))
    assert fetch(fetcher()).path.read_bytes() == BIG
    whole = [r for r in server.body_requests() if r.sent_bytes == len(BIG)]
    assert len(whole) == 1


def test_a_link_that_refuses_many_gets_fewer_connections(server: HubServer, fetcher: Make) -> None:
    server.redirect = True
    server.faults.append(Fault("GET", "/cdn/*", times=4, status=403))
    server.faults.append(Fault("GET", "/cdn/*", bytes_per_s=3e6))
    assert fetch(fetcher()).path.read_bytes() == BIG
    heads = [r for r in server.requests if r.method == "HEAD"]
    assert 2 <= len(heads) <= 5


def test_a_link_that_always_refuses_is_an_error_without_the_link(
    server: HubServer, fetcher: Make
) -> None:
    server.redirect = True
    server.faults.append(Fault("GET", "/cdn/*", status=403))
    with pytest.raises(HubUnreachableError, match="signed link") as caught:
        fetch(fetcher())
    assert "sig=" not in caught.value.message


@pytest.mark.parametrize(
    ("headers", "words"),
    [({"Content-Type": "text/html; charset=utf-8", "Content-Length": None}, "sends a web page"),
     ({}, f"lists {len(BIG):,} bytes, but http.* serves 6 bytes")],
    ids=["a page", "another size"],
)  # fmt: skip
def test_a_login_page_for_a_file_is_called_that(
    server: HubServer, fetcher: Make, headers: dict[str, str | None], words: str
) -> None:
    server.redirect = True
    fault = Fault("GET", "/cdn/*", ignore_range=True, headers=headers, body=b"<html>")
    server.faults.append(fault)
    with pytest.raises(HubError, match=words) as caught:
        fetch(fetcher())
    assert server.cdn in caught.value.message
    assert "login page" in str(caught.value.hint)


def test_a_trickle_is_given_up(server: HubServer, fetcher: Make) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", times=2, bytes_per_s=1e4))
    settings = replace(QUICK, stall_s=0.2, connections=2)
    assert fetch(fetcher(settings)).path.read_bytes() == BIG


def test_links_that_expire_half_way_are_asked_for_again(
    server: HubServer, fetcher: Make, notes: Notes
) -> None:
    """Three times in the course of one file the signed link is no longer good."""
    server.redirect = True
    for _ in range(3):
        server.faults.append(Fault("GET", "/cdn/*", times=1))
        server.faults.append(Fault("GET", "/cdn/*", times=1, status=403))
    assert fetch(fetcher(replace(QUICK, connections=1))).path.read_bytes() == BIG
    heads = [r for r in server.requests if r.method == "HEAD"]
    assert len(heads) == 4
    assert sent_bytes(server) == len(BIG)
    assert any("signed link" in text for text in notes.texts)


def test_a_file_replaced_while_it_comes_is_fetched_anew_with_a_word(
    server: HubServer, fetcher: Make, notes: Notes
) -> None:
    """Connections are open, and segments done, when the hub gets a new version."""
    (commit,) = server.repos[REPO].commits
    server.faults.append(Fault("GET", "*/resolve/*", times=8, bytes_per_s=2e5))

    def replace_it() -> None:
        while sum(r.sent_bytes for r in server.body_requests()) < 4 * SEGMENT:
            time.sleep(0.005)
        server.repos[REPO].commits[commit][NAME] = BIG[::-1]

    thread = threading.Thread(target=replace_it)
    thread.start()
    done = fetch(fetcher(replace(QUICK, connections=4)))
    thread.join()
    assert (done.path.read_bytes(), done.sha256) == (BIG[::-1], sha256(BIG[::-1]))
    assert any("replaced" in text for text in notes.texts)


def test_a_file_replaced_half_way_is_fetched_anew_with_a_word(
    server: HubServer, fetcher: Make, notes: Notes
) -> None:
    stop_after(server, fetcher, 3)
    (commit,) = server.repos[REPO].commits
    listing = fetcher().hub.list_files(REPO)
    server.repos[REPO].commits[commit][NAME] = BIG[::-1]
    (done,) = fetcher().fetch(listing, listing.files)
    assert done.path.read_bytes() == BIG[::-1]
    assert any("replaced" in text for text in notes.texts)


def test_bytes_that_stay_wrong_are_refused_and_nothing_kept(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    server.faults.append(Fault("GET", "*/resolve/*", flip_at=1234))
    with pytest.raises(DownloadError, match="arrived damaged"):
        fetch(fetcher())
    assert [
        p for p in destination.root.rglob("*") if p.suffix in (".part", ".journal", ".bin")
    ] == []


# --- what the hub says of a file


@pytest.mark.parametrize(
    "headers", [{"Content-Length": "12"}, {"Content-Length": str(len(BIG) + 1)}]
)
def test_a_wrong_size_in_head_is_told(
    server: HubServer, fetcher: Make, headers: dict[str, str]
) -> None:
    server.faults.append(Fault("HEAD", "*", headers=headers))
    with pytest.raises(HubError, match=f"lists {len(BIG)} bytes"):
        fetch(fetcher())


def test_a_missing_etag_in_head_is_made_up_for_by_the_hash(
    server: HubServer, fetcher: Make
) -> None:
    server.faults.append(Fault("HEAD", "*", headers={"ETag": None}))
    assert fetch(fetcher()).path.read_bytes() == BIG


# --- redirects


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_redirects_in_circles_end(server: HubServer, fetcher: Make, method: str) -> None:
    path = f"/{REPO}/resolve/main/{NAME}"
    loop = Fault(method, "*/resolve/*", status=302, headers={"Location": path})
    server.faults.append(loop)
    with pytest.raises(HubError, match="redirects in circles"):
        fetch(fetcher(replace(QUICK, connections=1)))
    assert len([r for r in server.requests if r.method == method]) < 50


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/*/revision/*"), ("GET", "*/resolve/*"), ("HEAD", "*/resolve/*")],
)
def test_no_redirect_takes_the_token_to_another_origin(
    server: HubServer, fetcher: Make, method: str, path: str
) -> None:
    """The hub itself sends the client away, to an origin that answers like the hub."""
    client = HfHub(token="hf_member", retry_waits_s=(0.0,), timeout_s=0.5)
    listing = client.list_files(REPO)
    aim = f"{server.cdn}/cdn/{sha256(BIG)}?sig={sha256(BIG)[:8]}"
    if path.startswith("/api"):
        aim = f"{server.cdn}/api/models/{REPO}"
    linked = {"X-Linked-Etag": f'"{sha256(BIG)}"', "X-Linked-Size": str(len(BIG))}
    headers = {"Location": aim, "X-Repo-Commit": listing.commit} | linked
    server.faults.append(Fault(method, path, server.endpoint, status=302, headers=headers))
    assert fetch(fetcher(hub=client)).path.read_bytes() == BIG
    seen = [r.headers.get("authorization") for r in server.requests if r.origin == server.cdn]
    assert seen
    assert set(seen) == {None}
    own = [r.headers.get("authorization") for r in server.requests if r.origin == server.endpoint]
    assert "Bearer hf_member" in own


def test_the_token_is_not_sent_to_the_file_host(
    server: HubServer, fetcher: Make, destination: Destination
) -> None:
    server.redirect = True
    fetch(fetcher(hub=HfHub(token="hf_member")))
    bodies = server.body_requests()
    assert bodies
    assert all("authorization" not in r.headers for r in bodies)
    texts = [p.read_bytes() for p in destination.root.rglob("*") if p.is_file()]
    assert not any(b"hf_member" in text for text in texts)


def test_a_server_without_tls_is_told_and_not_asked_again(server: HubServer, fetcher: Make) -> None:
    secure = server.endpoint.replace("http://", "https://")
    with pytest.raises(HubError, match=r"secure connection|cannot reach") as caught:
        HfHub(secure, retry_waits_s=(0.0,)).list_files(REPO)
    assert caught.value.hint


def test_an_untrusted_certificate_is_told(server: HubServer, fetcher: Make, tmp_path: Path) -> None:
    origin = tls_origin(tmp_path)
    with pytest.raises(HubError, match="no secure connection") as caught:
        HfHub(origin, retry_waits_s=(0.0, 0.0)).list_files(REPO)
    assert not isinstance(caught.value, HubUnreachableError)


def test_an_untrusted_file_host_is_told_and_gets_no_token(
    server: HubServer, fetcher: Make, tmp_path: Path, destination: Destination
) -> None:
    """The hub is trusted; where it sends the client is not."""
    headers = {
        "Location": f"{tls_origin(tmp_path)}/file",
        "X-Repo-Commit": server.repos[REPO].refs["main"],
        "X-Linked-Etag": f'"{sha256(BIG)}"',
        "X-Linked-Size": str(len(BIG)),
    }
    server.faults.append(Fault("HEAD", "*/resolve/*", status=302, headers=headers))
    with pytest.raises(HubError, match="no secure connection") as caught:
        fetch(fetcher(hub=HfHub(token="hf_member", retry_waits_s=(0.0,))))
    assert not isinstance(caught.value, HubUnreachableError)  # another try would not help
    assert not destination.path_of(*listed(fetcher())).exists()


def tls_origin(folder: Path) -> str:
    """A server whose certificate nobody knows; the address of it."""
    import shutil
    import socket
    import ssl

    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, cert = folder / "key.pem", folder / "cert.pem"
    line = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    names = ["-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*line.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            while True:
                plain, _ = listener.accept()
                try:
                    context.wrap_socket(plain, server_side=True).close()
                except OSError:
                    plain.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"https://127.0.0.1:{listener.getsockname()[1]}"
