"""``gguf-hub ls``, ``path``, ``du``, ``rm`` and ``gc``, with files of ours and of others."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.hub.download.known_folders import KnownFolders
from gguf_hub.hub.download.locking import download_lock
from gguf_hub.hub.download.segment_hashes import SegmentHashStore
from gguf_hub.hub.store import Store
from gguf_hub.paths import default_cache_dir
from tests.hub_server import Fault, HubServer, sha256
from tests.noise import noise

REPO = "TheBloke/Mixtral-8x7B-v0.1-GGUF"
NAME = "mixtral-8x7b-v0.1.Q4_K_M.gguf"
OTHER = "mixtral-8x7b-v0.1.Q2_K.gguf"
DATA = noise(3_000_000)
SHARDS = {f"BF16/m-BF16-0000{i}-of-00002.gguf": bytes([i]) * 100 for i in (1, 2)}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, {NAME: DATA, OTHER: DATA[::-1], "README.md": b"hi"})
    hub_server.add_repo("org/sharded", SHARDS)
    return hub_server


@pytest.fixture
def ok(server: HubServer, gguf_hub: Run) -> Callable[..., str]:
    """Run a command that must succeed; return what it printed."""

    def call(*args: object) -> str:
        code, out, err = gguf_hub(*args)
        assert code == 0, err
        return out

    return call


@pytest.fixture
def listed(ok: Callable[..., str]) -> Callable[[], list[dict[str, Any]]]:
    return lambda: json.loads(ok("ls", "--json"))["files"]


def theirs(server: HubServer, name: str = NAME, **options: object) -> Path:
    """Download with huggingface_hub, into its cache as the environment of the test has it."""
    from huggingface_hub import hf_hub_download

    options = {"cache_dir": default_cache_dir()} | options
    return Path(hf_hub_download(REPO, name, endpoint=server.endpoint, **options))


def shared_by_xet(path: Path) -> Path:
    """Move a blob into the store of all repositories, as huggingface_hub does with xet files."""
    blob = path.resolve()
    store = default_cache_dir() / "blobs" / "ab" / ("ab" + "0" * 62)
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to(os.path.relpath(store, blob.parent))
    store.with_name(f"{store.name}.refs").write_text("")
    return store


# --- ls, path, du


def test_files_of_every_program_are_listed(
    server: HubServer, ok: Callable[..., str], listed: Callable[[], Any], tmp_path: Path
) -> None:
    ok("download", "Q4_K_M", "--local-dir", tmp_path / "models")
    path = theirs(server, OTHER)
    assert {(f["quant"], f["state"], f["repo_id"]) for f in listed()} == {
        ("Q4_K_M", "verified", REPO),
        ("Q2_K", "unchecked", REPO),
    }
    assert {f["path"] for f in listed()} == {str(tmp_path / "models" / NAME), str(path)}
    assert {f["sha256"] for f in listed()} == {sha256(DATA), sha256(DATA[::-1])}
    assert str(path) in ok("ls")


def test_the_listing_has_stable_keys(ok: Callable[..., str]) -> None:
    ok("download", "Q4_K_M")
    data = json.loads(ok("ls", "--json"))
    assert list(data) == ["files", "total_bytes"]
    assert list(data["files"][0]) == [
        "path", "repo_id", "commit", "filename", "quant", "size_bytes", "sha256", "state",
        "verified_at", "program", "names", "converted_from",
    ]  # fmt: skip
    assert data["total_bytes"] == len(DATA)


def test_nothing_yet_says_how_to_begin(ok: Callable[..., str], gguf_hub: Run) -> None:
    assert gguf_hub("ls") == (0, "", "no model files yet: `gguf-hub download` fetches one\n")
    assert json.loads(ok("ls", "--json")) == {"files": [], "total_bytes": 0}


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_files_that_changed_or_went_are_told(
    ok: Callable[..., str], listed: Callable[[], Any], tmp_path: Path, change: str
) -> None:
    path = Path(ok("download", "Q4_K_M", "-q", "--local-dir", tmp_path).strip())
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(b"other")
    assert [f["state"] for f in listed()] == [change]
    assert change in ok("ls")


@pytest.mark.parametrize("argument", ["Q4_K_M", NAME, f"{REPO}:q4_k_m", f"{REPO}/{NAME}"])
@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_path_prints_the_path_and_nothing_else(
    server: HubServer, ok: Callable[..., str], gguf_hub: Run, argument: str, who: str
) -> None:
    expected = ok("download", "Q4_K_M", "-q").strip() if who == "ours" else theirs(server)
    server.close()
    assert gguf_hub("path", argument) == (0, f"{expected}\n", "")
    assert json.loads(ok("path", argument, "--json")) == {"paths": [str(expected)]}


def test_path_of_what_is_not_here_fails_with_a_hint(server: HubServer, gguf_hub: Run) -> None:
    code, out, err = gguf_hub("path", "Q5_0")
    assert (code, out) == (1, "")
    assert "`gguf-hub download Q5_0` fetches it" in err
    assert server.requests == []


def test_path_of_shards_is_the_first(ok: Callable[..., str]) -> None:
    paths = ok("download", "org/sharded:BF16", "-q").splitlines()
    assert len(paths) == 2
    assert ok("path", "org/sharded:BF16").splitlines() == paths[:1]
    assert ok("path", "org/sharded:BF16", "--all").splitlines() == paths


def test_a_file_that_was_fetched_by_commit_is_found_too(
    server: HubServer, ok: Callable[..., str]
) -> None:
    commit = server.repos[REPO].refs["main"]
    path = theirs(server, revision=commit)
    assert not (path.parents[2] / "refs" / "main").exists()
    assert ok("path", "Q4_K_M").strip() == str(path)


def test_a_blob_that_repositories_share_is_known_by_its_first_name(
    server: HubServer, ok: Callable[..., str], listed: Callable[[], Any], gguf_hub: Run
) -> None:
    path = theirs(server)
    shared_by_xet(path)
    assert [f["sha256"] for f in listed()] == [sha256(DATA)]
    bodies = len(server.body_requests())
    assert ok("download", "Q4_K_M", "-q").strip() == str(path)
    assert len(server.body_requests()) == bodies
    assert [f["state"] for f in listed()] == ["verified"]


def test_disk_usage_counts_bytes_once(server: HubServer, ok: Callable[..., str]) -> None:
    ok("download", "Q4_K_M")
    server.add_repo(REPO, {NAME: DATA}, revision="v2")
    ok("download", REPO, NAME, "--revision", "v2")
    ok("download", "org/sharded:BF16")
    data = json.loads(ok("du", "--json"))
    assert data["repositories"] == [
        {"repo_id": REPO, "program": None, "n_files": 1, "size_bytes": len(DATA)},
        {"repo_id": "org/sharded", "program": None, "n_files": 2, "size_bytes": 200},
    ]
    assert (data["total_bytes"], data["leftover_bytes"]) == (len(DATA) + 200, 0)
    assert "3.0 MB" in ok("du")


# --- rm


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["Q4_K_M", f"{REPO}:Q4_K_M", f"{REPO}/{NAME}", "path"])
@pytest.mark.parametrize("where", ["cache", "folder"])
def test_a_file_goes_with_all_that_is_there_for_its_sake(
    ok: Callable[..., str], listed: Callable[[], Any], tmp_path: Path, argument: str, where: str
) -> None:
    options = ["--local-dir", tmp_path / "models"] if where == "folder" else []
    ok("download", "Q2_K", *options)
    before = every_file(tmp_path)
    path = ok("download", "Q4_K_M", "-q", *options).strip()
    assert SegmentHashStore(Store().folder).find(sha256(DATA))
    assert ok("rm", "-y", path if argument == "path" else argument).strip() == path
    assert every_file(tmp_path) == before
    assert [f["quant"] for f in listed()] == ["Q2_K"]
    assert SegmentHashStore(Store().folder).find(sha256(DATA)) is None


def every_file(folder: Path) -> set[str]:
    """All files and links but locks, which stay."""
    paths = (p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())
    return {str(p.relative_to(folder)) for p in paths if ".lock" not in p.name}


def test_of_a_repository_everything_goes(ok: Callable[..., str], tmp_path: Path) -> None:
    ok("download", REPO, "--include", "*")
    ok("rm", "-y", REPO)
    assert list(default_cache_dir().glob("models--*")) == []
    assert Store().entries() == []


def test_what_is_no_model_stays_and_is_named(
    server: HubServer, ok: Callable[..., str], gguf_hub: Run
) -> None:
    path = Path(theirs(server))
    for name in ("README.md", "config.json"):
        (path.parent / name).write_text("{}")
    trees = path.parents[2] / "trees" / f"{path.parent.name}.json"
    trees.parent.mkdir(exist_ok=True)
    trees.write_text("{}")
    err = gguf_hub("rm", "-y", REPO)[2]
    assert f"`{REPO}` keeps in the cache what is no model: README.md, config.json" in err
    assert f"hint: `hf cache rm model/{REPO}` removes that too" in err
    assert trees.exists()
    for name in ("README.md", "config.json"):
        (path.parent / name).unlink()
    theirs(server)
    assert "keeps" not in gguf_hub("rm", "-y", REPO)[2]
    assert not trees.exists()  # the last file of the repository takes its folder along


def test_a_begun_download_is_named_when_its_repository_is_removed(
    server: HubServer, ok: Callable[..., str], gguf_hub: Run
) -> None:
    ok("download", "Q2_K")
    server.faults.append(Fault("GET", "*/resolve/*", times=1, drop_after=len(DATA) // 2))
    server.faults.append(Fault("GET", "*/resolve/*", status=404))
    assert gguf_hub("download", "Q4_K_M", "--connections", "1")[0] == 1
    err = gguf_hub("rm", "-y", REPO)[2]
    assert f"of unfinished downloads of `{REPO}` stay" in err
    ok("gc", "-y")
    server.faults.clear()
    ok("download", "Q2_K")
    assert "unfinished" not in gguf_hub("rm", "-y", REPO)[2]


def test_bytes_stay_while_another_commit_needs_them(
    server: HubServer, ok: Callable[..., str], listed: Callable[[], Any]
) -> None:
    first = ok("download", "Q4_K_M", "-q").strip()
    server.add_repo(REPO, {NAME: DATA}, revision="v2")
    second = ok("download", REPO, NAME, "--revision", "v2", "-q").strip()
    assert json.loads(ok("rm", "-y", first, "--json")) == {"removed": [first], "freed_bytes": 0}
    assert Path(second).read_bytes() == DATA
    assert [f["path"] for f in listed()] == [second]
    assert json.loads(ok("rm", "-y", second, "--json"))["freed_bytes"] == len(DATA)
    assert list(default_cache_dir().glob("models--*")) == []


def test_shared_bytes_stay_while_another_repository_needs_them(
    server: HubServer, ok: Callable[..., str]
) -> None:
    path = theirs(server)
    shared = shared_by_xet(path)
    other = default_cache_dir() / "models--org--other" / "blobs" / sha256(DATA)
    other.parent.mkdir(parents=True)
    other.symlink_to(os.path.relpath(shared, other.parent))
    ok("rm", "-y", path)
    assert shared.read_bytes() == DATA
    shutil.rmtree(other.parents[1])
    path = theirs(server)
    path.resolve().unlink()
    blob = path.parent / path.readlink()
    blob.symlink_to(os.path.relpath(shared, blob.resolve().parent))
    ok("rm", "-y", path)
    assert not shared.exists()
    assert not shared.with_name(f"{shared.name}.refs").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_a_person_is_asked(
    ok: Callable[..., str],
    gguf_hub: Run,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
) -> None:
    path = ok("download", "Q4_K_M", "-q").strip()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    found, _, err = gguf_hub("rm", "Q4_K_M")
    assert (found, Path(path).exists()) == (code, code != 0)
    assert path in err


def test_a_script_must_say_yes(ok: Callable[..., str], gguf_hub: Run) -> None:
    path = ok("download", "Q4_K_M", "-q").strip()
    code, _, err = gguf_hub("rm", "Q4_K_M")
    assert (code, Path(path).exists()) == (1, True)
    assert "`-y` skips the question" in err


def test_what_nobody_downloaded_is_not_removed(
    server: HubServer, gguf_hub: Run, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"GGUF")
    code, _, err = gguf_hub("rm", "-y", mine)
    assert (code, mine.exists()) == (1, True)
    assert "neither downloaded nor verified" in err
    for argument in ("Q5_0", "org/nothing"):
        code, _, err = gguf_hub("rm", "-y", argument)
        assert (code, "`gguf-hub ls` shows what is" in err) == (1, True)
    assert gguf_hub("rm", "-y", f"{REPO}@main:Q4_K_M")[0] == 2


def test_a_file_that_is_being_fetched_is_not_removed(
    ok: Callable[..., str], gguf_hub: Run, tmp_path: Path
) -> None:
    path = ok("download", "Q4_K_M", "-q", "--local-dir", tmp_path / "m").strip()
    lock = tmp_path / "m" / ".cache" / "huggingface" / "download" / f"{NAME}.lock"
    with download_lock(lock, NAME, tmp_path):
        code, _, err = gguf_hub("rm", "-y", path)
    assert (code, Path(path).exists()) == (1, True)
    assert str(os.getpid()) in err


# --- gc


@pytest.mark.parametrize("where", ["cache", "folder"])
def test_an_interrupted_download_is_found_and_cleared(
    server: HubServer, ok: Callable[..., str], gguf_hub: Run, tmp_path: Path, where: str
) -> None:
    options = ["--local-dir", tmp_path / "models"] if where == "folder" else []
    server.faults.append(Fault("GET", "*/resolve/*", times=1, drop_after=len(DATA) // 2))
    server.faults.append(Fault("GET", "*/resolve/*", status=404))
    assert gguf_hub("download", "Q4_K_M", "--connections", "1", *options)[0] == 1
    found = json.loads(ok("gc", "--json"))
    assert found["dry_run"]
    assert {left["kind"] for left in found["leftovers"]} == {"part", "journal"}
    assert found["total_bytes"] >= len(DATA)  # set aside for it, although half of it came
    assert json.loads(ok("du", "--json"))["leftover_bytes"] == found["total_bytes"]
    parts = [Path(left["path"]) for left in found["leftovers"]]
    assert all(part.exists() for part in parts)
    assert str(parts[0]) in ok("gc")
    cleared = json.loads(ok("gc", "-y", "--json"))
    assert (cleared["dry_run"], cleared["total_bytes"]) == (False, found["total_bytes"])
    assert not any(part.exists() for part in parts)
    assert json.loads(ok("gc", "--json"))["leftovers"] == []


def test_what_is_of_no_use_is_found(
    server: HubServer, ok: Callable[..., str], tmp_path: Path, listed: Callable[[], Any]
) -> None:
    ours = Path(ok("download", "Q4_K_M", "-q").strip())
    kept = ok("download", "Q2_K", "-q").strip()
    placed = Path(ok("download", "Q4_K_M", "-q", "--local-dir", tmp_path / "m").strip())
    placed.unlink()
    blobs = ours.parents[2] / "blobs"
    orphan = blobs / sha256(b"orphan")
    orphan.write_bytes(b"orphan")
    stopped = blobs / f"{sha256(b'x')}.0a1b2c3d.incomplete"
    stopped.write_bytes(b"x")
    ours.resolve().unlink()
    kinds = sorted(left["kind"] for left in json.loads(ok("gc", "--json"))["leftovers"])
    assert kinds == ["blob", "hashes", "incomplete", "link", "note", "record", "record"]
    ok("gc", "-y")
    assert json.loads(ok("gc", "--json"))["leftovers"] == []
    assert [f["path"] for f in listed()] == [kept]
    assert Path(kept).read_bytes() == DATA[::-1]


def test_what_is_at_work_stays(ok: Callable[..., str], gguf_hub: Run, server: HubServer) -> None:
    path = Path(ok("download", "Q4_K_M", "-q").strip())
    cache = default_cache_dir()
    repo = path.parents[2]
    stopped = repo / "blobs" / f"{sha256(b'x')}.0a1b2c3d.incomplete"
    stopped.write_bytes(b"x" * 4096)
    with download_lock(cache / ".locks" / repo.name / f"{sha256(b'x')}.lock", "x", cache):
        data = json.loads(ok("gc", "-y", "--json"))
        assert [(left["kind"], left["is_busy"]) for left in data["leftovers"]] == [
            ("incomplete", True)
        ]
        assert stopped.exists()
        assert "by another process, not removed: 1" in gguf_hub("gc", "-y")[2]
    ok("gc", "-y")
    assert not stopped.exists()


@pytest.mark.parametrize(
    ("repo_id", "start", "is_found"),
    [("org--m-GGUF", b"", True), ("org--m", b"GGUF\3", True), ("org--m", b"PK\3\4", False)],
)
def test_a_first_download_of_another_program_that_was_stopped_is_found(
    ok: Callable[..., str], repo_id: str, start: bytes, is_found: bool
) -> None:
    blob = default_cache_dir() / f"models--{repo_id}/blobs/{'a' * 64}.0a1b2c3d.incomplete"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(start + bytes(9000))
    kinds = [each["kind"] for each in json.loads(ok("gc", "--json"))["leftovers"]]
    assert kinds == (["incomplete"] if is_found else [])
    assert (json.loads(ok("du", "--json"))["leftover_bytes"] >= 9000) == is_found


def test_repositories_without_models_are_none_of_our_business(ok: Callable[..., str]) -> None:
    blob = default_cache_dir() / "models--org--bert" / "blobs" / ("a" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"of another program")
    assert json.loads(ok("gc", "--json"))["leftovers"] == []


def test_a_folder_can_be_named(ok: Callable[..., str], tmp_path: Path) -> None:
    part = tmp_path / "far" / ".cache" / "huggingface" / "download" / "x.gguf-hub.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 10_000)
    assert json.loads(ok("gc", "--json"))["leftovers"] == []
    found = json.loads(ok("gc", tmp_path / "far", "--json"))["leftovers"]
    assert [left["path"] for left in found] == [str(part)]


def test_folders_are_remembered(ok: Callable[..., str], tmp_path: Path) -> None:
    ok("download", "Q4_K_M", "--local-dir", tmp_path / "a b")
    assert KnownFolders(Store().folder).folders() == [tmp_path / "a b"]
