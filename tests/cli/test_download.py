"""``gguf-hub download`` against a hub on loopback, as people and programs call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.hub.hardware import Hardware
from gguf_hub.units import GB
from tests.hub_server import Fault, HubServer, sha256
from tests.noise import noise

REPO = "TheBloke/Mixtral-8x7B-v0.1-GGUF"
QUANTS = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0")
FILES = {f"mixtral-8x7b-v0.1.{quant}.gguf": noise(5000, n) for n, quant in enumerate(QUANTS)}
NAME = "mixtral-8x7b-v0.1.Q4_K_M.gguf"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.redirect = True
    hub_server.add_repo(REPO, FILES | {"README.md": b"# Mixtral\n"})
    return hub_server


@pytest.fixture
def download(server: HubServer, gguf_hub: Run) -> Run:
    return lambda *args: gguf_hub("download", *args)


@pytest.fixture
def download_json(download: Run) -> Callable[..., dict[str, Any]]:
    def call(*args: object) -> dict[str, Any]:
        code, out, err = download("--json", *args)
        assert code == 0, err
        return json.loads(out)

    return call


def names(result: dict[str, Any]) -> list[str]:
    return [file["filename"] for file in result["files"]]


# --- what comes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["Q4_K_M"], [NAME]),
        (["q4_k_m"], [NAME]),
        ([NAME], [NAME]),
        (["Q2_K", "Q8_0"], ["mixtral-8x7b-v0.1.Q2_K.gguf", "mixtral-8x7b-v0.1.Q8_0.gguf"]),
        ([f"{REPO}:Q4_K_M"], [NAME]),
        ([f"{REPO}/{NAME}"], [NAME]),
        ([f"hf://{REPO}/{NAME}"], [NAME]),
        ([f"https://huggingface.co/{REPO}/blob/main/{NAME}"], [NAME]),
        ([REPO, NAME, "README.md"], [NAME, "README.md"]),
        ([REPO, "--include", "*Q4_K*gguf"], [NAME]),
        (["--include", "*Q4_K*gguf"], [NAME]),
        ([REPO, "--include", "*.gguf", "--exclude", "*Q[2-6]*"], ["mixtral-8x7b-v0.1.Q8_0.gguf"]),
    ],
)
def test_every_way_to_name_a_file(
    download_json: Callable[..., dict[str, Any]], args: list[str], expected: list[str]
) -> None:
    result = download_json(*args)
    assert names(result) == expected
    for file in result["files"]:
        data = Path(file["path"]).read_bytes()
        assert file["sha256"] == sha256(data)
        assert file["size_bytes"] == len(data)


def test_the_result_as_json_has_stable_keys(
    server: HubServer, download_json: Callable[..., dict[str, Any]]
) -> None:
    result = download_json("Q4_K_M")
    (file,) = result.pop("files")
    assert result == {
        "repo_id": REPO,
        "revision": "main",
        "commit": server.repos[REPO].refs["main"],
        "total_bytes": 5000,
        "dry_run": False,
    }
    assert set(file) == {
        "filename", "path", "size_bytes", "sha256", "verified", "status", "gguf_problem",
    }  # fmt: skip
    assert (file["verified"], file["status"]) == (True, "downloaded")


def test_stdout_is_the_paths_and_nothing_else(download: Run) -> None:
    code, out, err = download(REPO, "--include", "*Q4*")
    assert code == 0
    paths = [Path(line) for line in out.splitlines()]
    assert [path.read_bytes() for path in paths] == [FILES[path.name] for path in paths]
    assert [path.name for path in paths] == [name for name in FILES if "Q4" in name]
    assert err.count("SHA-256 matches the hub") == 2


def test_quiet_says_nothing_but_the_paths(download: Run) -> None:
    code, out, err = download("Q4_K_M", "--quiet")
    assert (code, err, out.count("\n")) == (0, "", 1)


def test_the_second_time_moves_no_byte(server: HubServer, download: Run) -> None:
    first = download("Q4_K_M")[1]
    bodies = len(server.body_requests())
    code, second, err = download("Q4_K_M")
    assert (code, second, len(server.body_requests())) == (0, first, bodies)
    assert "present" in err


def test_files_go_where_they_are_told_to(
    download_json: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(download_json("Q4_K_M", "--local-dir", "models")["files"][0]["path"])
    assert path == tmp_path / "models" / NAME
    path = Path(download_json("Q2_K", "--cache-dir", "cache")["files"][0]["path"])
    assert path.is_relative_to(tmp_path / "cache" / f"models--{REPO.replace('/', '--')}")
    path = Path(download_json("Q8_0")["files"][0]["path"])
    assert path.is_relative_to(tmp_path / "hf-home" / "hub")


def test_a_revision_is_taken_at_its_word(server: HubServer, download: Run) -> None:
    commit = server.add_repo(REPO, {NAME: b"old bytes"}, revision="v0")
    for revision in ("v0", commit):
        code, out, _ = download(f"{REPO}:Q4_K_M", "--revision", revision)
        assert (code, Path(out.strip()).read_bytes()) == (0, b"old bytes")
    assert Path(download(f"{REPO}@v0:Q4_K_M")[1].strip()).read_bytes() == b"old bytes"


def test_nothing_named_is_the_pick_for_this_machine(
    download_json: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, gguf_hub: Run
) -> None:
    seen = Hardware(64 * GB, 64 * GB, None, 4, 4, "cpu", (), None, ())
    monkeypatch.setattr("gguf_hub.hub.hardware.detect", lambda: seen)
    picked = json.loads(gguf_hub("pick", "--json")[1])["recommended"]
    assert names(download_json()) == [f"mixtral-8x7b-v0.1.{picked}.gguf"]
    assert picked == "Q5_K_M"


def test_nothing_named_and_nothing_fits(download: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Hardware(4 * GB, 4 * GB, None, 4, 4, "cpu", (), None, ())
    monkeypatch.setattr("gguf_hub.hub.hardware.detect", lambda: seen)
    code, out, err = download()
    assert (code, out) == (1, "")
    assert "gguf-hub pick" in err


def test_the_line_of_the_model_card_works(
    download: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one word changed: ``huggingface-cli`` is ``gguf-hub``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_ENABLE_HF_TRANSFER", "1")
    line = f"{REPO} {NAME} --local-dir . --local-dir-use-symlinks False --resume-download"
    code, _, err = download(*line.split())
    assert code == 0
    assert (tmp_path / NAME).read_bytes() == FILES[NAME]
    for word in ("--local-dir-use-symlinks", "--resume-download", "HF_HUB_ENABLE_HF_TRANSFER"):
        assert f"note: {word}" in err


def test_patterns_beside_names_are_told_to_be_idle(download: Run) -> None:
    code, out, err = download(REPO, NAME, "--include", "*Q8*")
    assert (code, Path(out.strip()).name) == (0, NAME)
    assert "are ignored with file names" in err


# --- dry run


def test_a_dry_run_tells_and_touches_nothing(
    server: HubServer, download: Run, tmp_path: Path
) -> None:
    download("Q4_0")
    bodies = len(server.body_requests())
    folder = tmp_path / "folder"
    code, out, err = download(REPO, "--include", "*Q4*", "--local-dir", folder, "--dry-run")
    assert code == 0
    assert (len(server.body_requests()), folder.exists()) == (bodies, False)
    rows = {line.split()[0]: line for line in out.splitlines() if ".gguf" in line}
    assert "elsewhere" in rows["mixtral-8x7b-v0.1.Q4_0.gguf"]
    assert "missing" in rows[NAME]
    assert "5.0 kB to fetch" in err


def test_a_dry_run_as_json_counts_the_bytes_to_come(
    download: Run, download_json: Callable[..., dict[str, Any]]
) -> None:
    download("Q4_0")
    result = download_json("--include", "*Q4*", "--dry-run")
    assert (result["dry_run"], result["total_bytes"], result["fetch_bytes"]) == (True, 10000, 5000)
    assert result["free_bytes"] > 0
    states = {file["filename"]: (file["state"], file["fetch_bytes"]) for file in result["files"]}
    assert states == {"mixtral-8x7b-v0.1.Q4_0.gguf": ("verified", 0), NAME: ("missing", 5000)}


def test_a_dry_run_says_when_there_is_no_room(server: HubServer, download: Run) -> None:
    huge = [{"type": "file", "path": "m.gguf", "size": 10**18, "oid": "0" * 40}]
    server.faults.append(Fault("GET", "*/tree/*", body=json.dumps(huge).encode()))
    code, _, err = download(REPO, "--dry-run")
    assert code == 0
    assert "not enough free space" in err


# --- what goes wrong


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([f"{REPO}:Q9_K"], 1, ["no quant `Q9_K`", "Q2_K, Q3_K_M"]),
        ([REPO, "nothing.gguf"], 1, ["no file `nothing.gguf`"]),
        ([REPO, "--include", "*nothing*"], 1, ["--include '*nothing*'"]),
        ([REPO], 2, ["which of the 8 models", "--include '*'"]),
        (["org/nothing:Q4_0"], 1, ["no repository `org/nothing`", "hf auth login"]),
        (["TheBlok/Mixtral-8x7B-v0.1-GGUF:Q4_0"], 1, [f"did you mean `{REPO}`?"]),
        ([f"{REPO}:Q4_0", "--revision", "v9"], 1, ["no revision `v9`"]),
        (["Q4_K"], 1, ["no quant `Q4_K`", "`Q4_K_M`"]),
        (["nonsense"], 1, ["`nonsense` names no repository"]),
        ([f"{REPO}:Q4_0", "README.md"], 2, ["expected one of both"]),
        (["https://example.com/x/y"], 2, ["not a link to a model"]),
        (["Q4_0", "--catalog", "nothing.yaml"], 1, ["catalog `nothing.yaml`"]),
        (["--include"], 2, ["requires an argument"]),
    ],
)
def test_mistakes_are_one_clear_line_with_a_hint(
    download: Run, args: list[str], code: int, words: list[str]
) -> None:
    found, out, err = download(*args)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert "hint: " in err
    assert [word for word in words if word not in err] == []


@pytest.mark.parametrize(
    ("token", "words"),
    [([], "wants a token"), (["--token", "hf_reader"], "is not open to this token")],
)
def test_a_gated_repository_says_how_to_get_in(
    server: HubServer, download: Run, token: list[str], words: str
) -> None:
    server.add_repo("org/gated", {"m.Q4_0.gguf": b"gated"}, gated=True)
    code, out, err = download("org/gated:Q4_0", *token)
    assert (code, out) == (1, "")
    assert words in err
    assert f"{server.endpoint}/org/gated" in err
    assert "hf_reader" not in err
    assert download("org/gated:Q4_0", "--token", "hf_member")[0] == 0


def test_the_token_of_the_environment_is_used(
    server: HubServer, download: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_repo("org/secret", {"m.Q4_0.gguf": b"secret"}, private=True)
    assert download("org/secret:Q4_0")[0] == 1
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    assert download("org/secret:Q4_0")[0] == 0


def test_wrong_bytes_are_refused_and_not_kept(
    server: HubServer, download: Run, tmp_path: Path
) -> None:
    server.faults.append(Fault("GET", "/cdn/*", flip_at=100))
    code, out, err = download("Q4_K_M", "--local-dir", tmp_path / "models")
    assert (code, out) == (1, "")
    assert "arrived damaged" in err
    assert sha256(FILES[NAME]) in err
    assert [p for p in (tmp_path / "models").rglob("*") if p.suffix in (".gguf", ".part")] == []
    server.faults.clear()
    assert download("Q4_K_M", "--local-dir", tmp_path / "models")[0] == 0


def test_no_server_is_told_at_once(
    server: HubServer, download: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, out, err = download("Q4_K_M")
    assert (code, out) == (1, "")
    assert "cannot reach `http://127.0.0.1:9`" in err
    assert "gguf-hub doctor" in err


def test_a_hostile_listing_writes_nothing_outside(
    server: HubServer, download: Run, tmp_path: Path
) -> None:
    server.add_repo("org/evil", {"../../../evil.gguf": b"evil", "/tmp/evil.gguf": b"evil"})
    code, _, err = download("org/evil", "--include", "*", "--local-dir", tmp_path / "a" / "b")
    assert code == 1
    assert "refused" in err
    assert list(tmp_path.rglob("evil*")) == []


def test_a_local_dir_that_is_a_file_is_a_usage_error(download: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert download("Q4_K_M", "--local-dir", tmp_path / "file")[0] == 2
