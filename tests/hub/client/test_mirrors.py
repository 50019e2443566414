"""Mirrors and proxies that answer otherwise than huggingface.co are used all the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub_server import Fault, HubServer, Request
from tests.synth import TINY, write_mixtral

REPO, NAME = "org/model", "m.F16.gguf"
TOKEN = "hf_reader"
BARE = dict.fromkeys(("X-Linked-Etag", "X-Linked-Size", "X-Repo-Commit", "ETag"))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_mixtral(tmp_path_factory.mktemp("models") / NAME, TINY, recipe="F16").read_bytes()


@pytest.fixture(params=[False, True], ids=["direct", "redirected"])
def upstream(request: pytest.FixtureRequest, data: bytes) -> Iterator[HubServer]:
    with HubServer(redirect=request.param) as server:
        server.add_repo(REPO, {NAME: data, "README.md": b"# m", "sub/n.F16.gguf": data})
        yield server
        assert server.errors == []


def use(run: Run, tmp_path: Path, data: bytes) -> None:
    """List, inspect, pick and download, as people do."""
    code, out, err = run("list", REPO, "--json", "--token", TOKEN)
    assert code == 0, err
    assert {file["filename"] for file in json.loads(out)["files"]} == {NAME, "sub/n.F16.gguf"}
    code, out, err = run("inspect", f"{REPO}/{NAME}", "--json", "--token", TOKEN)
    assert code == 0, err
    assert json.loads(out)["size_bytes"] == len(data)
    code, out, err = run("pick", REPO, "--json", "--no-probe", "--ram", "1GB", "--token", TOKEN)
    assert (code, len(json.loads(out)["files"])) == (0, 2), err
    folder = tmp_path / "m"
    names = (NAME, "README.md", "--local-dir", folder)
    code, _, err = run("download", REPO, *names, "-q", "--token", TOKEN)
    assert code == 0, err
    assert (folder / NAME).read_bytes() == data
    assert (folder / "README.md").read_bytes() == b"# m"


def with_token(requests: list[Request]) -> set[str]:
    return {request.origin for request in requests if "authorization" in request.headers}


WAYS = {
    "the length is not told": [Fault("HEAD", "*", headers={"Content-Length": None})],
    "nothing is told of files": [Fault("*", "*/resolve/*", headers=BARE)],
    "ranges without Content-Range": [
        Fault("GET", "*/resolve/*", headers={"Content-Range": None}),
        Fault("GET", "/cdn/*", headers={"Content-Range": None}),
    ],
    "no ranges": [
        Fault("GET", "*.gguf", ignore_range=True),
        Fault("GET", "/cdn/*", ignore_range=True),
    ],
    "moved within": [
        Fault("*", "/api/*", times=2, status=307, headers={"Location": "{target}"}),
        Fault("*", "/org/*", times=3, status=308, headers={"Location": "{target}"}),
    ],
    "small files from a cache": [
        Fault("*", "/org/*/README.md", status=307,
              headers={"Location": "/api/resolve-cache{target}?%2Forg%2Fx=&etag=%22abc%22"}),
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_mirror_is_used_as_it_is(
    upstream: HubServer, gguf_hub: Run, tmp_path: Path, data: bytes,
    monkeypatch: pytest.MonkeyPatch, way: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_ENDPOINT", upstream.endpoint)
    upstream.faults += [Fault(**vars(fault)) for fault in WAYS[way]]
    use(gguf_hub, tmp_path, data)
    assert with_token(upstream.requests) == {upstream.endpoint}


@pytest.mark.parametrize("path", ["*", "*/resolve/*"], ids=["everything", "files"])
def test_a_mirror_that_sends_elsewhere_has_the_token_alone(
    upstream: HubServer, gguf_hub: Run, tmp_path: Path, data: bytes,
    hub_server: HubServer, path: str,
) -> None:  # fmt: skip
    hub_server.repos = upstream.repos
    location = {"Location": upstream.endpoint + "{target}"}
    hub_server.faults.append(Fault("*", path, status=308, headers=location))
    use(gguf_hub, tmp_path, data)
    assert with_token(hub_server.requests) == {hub_server.endpoint}
    assert with_token(upstream.requests) == set()
    assert upstream.body_requests()


@pytest.mark.slow
@pytest.mark.parametrize("written", ["{}", " {}// ", "{}/"], ids=["bare", "spaces", "slash"])
def test_a_hub_may_lie_under_a_folder(
    gguf_hub: Run, tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    with HubServer(prefix="/artifactory/api/hf", page_size=1) as server:
        server.add_repo(REPO, {NAME: data, "README.md": b"# m", "sub/n.F16.gguf": data})
        address = server.endpoint.replace("//", "//user:p%40ss@")
        monkeypatch.setenv("HF_ENDPOINT", written.format(address))
        use(gguf_hub, tmp_path, data)
        told = {request.headers.get("authorization") for request in server.requests}
        assert told == {"Basic dXNlcjpwQHNz"}
        for link in (
            f"{server.endpoint}/{REPO}/blob/main/{NAME}?x=1",
            f"{address}/{REPO}/tree/main/sub",
        ):
            code, out, err = gguf_hub("inspect", link, "--json")
            assert (code, json.loads(out)["size_bytes"]) == (0, len(data)), err
        for command in ("list", "pick --no-probe --ram 1GB"):
            code, out, _ = gguf_hub(
                *command.split(), f"{server.endpoint}/{REPO}/tree/main/sub", "--json"
            )
            assert [file["filename"] for file in json.loads(out)["files"]] == ["sub/n.F16.gguf"]
        assert server.errors == []
