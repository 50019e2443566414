"""What ``gguf-hub edit`` makes of a download is the user's work: told of, used, never replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.hub.store import Store
from gguf_hub.paths import default_cache_dir
from tests.hub_server import HubServer
from tests.synth import TINY, write_mixtral

REPO, NAME = "org/model-GGUF", "m.Q4_0.gguf"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(hub_server: HubServer, tmp_path: Path) -> HubServer:
    path = write_mixtral(tmp_path / "whole.gguf", TINY)
    hub_server.add_repo(REPO, {NAME: path.read_bytes()})
    return hub_server


@pytest.fixture(params=["cache without links", "local-dir"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    return [] if "cache" in request.param else ["--local-dir", str(tmp_path / "models")]


@pytest.fixture(params=["ours", "theirs"])
def path(
    request: pytest.FixtureRequest, server: HubServer, place: list[str], gguf_hub: Run
) -> Path:
    """A download of this program, or of huggingface_hub, which nobody has recorded."""
    if request.param == "ours":
        path = Path(gguf_hub("download", REPO, NAME, *place, "-q")[1].strip())
    else:
        options = {"local_dir": place[1]} if place else {"cache_dir": default_cache_dir()}
        path = Path(hf_hub_download(REPO, NAME, endpoint=server.endpoint, **options))
    if path.is_symlink():  # a link of the cache is not edited: others may use the blob
        assert gguf_hub("edit", path, "--set", "general.name=mine")[0] == 1
        path.resolve().replace(path)
    return path


def name_of(path: Path) -> str:
    return str(GgufFile.open(path).fields["general.name"].value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["syntactic", "of another length"])
def test_an_edited_download_is_never_replaced_unasked(
    path: Path, place: list[str], gguf_hub: Run, name: str
) -> None:
    original = path.read_bytes()
    assert gguf_hub("edit", path, "--set", f"general.name={name}")[0] == 0
    code, _, err = gguf_hub("download", REPO, NAME, *place)
    assert code == 1
    assert "was changed by `gguf-hub edit` on 20" in err
    assert "is damaged" not in err
    assert "--force replaces it" in err
    assert name_of(path) == name
    if "syntactic" in name:  # the last length: the edit back gives the hub's bytes again
        gguf_hub("edit", path, "--set", "general.name=synthetic")
        assert gguf_hub("download", REPO, NAME, *place)[0] == 0
        assert Store().entries()[0].edited_at is None
        gguf_hub("edit", path, "--set", f"general.name={name}")
    assert gguf_hub("download", REPO, NAME, *place, "--force")[0] == 0
    assert path.read_bytes() == original


@pytest.mark.slow
def test_everybody_is_told_of_an_edit(path: Path, gguf_hub: Run) -> None:
    gguf_hub("edit", path, "--set", "general.name=mine")
    (row,) = json.loads(gguf_hub("ls", "--json")[1])["files"]
    assert row["state"] == "edited"
    code, out, _ = gguf_hub("verify", path, "--json")
    (row,) = json.loads(out)["files"]
    assert (code, row["verdict"]) == (0, "sound, changed by gguf-hub edit")
    run = ["run", path, "-p", "w1", "-n", "1", "--temp", "0"]
    code, out, err = gguf_hub(*run)
    assert code == 0, err
    assert f"`{path}` was changed by `gguf-hub edit` on 20" in err
    assert gguf_hub(*run)[1] == out


def test_an_edited_file_stands_for_the_model_that_it_was(
    path: Path, server: HubServer, gguf_hub: Run, place: list[str]
) -> None:
    is_origin_known = not place or Store().entries() != []  # not of huggingface_hub's folders
    gguf_hub("edit", path, "--set", "general.name=mine")
    server.requests.clear()
    code, _, err = gguf_hub("run", f"{REPO}:Q4_0", "-p", "w1", "-n", "1")
    assert code == 0, err
    assert (f"`{path}` was changed by `gguf-hub edit`" in err) == is_origin_known
    assert (server.requests == []) == is_origin_known


def test_a_file_that_changed_otherwise_is_told_of(server: HubServer, gguf_hub: Run) -> None:
    path = Path(gguf_hub("download", REPO, NAME, "-q")[1].strip())
    os.utime(path)
    err = gguf_hub("run", path, "-p", "w1", "-n", "1")[2]
    assert f"`{path}` has changed since it was verified on 20" in err
    assert "`gguf-hub verify` checks it" in err
    gguf_hub("verify", path)
    assert "has changed" not in gguf_hub("run", path, "-p", "w1", "-n", "1")[2]


def test_an_edited_file_goes_only_by_its_own_name(
    server: HubServer, gguf_hub: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    path = Path(gguf_hub("download", REPO, NAME, "--local-dir", folder, "-q")[1].strip())
    cached = Path(gguf_hub("download", REPO, NAME, "-q")[1].strip())
    gguf_hub("edit", path, "--set", "general.name=mine")
    err = gguf_hub("rm", "-y", REPO)[2]
    assert f"`{path}` stays, as `gguf-hub edit` changed it" in err
    assert (path.exists(), cached.exists()) == (True, False)
    assert gguf_hub("rm", "-y", path)[0] == 0
    assert not path.exists()


def test_records_of_before_are_read(server: HubServer, gguf_hub: Run) -> None:
    gguf_hub("download", REPO, NAME)
    record = Store().folder / "files.json"
    data = json.loads(record.read_text())
    for row in data["files"]:
        del row["edited_at"]
    record.write_text(json.dumps(data))
    (entry,) = Store().entries()
    assert entry.edited_at is None
