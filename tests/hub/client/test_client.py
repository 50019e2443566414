"""The hub client against a real server: listing, bytes, errors, tokens."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from gguf_hub.errors import (
    FileChangedError,
    GatedRepoError,
    GgufHubError,
    HubError,
    HubUnreachableError,
    OfflineModeError,
    RemoteFileNotFoundError,
    RepoNotFoundError,
    RevisionNotFoundError,
    UsageError,
)
from gguf_hub.hub.client import FileMetadata, HfHub, client
from gguf_hub.hub.client.retry import Backoff
from gguf_hub.hub.client.translate import offline
from gguf_hub.paths import default_cache_dir
from tests.hub_server import Fault, HubServer, git_sha1, sha256

DATA = bytes(range(256)) * 40
REPO = "org/model"


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {"m.Q4_0.gguf": DATA, "README.md": b"hi", "sub/x.gguf": b"x"})
    return hub_server


def hub(token: str | None = None, **options: object) -> HfHub:
    return HfHub(token=token, retry_waits_s=(0.0, 0.0), **options)


def whole(client: HfHub, metadata: FileMetadata, start: int = 0, **options: object) -> bytes:
    with client.open_range(metadata, start, **options) as stream:
        return b"".join(stream.chunks)


# --- listing


def test_listing_names_every_file_with_its_size_and_id(server: HubServer) -> None:
    server.page_size = 1
    listing = hub().list_files(REPO)
    assert listing.commit == server.repos[REPO].refs["main"]
    assert {f.path: (f.size_bytes, f.etag) for f in listing.files} == {
        "m.Q4_0.gguf": (len(DATA), sha256(DATA)),
        "README.md": (2, git_sha1(b"hi")),
        "sub/x.gguf": (1, sha256(b"x")),
    }
    assert listing.find("README.md").sha256 is None
    assert listing.find("nothing") is None


def test_listing_of_a_revision_is_that_of_its_commit(server: HubServer) -> None:
    old = server.repos[REPO].refs["main"]
    new = server.add_repo(REPO, {"other.gguf": b"o"}, revision="refs/pr/1")
    assert [f.path for f in hub().list_files(REPO, "refs/pr/1").files] == ["other.gguf"]
    assert hub().list_files(REPO, new).commit == new
    assert hub().list_files(REPO).commit == old


@pytest.mark.parametrize(
    ("repo_id", "revision", "error", "words"),
    [
        ("org/nothing", "main", RepoNotFoundError, ["org/nothing", "private", "hf auth login"]),
        (REPO, "nothing", RevisionNotFoundError, [REPO, "`nothing`", "main"]),
        ("a/b/c", "main", UsageError, ["a/b/c", "org/name"]),
        (REPO, "../../x", UsageError, ["`../../x` is not a branch"]),
    ],
    ids=["no repo", "no revision", "no repo name", "no revision name"],
)
def test_listing_says_what_is_missing(
    server: HubServer, repo_id: str, revision: str, error: type[GgufHubError], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        hub().list_files(repo_id, revision)
    text = f"{caught.value.message} {caught.value.hint}"
    assert [word for word in words if word not in text] == []


def test_private_repositories_show_only_to_members(server: HubServer) -> None:
    server.add_repo("org/secret", {"a.gguf": b"a"}, private=True)
    for token in (None, "hf_reader"):
        with pytest.raises(RepoNotFoundError):
            hub(token).list_files("org/secret")
    assert hub("hf_member").list_files("org/secret").files[0].path == "a.gguf"


def test_nobody_listening_is_told_at_once_with_a_next_step(server: HubServer) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{placeholder.getsockname()[1]}"
        with pytest.raises(HubUnreachableError, match="cannot reach") as caught:
            HfHub(endpoint).list_files(REPO)
    assert endpoint in caught.value.message
    assert "gguf-hub doctor" in str(caught.value.hint)
    assert caught.value.retry_after_s is None


def test_offline_mode_asks_nobody(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachableError, match="offline mode"):
        hub().list_files(REPO)
    assert server.requests == []


@pytest.mark.parametrize(
    "body", [b"<html>log in</html>", b"[]", b'{"id": "org/model"}'], ids=["html", "list", "bare"]
)
def test_what_is_no_hub_is_called_that(server: HubServer, body: bytes) -> None:
    server.faults.append(Fault("GET", "/api/models/*", body=body))
    with pytest.raises(HubError, match="does not answer as a Hugging Face hub does"):
        hub().list_files(REPO)


@pytest.mark.parametrize("oid", ["../../../x", "", "A" * 64], ids=["path", "empty", "letters"])
def test_ids_that_are_no_hashes_are_refused(server: HubServer, oid: str) -> None:
    entry = {"type": "file", "path": "a.gguf", "size": 1, "oid": "0" * 40}
    entry["lfs"] = {"oid": oid or "x", "size": 1, "pointerSize": 1}
    server.faults.append(Fault("GET", "*/tree/*", body=json.dumps([entry]).encode()))
    with pytest.raises(HubError, match="does not answer as"):
        hub().list_files(REPO)


# --- a busy server


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: HubServer, status: int) -> None:
    server.faults.append(Fault("GET", "/api/*", status=status, times=2))
    assert hub().list_files(REPO).commit


def test_a_server_that_stays_busy_is_an_error(server: HubServer) -> None:
    server.faults.append(Fault("GET", "/api/*", status=503))
    with pytest.raises(HubUnreachableError, match="503"):
        hub().list_files(REPO)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ({}, [0.5, 1.0], [1.0, 2.0]),
        ({"Retry-After": "7"}, [7.0, 7.0], [7.0, 7.0]),
        ({"Retry-After": "1"}, [1.0, 1.0], [1.0, 2.0]),
    ],
    ids=["nothing", "longer", "shorter"],
)
def test_tries_are_apart_as_long_as_planned_and_as_long_as_asked(
    server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, str],
    least: list[float],
    most: list[float],
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=waits.append, monotonic=lambda: 0))
    server.faults.append(Fault("GET", "/api/*", status=503, headers=asked))
    notes: list[str] = []
    with pytest.raises(HubUnreachableError):
        HfHub(retry_waits_s=(1.0, 2.0), note=notes.append).list_files(REPO)
    assert [a <= wait_s <= b for a, wait_s, b in zip(least, waits, most, strict=True)] == [True] * 2
    assert [note.endswith("trying again in 7 s") for note in notes] == [True] * (least[0] == 7) * 2


def test_what_offline_mode_forbids_is_not_tried_again() -> None:
    with pytest.raises(OfflineModeError):
        Backoff((8.0,)).wait_s(offline("http://hub"), is_hopeless=False)


def test_clients_that_failed_together_do_not_come_back_together() -> None:
    backoff, error = Backoff((8.0,), n_failures=1), HubUnreachableError("busy")
    waits_s = {backoff.wait_s(error) for _ in range(64)}
    assert len(waits_s) == 64
    assert max(waits_s) - min(waits_s) > 2  # of 4; less once in 10^17


def test_tries_are_ever_further_apart() -> None:
    assert all(shorter < longer for shorter, longer in pairwise(client.RETRY_WAITS_S))


@pytest.mark.parametrize(
    "headers",
    [{"Retry-After": "3600"}, {"RateLimit": '"api";r=0;t=3600'}],
    ids=["Retry-After", "RateLimit"],
)
def test_a_long_wait_is_told_and_not_slept(server: HubServer, headers: dict[str, str]) -> None:
    server.faults.append(Fault("GET", "/api/*", status=429, headers=headers))
    with pytest.raises(HubUnreachableError, match="wait 3600 s") as caught:
        hub().list_files(REPO)
    assert caught.value.retry_after_s == 3600
    assert len(server.requests) == 1


# --- one file


@pytest.mark.parametrize("redirect", [False, True], ids=["direct", "redirected"])
def test_bytes_come_from_any_offset(server: HubServer, redirect: bool) -> None:
    server.redirect = redirect
    client = hub()
    metadata = client.file_metadata(REPO, "m.Q4_0.gguf")
    assert (metadata.etag, metadata.size_bytes) == (sha256(DATA), len(DATA))
    assert whole(client, metadata) == DATA
    assert whole(client, metadata, 1000) == DATA[1000:]
    assert client.read_range(metadata, 5, 300) == DATA[5:300]
    assert client.read_range(metadata, len(DATA) - 4, len(DATA) + 100) == DATA[-4:]


def test_the_token_never_leaves_the_hub_for_another_origin(server: HubServer) -> None:
    server.redirect = True
    client = hub("hf_member")
    client.read_range(client.file_metadata(REPO, "m.Q4_0.gguf"), 0, 9)
    seen = {(r.origin, r.headers.get("authorization")) for r in server.requests}
    assert seen == {(server.endpoint, "Bearer hf_member"), (server.cdn, None)}


def test_a_changed_file_is_sent_from_the_start(server: HubServer) -> None:
    client = hub()
    metadata = client.file_metadata(REPO, "m.Q4_0.gguf")
    with client.open_range(metadata, 10, if_range='"another"') as stream:
        assert (stream.start, b"".join(stream.chunks)) == (0, DATA)
    with client.open_range(metadata, 10, if_range=f'"{sha256(DATA)}"') as stream:
        assert (stream.start, b"".join(stream.chunks)) == (10, DATA[10:])


def test_of_a_server_without_ranges_no_more_is_read_than_needed(server: HubServer) -> None:
    big = DATA * 2000  # 20 MB
    server.add_repo(REPO, {"big.gguf": big}, revision="big")
    client = hub()
    metadata = client.file_metadata(REPO, "big.gguf", "big")
    server.faults.append(Fault("GET", "*", ignore_range=True))
    assert client.read_range(metadata, 10, 20) == big[10:20]
    assert client.read_range(metadata, 70_000, 300_000) == big[70_000:300_000]
    assert client.read_range(metadata, 0, 20) == big[:20]
    assert all(request.sent_bytes < len(big) for request in server.body_requests())


TRANSIENT = {
    "429": Fault("GET", "*", status=429, headers={"Retry-After": "0"}),
    "500": Fault("GET", "*", status=500),
    "502": Fault("GET", "*", status=502),
    "503": Fault("GET", "*", status=503),
    "504": Fault("GET", "*", status=504),
    "reset": Fault("GET", "*", drop_after=0),
    "truncated": Fault("GET", "/cdn/*", ends_after=100),
    "ended early": Fault("GET", "/cdn/*", ends_after=100, headers={"Content-Length": None}),
    "silent": Fault("GET", "/cdn/*", stall_s=0.6),
    "expired link": Fault("GET", "/cdn/*", status=403),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSIENT)
def test_a_range_is_read_again_as_downloads_are(server: HubServer, name: str) -> None:
    server.redirect = True
    client = hub(timeout_s=0.3)
    listing = client.list_files(REPO)
    metadata = client.listed_metadata(listing, listing.find("m.Q4_0.gguf"))
    fault = replace(TRANSIENT[name], times=2)
    server.faults.append(fault)
    assert client.read_range(metadata, 5, 9000) == DATA[5:9000]
    server.faults[:] = [replace(fault, times=None)]
    with pytest.raises(HubUnreachableError):
        client.read_range(metadata, 5, 9000)


def test_what_a_broken_connection_brought_is_not_read_again(server: HubServer) -> None:
    client = hub()
    metadata = client.file_metadata(REPO, "m.Q4_0.gguf")
    server.faults.append(Fault("GET", "*", ends_after=4000, times=2))
    assert client.read_range(metadata, 0, len(DATA)) == DATA

    def sent() -> int:
        return sum(request.sent_bytes for request in server.body_requests())

    until = time.monotonic() + 30
    while sent() < len(DATA) and time.monotonic() < until:
        time.sleep(0.01)  # the server counts what it has sent a moment after it came
    assert sent() == len(DATA)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, None),
        ({"Content-Length": "9"}, "asked for bytes from 10, got `no Content-Range`"),
        ({"Content-Type": "multipart/byteranges"}, "no Content-Range"),
    ],
    ids=["only the length", "another length", "several ranges"],
)
def test_a_range_without_content_range_is_known_by_its_length(
    server: HubServer, headers: dict[str, str], words: str | None
) -> None:
    client = hub()
    metadata = client.file_metadata(REPO, "m.Q4_0.gguf")
    server.faults.append(Fault("GET", "*", headers={"Content-Range": None, **headers}))
    if words is None:
        assert client.read_range(metadata, 10, 300) == DATA[10:300]
        assert client.read_range(metadata, 10, len(DATA) + 9) == DATA[10:]
        assert whole(client, metadata, 10) == DATA[10:]
        return
    with pytest.raises(HubError, match=words):
        client.read_range(metadata, 10, 300)


def test_a_file_of_another_size_than_listed_is_not_read(server: HubServer) -> None:
    client = hub()
    listing = client.list_files(REPO)
    metadata = client.listed_metadata(listing, listing.find("m.Q4_0.gguf"))
    server.faults.append(Fault("GET", "*", body=b"<html>log in", ignore_range=True))
    with pytest.raises(FileChangedError, match=r"lists 10,240 bytes, but http.* serves 12 bytes"):
        client.read_range(metadata, 0, 100)


def test_a_range_that_comes_drop_by_drop_is_given_up(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf_hub.hub.client.client.STALL_S", 0.2)
    client = hub()
    metadata = client.file_metadata(REPO, "m.Q4_0.gguf")
    server.faults.append(Fault("GET", "*", bytes_per_s=200))
    with pytest.raises(HubUnreachableError, match="the connection received only"):
        client.read_range(metadata, 0, len(DATA))
    server.faults[:] = [Fault("GET", "*", bytes_per_s=1e6)]
    assert client.read_range(metadata, 0, len(DATA)) == DATA


def test_a_range_that_begins_elsewhere_is_refused(server: HubServer) -> None:
    client = hub()
    metadata = client.file_metadata(REPO, "m.Q4_0.gguf")
    server.faults.append(Fault("GET", "*", headers={"Content-Range": "bytes 0-9/10"}))
    with pytest.raises(HubError, match="asked for bytes from 10"):
        whole(client, metadata, 10)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("GET", "*", drop_after=100), "the connection failed"),
        (Fault("GET", "*", stall_s=1.0), "no answer in time"),
        (Fault("GET", "*", status=503), "503"),
        (Fault("GET", "/cdn/*", status=403), "signed link"),
    ],
    ids=["dropped", "stalled", "busy", "expired link"],
)
def test_a_failed_transfer_says_that_another_try_makes_sense(
    server: HubServer, fault: Fault, words: str
) -> None:
    server.redirect = True
    client = hub(timeout_s=0.3)
    metadata = client.file_metadata(REPO, "m.Q4_0.gguf")
    server.faults.append(fault)
    with pytest.raises(HubUnreachableError, match=words) as caught:
        whole(client, metadata)
    assert caught.value.retry_after_s is not None
    assert "sig=" not in caught.value.message


def test_a_refusal_without_reason_is_final(server: HubServer) -> None:
    client = hub()
    metadata = client.file_metadata(REPO, "m.Q4_0.gguf")
    server.faults.append(Fault("GET", "*", status=410))
    with pytest.raises(HubError, match="answers 410 for") as caught:
        whole(client, metadata)
    assert not isinstance(caught.value, HubUnreachableError)


def test_errors_of_the_caller_are_left_alone(server: HubServer) -> None:
    client = hub()
    metadata = client.file_metadata(REPO, "m.Q4_0.gguf")
    with pytest.raises(ValueError, match="mine"), client.open_range(metadata, 0):
        raise ValueError("mine")


def test_redirects_in_circles_end(server: HubServer) -> None:
    path = f"/{REPO}/resolve/main/m.Q4_0.gguf"
    location = {"Location": server.endpoint + path}
    server.faults.append(Fault("HEAD", "*", status=302, headers=location))
    with pytest.raises(HubError, match="circles"):
        hub().file_metadata(REPO, "m.Q4_0.gguf")


def test_a_missing_file_is_named(server: HubServer) -> None:
    with pytest.raises(RemoteFileNotFoundError, match=r"no file `n\.gguf`"):
        hub().file_metadata(REPO, "n.gguf")


@pytest.mark.parametrize(
    ("token", "words"), [(None, "wants a token"), ("hf_reader", "not open to this token")]
)
def test_gated_files_say_how_to_get_in(server: HubServer, token: str | None, words: str) -> None:
    server.add_repo("org/gated", {"a.gguf": b"a"}, gated=True)
    with pytest.raises(GatedRepoError, match=words) as caught:
        hub(token).file_metadata("org/gated", "a.gguf")
    assert f"{server.endpoint}/org/gated" in str(caught.value.hint)
    assert "hf auth login" in str(caught.value.hint)


def test_a_member_reads_gated_files(server: HubServer) -> None:
    server.add_repo("org/gated", {"a.gguf": b"a"}, gated=True)
    client = hub("hf_member")
    assert whole(client, client.file_metadata("org/gated", "a.gguf")) == b"a"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("GET", "/cdn/*", status=404), "answers 404 for `m.Q4_0.gguf`"),
        (Fault("GET", "/cdn/*", status=416), "answers 416"),
        (Fault("GET", "/cdn/*", status=401), "answers 401"),
        (Fault("GET", "/cdn/*", status=403), "refuses the signed link (403)"),
        (Fault("GET", "/cdn/*", status=429), "answers 429: too many requests"),
        (Fault("GET", "/cdn/*", status=503), "answers 503: the server is in trouble"),
        (Fault("GET", "/cdn/*", stall_s=2.0), "no answer in time"),
        (Fault("GET", "/cdn/*", status=302, headers={"Location": "ftp://x/"}), "redirects to ftp:"),
        (Fault("GET", "/cdn/*", status=302, headers={"Location": "{target}"}), "in circles"),
        (Fault("GET", "/cdn/*", headers={"Content-Type": "text/html"}), "sends a web page"),
        (None, "cannot reach"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_the_host_that_failed_is_named(server: HubServer, fault: Fault | None, words: str) -> None:
    """Not the hub, which has sent us there; and nothing of the link but that."""
    server.redirect = True
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        host = f"http://127.0.0.1:{closed.getsockname()[1]}"
        nowhere = Fault("GET", "*/resolve/*", status=302, headers={"Location": f"{host}/x?sig=1"})
        server.faults.append(fault or nowhere)
        client = HfHub(retry_waits_s=(), timeout_s=0.5)
        listing = client.list_files(REPO)
        file = listing.find("m.Q4_0.gguf")
        assert file
        with pytest.raises(HubError) as caught:
            client.read_range(client.listed_metadata(listing, file), 0, 10)
    told = f"{caught.value.message} {caught.value.hint}"
    assert (server.cdn if fault else host) in told
    assert words in caught.value.message
    assert server.endpoint not in caught.value.message
    assert "sig=" not in told


def test_a_refused_token_is_told_without_showing_it(server: HubServer) -> None:
    server.faults.append(Fault("HEAD", "*", status=401))
    with pytest.raises(RepoNotFoundError, match="refuses the token") as caught:
        hub("hf_secret").file_metadata(REPO, "m.Q4_0.gguf")
    assert "hf_secret" not in f"{caught.value.message} {caught.value.hint}"


# --- the rest


def test_ping_tells_why_a_hub_does_not_answer(server: HubServer) -> None:
    assert hub().ping() is None
    server.faults.append(Fault("GET", "*", status=502))
    assert "502" in str(hub().ping())
    server.close()
    assert "cannot reach" in str(hub().ping())


@pytest.mark.parametrize(
    ("endpoint", "is_exposed"),
    [
        ("http://127.0.0.1:9", False),
        ("http://127.9.9.9", False),
        ("http://localhost:9", False),
        ("http://[::1]:9", False),
        ("http://mirror.lan", True),
        ("http://10.0.0.1", True),
        ("http://127.0.0.1.evil.example", True),
        ("http://localhost.evil.example", True),
        ("https://mirror.lan", False),
    ],
)
def test_plain_http_is_noticed_but_on_this_machine(endpoint: str, is_exposed: bool) -> None:
    assert HfHub(endpoint).is_exposed() is is_exposed


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("HF_HUB_CACHE", "/a/hub", "/a/hub"),
        ("HUGGINGFACE_HUB_CACHE", "/b/hub", "/b/hub"),
        ("HF_HOME", "/c", "/c/hub"),
        ("XDG_CACHE_HOME", "/d", "/d/huggingface/hub"),
    ],
)
def test_the_cache_lies_where_huggingface_hub_has_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(variable, value)
    assert default_cache_dir() == Path(expected)
