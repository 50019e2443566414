"""``Llama.from_pretrained`` gets what ``gguf-hub download`` gets, revision and folder included."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.api.pretrained import PretrainedError, _match_patterns, fetch_pretrained
from gguf_hub.errors import GgufHubError
from gguf_hub.hub.client import RemoteFile, RepoListing
from gguf_hub.hub.download.plan import FileSelector
from tests.hub_server import HubServer
from tests.noise import noise

REPO = "org/model"
NAME = "m.Q4_0.gguf"
MAIN, V0 = noise(3000, 1), noise(3000, 2)
SHARDS = {f"m-BF16-0000{i}-of-00003.gguf": bytes([i]) * 50 for i in (1, 2, 3)}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: V0}, revision="v0")
    hub_server.add_repo(REPO, {NAME: MAIN, **SHARDS})
    return hub_server


@pytest.fixture(params=["online", "offline", "down"])
def lose_hub(
    request: pytest.FixtureRequest, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], str]:
    def lose() -> str:
        if request.param == "offline":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        elif request.param == "down":
            server.close()
        return request.param

    return lose


def flags(folder: Path | None, revision: str | None) -> list[str]:
    chosen = ["--local-dir", str(folder)] if folder else []
    return chosen + (["--revision", revision] if revision else [])


@pytest.mark.parametrize("revision", [None, "v0"])
@pytest.mark.parametrize("with_folder", [False, True], ids=["cache", "local_dir"])
def test_twelve_cases_as_download_behaves(
    server: HubServer,
    gguf_hub: Run,
    tmp_path: Path,
    lose_hub: Callable[[], str],
    revision: str | None,
    with_folder: bool,
) -> None:
    """Both commits are in the cache; the folder is filled from there, or from the hub."""
    for known in (None, "v0"):
        assert gguf_hub("download", REPO, NAME, "-q", *flags(None, known))[0] == 0
    lose_hub()
    folders = [tmp_path / name if with_folder else None for name in ("a", "b")]
    code, out, err = gguf_hub("download", REPO, NAME, "-q", *flags(folders[0], revision))
    assert code == 0, err
    path = fetch_pretrained(REPO, [NAME], local_dir=folders[1], revision=revision)
    assert path.read_bytes() == Path(out.strip()).read_bytes() == (V0 if revision else MAIN)
    if with_folder:
        assert path == tmp_path / "b" / NAME
    else:
        assert path == Path(out.strip())


@pytest.mark.parametrize("revision", ["nope", "0" * 40])
@pytest.mark.parametrize("with_folder", [False, True], ids=["cache", "local_dir"])
def test_an_unknown_revision_is_refused_as_download_refuses_it(
    server: HubServer,
    gguf_hub: Run,
    tmp_path: Path,
    lose_hub: Callable[[], str],
    revision: str,
    with_folder: bool,
) -> None:
    fetch_pretrained(REPO, [NAME])
    lose_hub()
    folder = tmp_path / "folder" if with_folder else None
    code, _, err = gguf_hub("download", REPO, NAME, "-q", *flags(folder, revision))
    assert code == 1
    with pytest.raises(GgufHubError) as caught:
        fetch_pretrained(REPO, [NAME], local_dir=folder, revision=revision)
    assert f"error: {caught.value.message}\n" in err
    assert folder is None or not list(folder.rglob("*.gguf"))


@pytest.mark.parametrize("pattern", ["*BF16*", "*00002-of*", "m-BF16-00003-of-00003.gguf"])
def test_a_pattern_for_a_shard_gets_the_set(
    server: HubServer, tmp_path: Path, lose_hub: Callable[[], str], pattern: str
) -> None:
    fetch_pretrained(REPO, [pattern])
    lose_hub()
    path = fetch_pretrained(REPO, [pattern], local_dir=tmp_path)
    assert path == tmp_path / "m-BF16-00001-of-00003.gguf"
    assert {name: (tmp_path / name).read_bytes() for name in SHARDS} == SHARDS


def test_without_the_hub_it_says_what_it_uses(
    server: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    path = fetch_pretrained(REPO, [NAME])
    server.close()
    assert fetch_pretrained(REPO, [NAME]) == path
    assert "as this machine knows it" in caplog.text


def test_more_files_come_too(server: HubServer, tmp_path: Path) -> None:
    fetch_pretrained(REPO, [NAME, "*BF16*"], local_dir=tmp_path)
    assert {path.name for path in tmp_path.glob("*.gguf")} == {NAME, *SHARDS}
    with pytest.raises(PretrainedError, match="No file found"):
        fetch_pretrained(REPO, [NAME, "*Q9*"])


def test_a_pattern_among_very_many_files_takes_no_quadratic_time() -> None:
    files = tuple(RemoteFile(f"f{i:05}.Q8_0.gguf", 1, None, f"{i:040x}") for i in range(20_000))
    listing = RepoListing(REPO, "main", "0" * 40, files)
    began = time.process_time()
    with pytest.raises(PretrainedError, match="Multiple files found"):
        _match_patterns(listing, FileSelector(include=("*.gguf",)))
    assert time.process_time() - began < 10
