"""Addresses and their answers, as the hub's clients read them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.hub.mirror import RepositoryIndex
from gguf_hub.hub.mirror.routes import FileSlice, Request, Response, Routes
from gguf_hub.hub.store import Store
from tests.hub.mirror.files import COMMIT, REPO, add

DATA = bytes(range(256))
FILES = {"m.Q4_0.gguf": DATA, "sub/dir/m.Q8_0.gguf": DATA[::-1], "sub/x.txt": b"hello\n"}
ETAG = f'"{hashlib.sha256(DATA).hexdigest()}"'
FILE = f"/{REPO}/resolve/main/m.Q4_0.gguf"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "record")
    add(store, tmp_path / "files", FILES)
    add(store, tmp_path / "files", {"old.gguf": b"old"}, repo_id="oldest")
    (tmp_path / "secret").write_bytes(b"secret")
    return store


@pytest.fixture
def routes(store: Store) -> Routes:
    return Routes(RepositoryIndex(store))


def ask(
    routes: Routes, target: str, method: str = "GET", body: bytes = b"", **headers: str
) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return routes.answer(Request(method, target, named, body))


def get_json(routes: Routes, target: str, **kwargs: Any) -> Any:
    response = ask(routes, target, **kwargs)
    assert response.status == 200, response
    assert isinstance(response.body, bytes)
    assert response.n_bytes == len(response.body)
    return json.loads(response.body)


def content(response: Response) -> bytes:
    if isinstance(response.body, bytes):
        return response.body
    with response.body.file as file:
        file.seek(response.body.start)
        data = file.read(response.body.n_bytes)
    assert len(data) == response.n_bytes
    return data


# --- listings


def test_model_info_names_the_commit_and_the_files(routes: Routes) -> None:
    info = get_json(routes, f"/api/models/{REPO}")
    assert (info["id"], len(info["sha"])) == (REPO, 40)
    assert [sibling["rfilename"] for sibling in info["siblings"]] == list(FILES)
    assert get_json(routes, f"/api/models/{REPO}/revision/main") == info
    assert get_json(routes, f"/api/models/{REPO}/revision/{info['sha']}") == info
    sibling = get_json(routes, f"/api/models/{REPO}?blobs=true")["siblings"][0]
    assert sibling["size"] == sibling["lfs"]["size"] == len(DATA)
    assert f'"{sibling["lfs"]["sha256"]}"' == ETAG


def test_the_git_ids_are_those_of_lfs_pointers(routes: Routes) -> None:
    """Git's id of a pointer made by git-lfs 3.4 for the 6 bytes ``hello\\n``."""
    entry = get_json(routes, f"/api/models/{REPO}/tree/main/sub")[1]
    pointer = (
        b"version https://git-lfs.github.com/spec/v1\n"
        b"oid sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03\nsize 6\n"
    )
    blob = b"blob %d\0%b" % (len(pointer), pointer)
    assert entry["oid"] == hashlib.sha1(blob).hexdigest()
    assert entry["lfs"]["pointerSize"] == len(pointer)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tree/main", ["m.Q4_0.gguf", "sub/"]),
        ("tree/main?recursive=false", ["m.Q4_0.gguf", "sub/"]),
        ("tree/main/sub", ["sub/dir/", "sub/x.txt"]),
        (
            "tree/main?recursive=true&expand=false",
            ["m.Q4_0.gguf", "sub/", "sub/dir/", "sub/dir/m.Q8_0.gguf", "sub/x.txt"],
        ),
        ("tree/main/sub%2Fdir/?recursive=1", ["sub/dir/m.Q8_0.gguf"]),
    ],
)
def test_trees(routes: Routes, address: str, expected: list[str]) -> None:
    entries = get_json(routes, f"/api/models/{REPO}/{address}")
    found = [e["path"] + "/" * (e["type"] == "directory") for e in entries]
    assert found == expected
    assert all("xetHash" not in entry for entry in entries)


def test_the_tree_of_a_commit_of_the_hub_is_refused(routes: Routes) -> None:
    """Clients would keep it as the whole listing of that commit."""
    commit = get_json(routes, f"/api/models/{REPO}/revision/{COMMIT}")["sha"]
    assert commit != COMMIT
    assert get_json(routes, f"/api/models/{REPO}/tree/{commit}?recursive=1") != []
    response = ask(routes, f"/api/models/{REPO}/tree/{COMMIT}?recursive=1")
    assert (response.status, response.headers["X-Error-Code"]) == (404, "RevisionNotFound")


def test_refs_have_the_branch(routes: Routes) -> None:
    commit = get_json(routes, f"/api/models/{REPO}")["sha"]
    (branch,) = get_json(routes, f"/api/models/{REPO}/refs")["branches"]
    assert branch == {"name": "main", "ref": "refs/heads/main", "targetCommit": commit}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"paths=sub&paths=m.Q4_0.gguf&paths=no.gguf&expand=False", "x-www-form-urlencoded"),
        (b'{"paths": ["sub", "m.Q4_0.gguf", "no.gguf", 7]}', "json"),
    ],
)
def test_paths_info(routes: Routes, body: bytes, kind: str) -> None:
    address = f"/api/models/{REPO}/paths-info/main"
    found = get_json(routes, address, method="POST", body=body, content_type=f"application/{kind}")
    assert [entry["path"] for entry in found] == ["sub", "m.Q4_0.gguf"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"paths": 7}', b"[" * 100_000, b"\xff"])
def test_paths_info_of_nonsense_is_refused(routes: Routes, body: bytes) -> None:
    address = f"/api/models/{REPO}/paths-info/main"
    response = ask(routes, address, "POST", body, content_type="application/json")
    assert response.status == 400


def test_the_list_of_models_can_be_searched(routes: Routes) -> None:
    def ids(query: str) -> list[str]:
        return [info["id"] for info in get_json(routes, f"/api/models{query}")]

    assert ids("") == ["oldest", REPO]
    assert ids("?search=MODEL") == [REPO]
    assert ids("?author=org") == [REPO]
    assert ids("?author=or") == []


def test_a_repository_without_an_organisation(routes: Routes) -> None:
    assert get_json(routes, "/api/models/oldest/tree/main")[0]["path"] == "old.gguf"
    assert content(ask(routes, "/oldest/resolve/main/old.gguf")) == b"old"


# --- files


def test_a_file_comes_with_what_clients_need_to_know(routes: Routes) -> None:
    commit = get_json(routes, f"/api/models/{REPO}")["sha"]
    head, whole = ask(routes, FILE, "HEAD"), ask(routes, FILE)
    assert head.headers == whole.headers
    assert dict(head.headers) | {"Content-Type": ""} == {
        "Accept-Ranges": "bytes", "ETag": ETAG, "X-Repo-Commit": commit, "Content-Type": "",
    }  # fmt: skip
    assert (head.status, head.n_bytes, head.body) == (200, len(DATA), b"")
    assert content(whole) == DATA


def test_a_file_under_a_commit_of_the_hub_keeps_that_commit(routes: Routes) -> None:
    response = ask(routes, FILE.replace("main", COMMIT))
    assert response.headers["X-Repo-Commit"] == COMMIT
    assert content(response) == DATA


@pytest.mark.parametrize(
    ("headers", "status", "expected"),
    [
        ({"range": "bytes=3-9"}, 206, DATA[3:10]),
        ({"range": "bytes=250-"}, 206, DATA[250:]),
        ({"range": "bytes=-4"}, 206, DATA[-4:]),
        ({"range": "bytes=3-9", "if_range": ETAG}, 206, DATA[3:10]),
        ({"range": "bytes=3-9", "if_range": '"0"'}, 200, DATA),
        ({"range": "bytes=3-9,20-30"}, 200, DATA),
        ({"range": "bytes=256-"}, 416, b""),
    ],
)
def test_ranges(routes: Routes, headers: dict[str, str], status: int, expected: bytes) -> None:
    response = ask(routes, FILE, **headers)
    assert (response.status, content(response)) == (status, expected)
    assert ("Content-Range" in response.headers) is (status != 200)


def test_a_file_that_changes_while_it_is_asked_for_is_not_sent(
    routes: Routes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf_hub.hub.store.StoredFile.is_unchanged", lambda self: True)
    (tmp_path / "files" / "m.Q4_0.gguf").write_bytes(b"other")
    assert ask(routes, FILE).status == 404


# --- what is refused

HOSTILE = [
    "/../secret",
    "/../../../../etc/passwd",
    f"/{REPO}/resolve/main/../../secret",
    f"/{REPO}/resolve/main/..%2f..%2fsecret",
    f"/{REPO}/resolve/main/%2e%2e/%2e%2e/secret",
    f"/{REPO}/resolve/main/%252e%252e/secret",
    f"/{REPO}/resolve/main/..%5c..%5csecret",
    f"/{REPO}/resolve/main//etc/passwd",
    f"/{REPO}/resolve/main/%2Fetc%2Fpasswd",
    f"/{REPO}/resolve/main/m.Q4_0.gguf%00",
    f"/{REPO}/resolve/main/m.Q4_0.gguf\0.txt",
    f"/{REPO}/resolve/main/%00",
    f"/{REPO}/resolve/main/./m.Q4_0.gguf",
    f"/{REPO}/resolve/main/%ff",
    f"/{REPO}/resolve/main/",
    f"/{REPO}/resolve/main",
    f"/{REPO}/resolve/..%2f..%2fmain/m.Q4_0.gguf",
    f"/org/../{REPO}/resolve/main/m.Q4_0.gguf",
    f"/api/models/{REPO}/tree/main/..",
    f"/api/models/{REPO}/tree/main/%2Fetc",
    f"/api/models/{REPO}/tree/%00",
    f"/api/models/{REPO}/revision/refs%2Fpr%2F1",
    "/api/models/..",
    "/api/models/%2e%2e/%2e%2e",
    "//etc/passwd",
    "http://127.0.0.1/etc/passwd",
    "/etc/passwd",
    "/",
    "*",
    "",
    "/%0d%0aX-Injected:%201",
]


@pytest.mark.parametrize("target", HOSTILE, ids=ascii)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_paths_that_lead_anywhere_else_are_404(routes: Routes, target: str, method: str) -> None:
    response = ask(routes, target, method)
    assert response.status == 404
    assert all("\n" not in value for value in response.headers.values())
    assert b"secret" not in content(response)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/api/models/no/repo", "RepoNotFound"),
        ("/no/repo/resolve/main/a.gguf", "RepoNotFound"),
        (f"/api/models/{REPO}/revision/v2", "RevisionNotFound"),
        (f"/{REPO}/resolve/v2/m.Q4_0.gguf", "RevisionNotFound"),
        (f"/{REPO}/resolve/main/no.gguf", "EntryNotFound"),
        (f"/api/models/{REPO}/tree/main/no", "EntryNotFound"),
        ("/api/agent-harnesses", None),
        (f"/api/models/{REPO}/xet-read-token/main", None),
        (f"/api/datasets/{REPO}", None),
    ],
)
def test_what_is_not_there_is_named_as_the_hub_names_it(
    routes: Routes, target: str, code: str | None
) -> None:
    response = ask(routes, target)
    assert (response.status, response.headers.get("X-Error-Code")) == (404, code)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", FILE),
        ("DELETE", f"/api/models/{REPO}"),
        ("POST", FILE),
        ("POST", f"/api/models/{REPO}/commit/main"),
        ("GET", f"/api/models/{REPO}/paths-info/main"),
    ],
)
def test_nothing_can_be_written(routes: Routes, method: str, target: str) -> None:
    response = ask(routes, target, method)
    assert response.status == 405
    assert "Allow" in response.headers


@pytest.mark.parametrize("target", ["/", FILE, "/api/models", f"/api/models/{REPO}"])
def test_with_a_token_nothing_is_told_without_it(store: Store, target: str) -> None:
    routes = Routes(RepositoryIndex(store), "right")
    answers = {ask(routes, target, authorization=given).status
               for given in ("", "Bearer", "Bearer ", "Bearer wrong", "right", "Bearer rightx",
                             "Basic cmlnaHQ=", "Bearer r\xefght")}  # fmt: skip
    assert answers == {401}
    assert ask(routes, target).status == 401
    response = ask(routes, target, authorization="Bearer right")
    assert response.status == (404 if target == "/" else 200)
    content(response)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:80", 200),
        ("192.168.1.4", 200), ("evil.example:80", 421), ("127.0.0.1.evil.example", 421),
        ("", 421), ("[evil]", 421),
    ],
)  # fmt: skip
def test_a_web_page_cannot_read_through_a_name_of_its_own(
    routes: Routes, store: Store, host: str, status: int
) -> None:
    response = ask(routes, "/api/models", host=host)
    assert response.status == status
    with_token = ask(
        Routes(RepositoryIndex(store), "t"),
        "/api/models",
        host="nas.local",
        authorization="Bearer t",
    )
    assert with_token.status == 200


def test_slices_are_open_files_for_the_sender_to_close(routes: Routes) -> None:
    response = ask(routes, FILE)
    assert isinstance(response.body, FileSlice)
    assert not response.body.file.closed
    response.body.file.close()
