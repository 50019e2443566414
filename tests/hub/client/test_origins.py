"""Credentials go to the hub's own origin, whatever the hub says, and are never told."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import GgufHubError, HubError, UsageError
from gguf_hub.hub.client import HfHub, RepoListing
from gguf_hub.hub.client.endpoint import Endpoint, origin_of, show_origin
from tests.hub_server import Fault, HubServer, sha256

REPO, NAME, DATA = "org/model", "m.gguf", b"content"
TOKEN = "hf_member"


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: DATA, "n.gguf": b"n"})
    return hub_server


@pytest.fixture
def client(server: HubServer) -> HfHub:
    return HfHub(token=TOKEN, retry_waits_s=(), timeout_s=5)


def foreign(server: HubServer) -> list[str | None]:
    """The credentials of all requests that came to the other origin."""
    return [r.headers.get("authorization") for r in server.requests if r.origin == server.cdn]


def listed(client: HfHub) -> RepoListing:
    return client.list_files(REPO)


# --- listings that go on elsewhere


@pytest.mark.parametrize(
    "make",
    [
        lambda server: server.cdn,
        lambda server: server.endpoint.replace("127.0.0.1", "localhost"),
        lambda server: server.endpoint.replace("http:", "https:"),
        lambda server: server.endpoint.replace("://", "://user:secret@127.0.0.2:1/@"),
        lambda server: server.endpoint + "@127.0.0.2:1",
        lambda server: "file:",
    ],
    ids=["port", "host", "scheme", "user", "user that looks like the hub", "no http"],
)
def test_a_next_page_of_another_origin_is_refused(
    server: HubServer, client: HfHub, make: object
) -> None:
    target = f"{make(server)}/next?cursor=1"
    server.faults.append(Fault("GET", "*/tree/*", headers={"Link": f'<{target}>; rel="next"'}))
    with pytest.raises(HubError, match="continues at") as caught:
        listed(client)
    assert show_origin(target) in caught.value.message
    told = f"{caught.value.message} {caught.value.hint}"
    assert [word for word in (TOKEN, "secret", "cursor") if word in told] == []
    assert foreign(server) == []


@pytest.mark.parametrize("link", ["?cursor=1", "/api/models/org/model/tree/{commit}?cursor=1",
                                  "https://huggingface.co/api/models/org/model/tree/{commit}?"
                                  "cursor=1"])  # fmt: skip
def test_a_next_page_of_the_hub_is_read(server: HubServer, client: HfHub, link: str) -> None:
    """Also one that a mirror passes on as huggingface.co has written it."""
    target = link.replace("{commit}", server.repos[REPO].refs["main"])
    server.page_size = 1
    headers = {"Link": f'<https://x.example/>; rel="prev", <{target}>; rel="next"'}
    server.faults.append(Fault("GET", "*/tree/*", times=1, headers=headers))
    assert {file.path for file in listed(client).files} == {NAME, "n.gguf"}
    assert [r.headers["authorization"] for r in server.requests] == [f"Bearer {TOKEN}"] * 3


# --- redirects


@pytest.mark.parametrize("kind", ["info", "tree", "search", "head", "range", "listed range"])
def test_no_request_takes_credentials_to_another_origin(
    server: HubServer, client: HfHub, kind: str
) -> None:
    listing = listed(client)
    metadata = client.file_metadata(REPO, NAME)
    server.requests.clear()
    path = {"info": "/api/*/revision/*", "tree": "/api/*/tree/*", "search": "/api/models"}
    aim = Fault("*", path.get(kind, "*/resolve/*"), server.endpoint, status=302)
    query = f"?sig={sha256(DATA)[:8]}"
    where = f"/cdn/{sha256(DATA)}" if kind not in path else f"/api/models/{REPO}"
    where = "/api/models" if kind == "search" else where
    if kind == "tree":
        where += f"/tree/{listing.commit}"
    server.faults.append(
        Fault(**vars(aim) | {"headers": {"Location": f"{server.cdn}{where}{query}"}})
    )
    if kind in ("info", "tree"):
        listed(client)
    elif kind == "search":
        client.find_repos("model")
    elif kind == "head":
        assert client.file_metadata(REPO, NAME).url.startswith(server.cdn)
    else:
        metadata = client.listed_metadata(listing, listing.files[0]) if kind[0] == "l" else metadata
        assert client.read_range(metadata, 0, 7) == DATA
    assert set(foreign(server)) == (set() if kind == "head" else {None})
    own = [r.headers.get("authorization") for r in server.requests if r.origin == server.endpoint]
    assert set(own) == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://x/", "javascript:1", "data:,x", "http://[::1", "http://h:99999/",
     "http://h\\@evil/", "gopher://x"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_redirect_to_no_web_address_is_refused(
    server: HubServer, client: HfHub, location: str, method: str
) -> None:
    metadata = client.file_metadata(REPO, NAME)
    server.faults.append(Fault(method, "*/resolve/*", status=302, headers={"Location": location}))
    with pytest.raises(HubError, match="expected an http or https address") as caught:
        if method == "HEAD":
            client.file_metadata(REPO, NAME)
        else:
            client.read_range(metadata, 0, 1)
    assert type(caught.value) is HubError  # another try would not help


def test_redirects_of_the_api_end(server: HubServer, client: HfHub) -> None:
    headers = {"Location": f"{server.endpoint}/api/models/{REPO}/revision/main"}
    server.faults.append(Fault("GET", "*/revision/*", status=302, headers=headers))
    with pytest.raises(HubError, match="redirects in circles"):
        listed(client)
    assert len(server.requests) < 50


def test_the_chunk_store_is_asked_for_leave_at_the_hub_alone(
    server: HubServer, client: HfHub, tmp_path: Path
) -> None:
    route = {"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": f"{server.cdn}/leave"}
    server.faults.append(Fault("HEAD", "*/resolve/*", headers=route))
    with pytest.raises(HubError, match="another origin") as caught:
        client.fetch_xet(REPO, NAME, "main", tmp_path / "part")
    assert server.cdn in caught.value.message
    assert foreign(server) == []


def test_a_gated_store_that_fails_is_an_error_of_ours(
    server: HubServer, client: HfHub, tmp_path: Path
) -> None:
    route = {"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": f"{server.endpoint}/leave"}
    server.faults.append(Fault("HEAD", "*/resolve/*", headers=route))
    with pytest.raises(HubError, match="404"):
        client.fetch_xet(REPO, NAME, "main", tmp_path / "part")


# --- what an origin is


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        ("https://hub.example/a?b", True),
        ("https://HUB.example:443/", True),
        ("https://user:pw@hub.example/", True),
        ("http://hub.example/", False),
        ("https://hub.example:8443/", False),
        ("https://hub.example.evil/", False),
        ("https://evil/@hub.example", False),
        ("https://hub.example@evil/", False),
        ("https://evil\\@hub.example/", False),
        ("https://hub.example\t.evil/", False),
        ("//hub.example/", False),
        ("/a", False),
        ("", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, is_own: bool) -> None:
    assert Endpoint("https://hub.example").owns(url) is is_own


ODD = st.text(alphabet="ab.:/@\\#?%[]-_ \t\n0123456789", max_size=20)


@given(st.tuples(st.sampled_from(["http://", "https://", "//", ""]), ODD,
                 st.sampled_from(["", "a", "a:80", "@a", "\\@a", "a#@b"]), ODD))  # fmt: skip
def test_what_is_taken_for_the_hub_is_what_the_client_asks(parts: tuple[str, ...]) -> None:
    """However a URL is written: where it passes for the hub's, the client goes to the hub."""
    text = "".join(parts)
    if not Endpoint("http://a").owns(text):
        return
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return
    assert (url.scheme, url.host, url.port or 80) == ("http", "a", 80)


@given(st.text(max_size=60))
def test_any_text_has_an_origin_or_none(text: str) -> None:
    assert origin_of(text) is None or re.match(r"https?:", text, re.IGNORECASE)
    assert len(show_origin(text)) < 400


# --- credentials in the address


def test_a_password_in_the_address_is_used_and_never_shown(server: HubServer) -> None:
    server.redirect = True
    secret = "p%40ss"
    client = HfHub(server.endpoint.replace("://", f"://user:{secret}@"), retry_waits_s=())
    assert client.read_range(client.file_metadata(REPO, NAME), 0, 7) == DATA
    sent = {r.headers.get("authorization") for r in server.requests if r.origin != server.cdn}
    assert sent == {"Basic dXNlcjpwQHNz"}
    assert set(foreign(server)) == {None}
    assert client.endpoint == server.endpoint
    shown = repr(Endpoint.parse(f"https://user:{secret}@hub.example/"))
    assert [word for word in (secret, "dXNlcjpwQHNz", "user") if word in shown] == []
    server.close()
    with pytest.raises(HubError, match="cannot reach") as caught:
        listed(client)
    assert secret not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "text",
    ["hub.example", "ftp://hub", "http://", "http://u:secret@", "http://[::1", "http://h:99999",
     "https://u:secret@h/?a=1", "https://h/#x", "https://h ost/", " "],
)  # fmt: skip
def test_what_is_no_address_of_a_hub_is_refused_unseen(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", text)
    with pytest.raises(UsageError, match="HF_ENDPOINT is not the address of a hub") as caught:
        HfHub()
    assert "secret" not in caught.value.message


def test_spaces_and_line_ends_around_an_address_do_no_harm(server: HubServer) -> None:
    assert HfHub(f" {server.endpoint}/\r\n").list_files(REPO).files


# --- a hub that says the token back


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/api/*", status=400, headers={"X-Error-Message": "you sent {authorization}"}),
        Fault("GET", "/api/*", headers={"Bad Header {authorization}": "x"}),
        Fault("GET", "/api/*", body=b"you sent {authorization}"),
        Fault("GET", "/api/*", body=b'{"sha": "{authorization}"}'),
        Fault("GET", "/api/*", headers={"Content-Encoding": "{authorization}"}),
        Fault("GET", "/api/*", status=302, headers={"Location": "{authorization}:x"}),
        Fault("GET", "/api/*", status=302, headers={"Location": "http://{authorization}/"}),
        Fault("GET", "*/tree/*", headers={"Link": f'<http://{TOKEN}.localhost/>; rel="next"'}),
    ],
    ids=["message", "broken header", "text", "commit", "encoding", "scheme", "host", "next"],
)
def test_a_token_that_a_hub_says_back_is_not_told(
    server: HubServer, client: HfHub, fault: Fault
) -> None:
    server.faults.append(Fault(**vars(fault)))
    with pytest.raises(GgufHubError) as caught:
        listed(client)
    assert any(TOKEN in r.headers["authorization"] for r in server.requests)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_a_token_in_a_range_is_not_told(server: HubServer, client: HfHub) -> None:
    metadata = client.file_metadata(REPO, NAME)
    server.faults.append(Fault("GET", "*", headers={"Content-Range": "bytes {authorization}"}))
    with pytest.raises(HubError, match=r"got `bytes Bearer \[secret\]`"):
        client.read_range(metadata, 0, 7)
