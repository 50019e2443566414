"""``rm`` and ``gc`` where links lead out of what is ours: the links go, the files there stay."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.paths import default_cache_dir
from tests.hub_server import sha256

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs links of POSIX")

Run = Callable[..., tuple[int, str, str]]
DATA = b"GGUF precious"
COMMIT = "a" * 40
NAME = "m.Q8_0.gguf"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder on another disk, so to speak."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


@pytest.fixture
def repo() -> Path:
    """A repository of the cache with a commit and no files."""
    repo = default_cache_dir() / "models--org--name"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (repo / folder).mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    return repo


def name_of(repo: Path) -> Path:
    return repo / "snapshots" / COMMIT / NAME


def put_blob(repo: Path) -> Path:
    """Put a file into a repository as huggingface_hub does; return its blob."""
    blob = repo / "blobs" / sha256(DATA)
    blob.write_bytes(DATA)
    name_of(repo).symlink_to(f"../../blobs/{blob.name}")
    return blob


def moved(path: Path, folder: Path) -> Path:
    """Move a file or folder elsewhere and link it back, as people do whose disk is full."""
    there = path.rename(folder / path.name)
    path.symlink_to(there)
    return there


def record(path: Path) -> None:
    Store().add(StoredFile.of(path, sha256(DATA), repo_id="org/name", commit=COMMIT))


@pytest.mark.parametrize("how", ["name", "named as a blob", "blob", "recorded", "other cache"])
def test_a_file_elsewhere_stays(gguf_hub: Run, repo: Path, elsewhere: Path, how: str) -> None:
    name = name_of(repo)
    if how == "blob":
        there = moved(put_blob(repo), elsewhere)
    elif how == "other cache":
        there = elsewhere / "models--org--name" / "blobs" / sha256(DATA)
        there.parent.mkdir(parents=True)
        there.write_bytes(DATA)
        name.symlink_to(there)
    else:
        there = elsewhere / (sha256(DATA) if how == "named as a blob" else "precious.gguf")
        there.write_bytes(DATA)
        name.symlink_to(there)
    if how == "recorded":
        record(name)
    _, _, err = gguf_hub("rm", "org/name")  # asks, and nobody answers
    assert f"a link  {name} to {there}, which stays" in err
    code, out, err = gguf_hub("rm", "org/name", "-y", "--json")
    assert code == 0, err
    assert json.loads(out) == {"removed": [str(name)], "freed_bytes": 0}
    assert f"`{there}` stays: only the link to it was removed" in err
    assert there.read_bytes() == DATA
    assert not os.path.lexists(name)
    assert [path for path in elsewhere.rglob("*") if ".lock" in path.name] == []
    assert not repo.exists()


def test_a_link_of_ones_own_goes_alone(gguf_hub: Run, tmp_path: Path) -> None:
    path = tmp_path / "models" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(DATA)
    record(path)
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    _, _, err = gguf_hub("rm", link)
    assert f"a link  {link} to {path}, which stays" in err
    code, out, err = gguf_hub("rm", "-y", link)
    assert (code, out.strip()) == (0, str(link))
    assert f"`{path}` stays: only the link to it was removed" in err
    assert path.read_bytes() == DATA
    assert not os.path.lexists(link)
    assert [entry.path for entry in Store().entries()] == [path]


def test_what_lies_in_the_cache_goes(gguf_hub: Run, repo: Path) -> None:
    put_blob(repo)
    code, out, err = gguf_hub("rm", "org/name", "-y", "--json")
    assert (code, json.loads(out)["freed_bytes"]) == (0, len(DATA))
    assert "stays" not in err
    assert not repo.exists()


def test_a_repository_that_is_a_link_is_a_cache_there_too(
    gguf_hub: Run, repo: Path, elsewhere: Path
) -> None:
    put_blob(repo)
    there = moved(repo, elsewhere)
    assert gguf_hub("rm", "org/name", "-y")[0] == 0
    assert [path for path in there.rglob("*") if path.is_file()] == []
    assert repo.is_symlink()


@pytest.mark.parametrize("which", ["blobs", f"snapshots/{COMMIT}", "snapshots"])
def test_a_folder_that_leads_out_keeps_its_files(
    gguf_hub: Run, repo: Path, elsewhere: Path, which: str
) -> None:
    put_blob(repo)
    real = repo / "blobs" / sha256(DATA)
    if which != "blobs":  # where the system knows no links the bytes have their own name
        name_of(repo).unlink()
        real = real.rename(name_of(repo))
    there = moved(repo / which, elsewhere)
    before = {path for path in there.rglob("*") if path.is_file()}
    code, _, err = gguf_hub("rm", "org/name", "-y")
    assert before
    assert {path for path in there.rglob("*") if path.is_file()} == before
    if which == "blobs":
        assert (code, "stays: only the link to it was removed" in err) == (0, True)
    else:
        assert (code, "leads out of" in err) == (1, True)


def test_what_else_lies_in_a_repository_stays(gguf_hub: Run, repo: Path, elsewhere: Path) -> None:
    put_blob(repo)
    absent = repo / ".no_exist" / COMMIT
    absent.mkdir(parents=True)
    (absent / "tokenizer.json").touch()
    (absent / "notes").write_text("mine")
    (repo / "refs" / "pr").mkdir()
    (repo / "refs" / "pr" / "1").write_text("b" * 40)
    (repo / "refs" / "mine").write_text("not a commit")
    (elsewhere / "empty").touch()
    (absent / "out").symlink_to(elsewhere)
    (repo / "work.txt").write_text("three months")
    assert gguf_hub("rm", "org/name", "-y")[0] == 0
    left = {str(path.relative_to(repo)) for path in repo.rglob("*") if not path.is_dir()}
    assert left == {f".no_exist/{COMMIT}/notes", "refs/mine", "work.txt"}
    assert (elsewhere / "empty").exists()


def test_a_lock_that_holds_something_is_none(gguf_hub: Run, repo: Path) -> None:
    put_blob(repo)
    notes = repo / "blobs" / f".{sha256(DATA)}.repair.lock"
    notes.write_text("mine")
    assert gguf_hub("rm", "org/name", "-y")[0] == 0
    assert notes.read_text() == "mine"


# -- gc -------------------------------------------------------------------------------------------


def cleared(gguf_hub: Run, *line: object) -> set[str]:
    code, out, err = gguf_hub("gc", "-y", "--json", *line)
    assert code == 0, err
    return {Path(left["path"]).name for left in json.loads(out)["leftovers"]}


@pytest.mark.parametrize("is_out", [False, True], ids=["inside", "outside"])
def test_blobs_behind_a_link_stay(gguf_hub: Run, repo: Path, elsewhere: Path, is_out: bool) -> None:
    put_blob(repo)
    names = {"b" * 64, f"{'c' * 64}.incomplete", f"{'d' * 64}.gguf-hub.part"}
    for name in names:
        (repo / "blobs" / name).write_bytes(DATA)
    there = moved(repo / "blobs", elsewhere) if is_out else repo / "blobs"
    assert cleared(gguf_hub) == (set() if is_out else names)
    assert {path.name for path in there.iterdir()} >= (names if is_out else set())


def test_a_blob_that_is_a_link_goes_alone(gguf_hub: Run, repo: Path, elsewhere: Path) -> None:
    put_blob(repo)
    precious = elsewhere / "precious"
    precious.write_bytes(DATA)
    for name in ("b" * 64, f"{'c' * 64}.incomplete"):
        (repo / "blobs" / name).symlink_to(precious)
    assert len(cleared(gguf_hub)) == 2
    assert precious.read_bytes() == DATA


@pytest.mark.parametrize("is_out", [False, True], ids=["inside", "outside"])
def test_a_hidden_folder_that_leads_out_is_not_looked_into(
    gguf_hub: Run, tmp_path: Path, elsewhere: Path, is_out: bool
) -> None:
    root = tmp_path / "models"
    folder = root / ".cache" / "huggingface" / "download"
    folder.mkdir(parents=True)
    (folder / "x.incomplete").write_bytes(DATA)
    (folder / "m.gguf.metadata").write_text(f"{COMMIT}\n{'b' * 40}\n1\n")
    if is_out:
        moved(root / ".cache", elsewhere)
    (tmp_path / "link").symlink_to(root)  # the folder itself may be one
    found = {"x.incomplete", "m.gguf.metadata"}
    assert cleared(gguf_hub, tmp_path / "link") == (set() if is_out else found)


def test_a_dead_name_behind_a_link_stays(gguf_hub: Run, repo: Path, elsewhere: Path) -> None:
    blob = put_blob(repo)
    name_of(repo).unlink()
    name_of(repo).symlink_to(blob)
    there = moved(name_of(repo).parent, elsewhere)
    (there / "other.gguf").symlink_to("unmounted")
    assert cleared(gguf_hub) == set()
    assert (there / "other.gguf").is_symlink()
