"""A hub's JSON is believed in nothing, and no answer is read for ever."""

from __future__ import annotations

import copy
import gzip
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import HubError, HubUnreachableError
from gguf_hub.hub.client import HfHub, RemoteFile, listing
from gguf_hub.hub.client.endpoint import Endpoint
from gguf_hub.hub.client.listing import (
    Page,
    content_id,
    next_url,
    read_commit,
    read_files,
    read_repo_ids,
    whole_number,
)
from gguf_hub.hub.client.transport import FormatError, TimeBudget, Transport
from tests.hub_server import Fault, HubServer

REPO = "org/model"
FILE: dict[str, Any] = {
    "type": "file", "path": "a.gguf", "size": 5, "oid": "0" * 40,
    "lfs": {"oid": "1" * 64, "size": 5, "pointerSize": 134},
}  # fmt: skip
SMALL: dict[str, Any] = {"type": "file", "path": "README.md", "size": 2, "oid": "2" * 40}
FOLDER: dict[str, Any] = {"type": "directory", "path": "sub", "size": 0, "oid": "3" * 40}
VALID: dict[str, Any] = {
    "info": {"id": REPO, "sha": "4" * 40, "siblings": [], "gated": False},
    "tree": [FILE, SMALL, FOLDER],
    "search": [{"id": REPO, "modelId": REPO}],
}


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {"a.gguf": b"12345", "b.gguf": b"1"})
    return hub_server


@pytest.fixture
def client(server: HubServer) -> HfHub:
    return HfHub(retry_waits_s=(), timeout_s=5)


def read(answers: dict[str, Any]) -> tuple[str, list[RemoteFile | None], list[str]]:
    tree, search = answers["tree"], answers["search"]
    if not isinstance(tree, list) or not isinstance(search, list):
        raise FormatError("pages are lists")
    return read_commit(answers["info"]), read_files(tree), read_repo_ids(search, 50)


def test_a_listing_is_read_as_it_stands() -> None:
    assert read(VALID) == (
        "4" * 40,
        [RemoteFile("a.gguf", 5, "1" * 64, "0" * 40), RemoteFile("README.md", 2, None, "2" * 40),
         None],
        [REPO],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("type", [None, 1, [], {}]),
        ("path", [None, 1, [], "x" * 5000]),
        ("size", [None, -1, -5, 2**63, 10**30, 1.5, "12", True, [1], float("nan"), float("inf")]),
        ("oid", [None, "", 5, "../../x", "A" * 40, "0" * 39, "0" * 40 + "\n", "0" * 41, [], True]),
        ("lfs", [1, "x", [], True, {}]),
        ("lfs.oid", [None, "", 0, "../../x", "A" * 64, "0" * 40, "0" * 63 + "\n", "0" * 65]),
    ],
)
def test_every_other_type_is_refused(key: str, values: list[object]) -> None:
    for value in values:
        entry = copy.deepcopy(FILE)
        if key == "lfs.oid":
            entry["lfs"]["oid"] = value
        else:
            entry[key] = value
        with pytest.raises(FormatError, match=r"expected|at most"):
            read_files([entry])
        entry = copy.deepcopy(FILE)
        del (entry["lfs"] if key == "lfs.oid" else entry)[key.rpartition(".")[2]]
        if key != "lfs":  # a small file has none
            with pytest.raises(FormatError, match="expected"):
                read_files([entry])


@pytest.mark.parametrize("sha", [None, 5, "", "main", "0" * 39, "0" * 40 + "/x", "../../x", []])
def test_a_commit_is_forty_digits(sha: object) -> None:
    with pytest.raises(FormatError, match="commit"):
        read_commit({"sha": sha})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


def spots(value: Any, trail: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    nested = [(key, each) for key, each in inner] if isinstance(value, (dict, list)) else []
    found = [(*trail, key) for key, _ in nested]
    return found + [
        spot
        for key, each in nested
        if isinstance(each, (dict, list))
        for spot in spots(each, (*trail, key))
    ]


@given(st.data())
def test_a_changed_listing_is_read_right_or_refused(data: st.DataObject) -> None:
    answers = copy.deepcopy(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, key = data.draw(st.sampled_from(spots(answers)))
        inner = answers
        for step in way:
            inner = inner[step]
        if data.draw(st.booleans()):
            inner[key] = data.draw(JSON)
        else:
            del inner[key]
        answers = copy.deepcopy(VALID) | answers  # whole answers stay; what they are may change
    try:
        commit, files, names = read(answers)
    except FormatError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 400
        return
    assert len(commit) == 40
    for file in filter(None, files):
        assert type(file.size_bytes) is int
        assert 0 <= file.size_bytes < 2**63
        assert isinstance(file.path, str)
        assert len(file.etag) in (40, 64)
        assert set(file.etag + file.blob_id) <= set("0123456789abcdef")
    assert all(isinstance(name, str) and name for name in names)


@given(st.text(max_size=80))
def test_headers_are_numbers_and_hashes_or_nothing(text: str) -> None:
    number, digest = whole_number(text), content_id(text)
    assert number is None or 0 <= number < 2**63
    assert digest is None or len(digest) in (40, 64)


@pytest.mark.parametrize("text", ["-5", "²", "1" * 20, "9" * 19, "", "1.5", "0x1", " 1", "1_0"])
def test_what_is_no_size_is_none(text: str) -> None:
    assert whole_number(text) is None


# --- through the wire

ODD_BODIES = {
    "html": b"<html>log in</html>",
    "empty": b"",
    "null": b"null",
    "text": b'"text"',
    "number": b"5",
    "object": b"{}",
    "nested": b"[" * 200_000,
    "long number": b"[" + b"9" * 10_000 + b"]",
    "not utf-8": b'["\xff\xfe"]',
    "utf-16": '["a"]'.encode("utf-16"),
    "cut": b'[{"type": "file", "pa',
    "a list of lists": b"[[], []]",
    "twice": json.dumps([FILE, FILE]).encode(),
}


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES)
@pytest.mark.parametrize("path", ["*/revision/*", "*/tree/*", "/api/models"])
def test_odd_answers_are_errors_of_ours(
    server: HubServer, client: HfHub, body: bytes, path: str
) -> None:
    server.faults.append(Fault("GET", path, body=body))
    with pytest.raises(HubError, match="does not answer as a Hugging Face hub does"):
        if path == "/api/models":
            client.find_repos("model")
        else:
            client.list_files(REPO)


@pytest.mark.parametrize(
    ("encoding", "body", "is_read"),
    [
        ("gzip", gzip.compress(json.dumps([FILE]).encode()), True),
        ("x-gzip", gzip.compress(json.dumps([FILE]).encode()), True),
        ("identity", json.dumps([FILE]).encode(), True),
        ("gzip", gzip.compress(b'["' + b"a" * 100_000_000 + b'"]', 9), False),
        ("gzip", gzip.compress(json.dumps([FILE]).encode())[:-40], False),
        ("gzip", b"not gzip", False),
        ("gzip, gzip", gzip.compress(gzip.compress(b"[]")), False),
        ("br", b"[]", False),
    ],
    ids=["gzip", "x-gzip", "identity", "bomb", "cut", "not gzip", "twice", "brotli"],
)
def test_packed_answers(
    server: HubServer, client: HfHub, encoding: str, body: bytes, is_read: bool
) -> None:
    headers = {"Content-Encoding": encoding}
    server.faults.append(Fault("GET", "*/tree/*", body=body, headers=headers))
    if is_read:
        assert [file.path for file in client.list_files(REPO).files] == ["a.gguf"]
        return
    with pytest.raises(HubError, match="does not answer as"):
        client.list_files(REPO)


# --- answers without an end


def test_a_page_without_end_is_left(server: HubServer, client: HfHub) -> None:
    server.faults.append(Fault("GET", "*/tree/*", endless=b'["a", '))
    with pytest.raises(HubError, match=r"longer than 33.6 MB|longer than 32"):
        client.list_files(REPO)
    assert server.requests[-1].sent_bytes < 200_000_000


@pytest.mark.parametrize("limit", ["MAX_PAGES", "MAX_ENTRIES"])
def test_a_listing_without_end_is_left(
    server: HubServer, client: HfHub, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, limit, 8)
    server.page_size = 1
    row = dict(FILE)
    server.faults.append(
        Fault("GET", "*/tree/*", body=json.dumps([row, row]).encode(), goes_on=True)
    )
    with pytest.raises(HubError, match=f"more than 8 {limit[4:].lower()}"):
        client.list_files(REPO)
    assert len(server.requests) <= 10


def test_a_listing_that_comes_back_is_left(server: HubServer, client: HfHub) -> None:
    link = {"Link": '<?cursor=1>; rel="next"'}
    server.faults.append(Fault("GET", "*/tree/*", headers=link))
    with pytest.raises(HubError, match="circles"):
        client.list_files(REPO)
    assert len(server.requests) == 3


def test_an_answer_that_takes_too_long_is_left(server: HubServer) -> None:
    transport, budget = Transport(Endpoint.parse(server.endpoint), None, 5), TimeBudget(0.1)
    server.faults.append(Fault("GET", "/api/*", body=b" " * 10_000, bytes_per_s=1000))
    url = f"{server.endpoint}/api/models/{REPO}"
    with (
        pytest.raises(FormatError, match=r"took more than 0\.1 s"),
        budget.count_time(),
        transport.open("GET", url) as response,
    ):
        transport.read_json(response, budget)


def test_only_time_that_a_hub_takes_is_counted() -> None:
    budget = TimeBudget(0.05)
    with budget.count_time():
        budget.check()
    time.sleep(0.1)  # as a busy hub has asked for
    with budget.count_time():
        budget.check()
        time.sleep(0.1)
        with pytest.raises(FormatError, match="took more"):
            budget.check()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("55", 55), ("0", 0), ("9" * 30, 1e9), ("9" * 5000, 1e9)]
    + [(text, 0) for text in ("-5", "nan", "inf", "²", "1.5", "Wed, 99 Foo", "")],
)
@pytest.mark.parametrize("header", ["Retry-After", "RateLimit"])
def test_a_busy_hub_asks_for_seconds_or_for_nothing(
    server: HubServer, client: HfHub, header: str, text: str, seconds: float
) -> None:
    value = text if header == "Retry-After" else f'"api";r=0;t={text}'
    headers = {header: value.encode().decode("latin-1")}
    server.faults.append(Fault("GET", "/api/*", status=429, headers=headers))
    with pytest.raises(HubUnreachableError, match="429") as caught:
        client.list_files(REPO)
    assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("", None),
        ('<x>; rel="prev"', None),
        ("<x", None),
        ('<?c=2>; rel="next"', "https://hub.example/api/tree?c=2"),
        ("<?c=2>; rel=next", "https://hub.example/api/tree?c=2"),
        ("<?c=2>;title=a; REL='Next' ; a=b", "https://hub.example/api/tree?c=2"),
        ('<?a>; rel="prev", <?c=2>; rel="next"', "https://hub.example/api/tree?c=2"),
        ('<?a>; rel="nextish"', None),
    ],
)
def test_links_to_the_next_page(link: str, expected: str | None) -> None:
    page = Page("https://hub.example/api/tree?c=1", [], link)
    assert next_url(page, Endpoint("https://hub.example")) == expected


@pytest.mark.parametrize(("year", "least"), [(2199, 1e9), (2001, 0.0)], ids=["ahead", "past"])
def test_a_busy_hub_may_name_a_date(
    server: HubServer, client: HfHub, year: int, least: float
) -> None:
    date = {"Retry-After": f"Tue, 01 Jan {year} 00:00:00 GMT"}
    server.faults.append(Fault("GET", "/api/*", status=503, headers=date))
    with pytest.raises(HubUnreachableError, match="503") as caught:
        client.list_files(REPO)
    assert caught.value.retry_after_s == least
