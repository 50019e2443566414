"""Without a hub everything on disk works, and everything else says what is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.cli.models import resolve_model
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.paths import default_cache_dir
from gguf_hub.progress import SILENT
from tests.hub_server import HubServer

REPO = "TheBloke/Mixtral-8x7B-v0.1-GGUF"
NAME = "mixtral-8x7b-v0.1.Q4_K_M.gguf"
OTHER = "mixtral-8x7b-v0.1.Q2_K.gguf"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(hub_server: HubServer, tmp_path: Path) -> HubServer:
    files = {"README.md": b"hi"}
    for name in (NAME, OTHER):
        write_gguf(tmp_path / name, {"general.name": Field.of(name)}, [])
        files[name] = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
    hub_server.add_repo(REPO, files)
    return hub_server


@pytest.fixture(params=["flag", "variable"])
def offline(
    request: pytest.FixtureRequest,
    server: HubServer,
    gguf_hub: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Run a command without a hub, said either way; no request may come."""

    def call(command: str, *args: object) -> tuple[int, str, str]:
        server.requests.clear()
        if request.param == "variable":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
            told = gguf_hub(command, *args)
            monkeypatch.delenv("HF_HUB_OFFLINE")
        else:
            told = gguf_hub(command, "--offline", *args)
            assert "HF_HUB_OFFLINE" not in os.environ
        assert server.requests == []
        return told

    return call


@pytest.fixture
def path(server: HubServer, gguf_hub: Run) -> str:
    """Q4_K_M, downloaded into the cache."""
    return gguf_hub("download", "Q4_K_M", "-q")[1].strip()


# --- what is here


@pytest.mark.parametrize(
    "args",
    [["Q4_K_M"], [f"{REPO}:Q4_K_M"], [REPO, NAME], [REPO, "--include", "*Q4*"], [f"{REPO}/{NAME}"]],
)
def test_download_takes_what_is_here(offline: Run, path: str, args: list[str]) -> None:
    code, out, err = offline("download", *args, "--json")
    assert code == 0, err
    (file,) = json.loads(out)["files"]
    assert (file["path"], file["status"]) == (path, "present")


def test_download_checks_what_another_program_fetched(server: HubServer, offline: Run) -> None:
    from huggingface_hub import hf_hub_download

    for name in (NAME, "README.md"):
        hf_hub_download(REPO, name, cache_dir=default_cache_dir(), endpoint=server.endpoint)
    code, out, err = offline("download", REPO, NAME, "README.md", "--json")
    assert code == 0, err
    assert [file["status"] for file in json.loads(out)["files"]] == ["checked", "checked"]


def test_download_fills_a_folder_from_the_cache(offline: Run, path: str, tmp_path: Path) -> None:
    code, out, err = offline("download", "Q4_K_M", "-q", "--local-dir", tmp_path / "models")
    assert (code, out) == (0, f"{tmp_path / 'models' / NAME}\n"), err
    assert Path(out.strip()).read_bytes() == Path(path).read_bytes()


def test_a_revision_that_the_cache_knows_is_found(
    server: HubServer, offline: Run, path: str
) -> None:
    commit = server.repos[REPO].refs["main"]
    for revision in ("main", commit):
        code, out, _ = offline("download", REPO, NAME, "--revision", revision, "-q")
        assert (code, out.strip()) == (0, path)
    code, _, err = offline("download", REPO, NAME, "--revision", "v2")
    assert (code, f"`{NAME}` of {REPO} at `v2`: not on this machine" in err) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("path", ["Q4_K_M"]),
        ("verify", ["Q4_K_M"]),
        ("inspect", ["Q4_K_M"]),
        ("inspect", [f"{REPO}/{NAME}", "--json"]),
        ("pick", ["--ram", "64GB"]),
    ],
)
def test_commands_work_with_what_is_here(
    offline: Run, path: str, command: str, args: list[str]
) -> None:
    code, out, err = offline(command, *args)
    assert (code, bool(out)) == (0, True), err


def test_running_needs_no_hub(
    server: HubServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve_model("Q4_K_M", progress=SILENT) == Path(path)
    assert server.requests == []


# --- what is not


@pytest.mark.parametrize(
    ("command", "args", "missing"),
    [
        ("download", ["Q2_K"], f"`{OTHER}` of {REPO}"),
        ("download", [REPO, NAME, OTHER], f"`{OTHER}` of {REPO}"),  # the other is here
        ("download", ["org/other:Q4_0"], "`org/other:Q4_0`"),
        ("download", [REPO, "--include", "*Q2*"], f"`*Q2*` of {REPO}"),
        ("run", ["Q2_K", "-p", "x"], f"`{OTHER}` of {REPO}"),
        ("run", ["org/other:Q4_0", "-p", "x"], "`org/other:Q4_0`"),
        ("inspect", ["Q2_K"], f"`{OTHER}` of {REPO}"),
        ("perplexity", ["Q2_K", "--text", __file__], f"`{OTHER}` of {REPO}"),
    ],
)
def test_what_is_missing_is_named(
    offline: Run, path: str, command: str, args: list[str], missing: str
) -> None:
    code, out, err = offline(command, *args)
    assert (code, out) == (1, "")
    assert f"error: {missing}: not on this machine, and offline mode is on" in err
    assert "hint: `gguf-hub ls` shows what is here" in err


@pytest.mark.parametrize("command", ["path", "verify"])
def test_commands_that_never_fetch_say_what_would(offline: Run, path: str, command: str) -> None:
    code, out, err = offline(command, "Q2_K")
    assert (code, out) == (1, "")
    assert "`Q2_K` is not on this machine" in err
    assert "`gguf-hub download Q2_K` fetches it" in err


def test_a_file_that_went_is_missing(offline: Run, path: str, gguf_hub: Run) -> None:
    gguf_hub("download", "Q2_K", "-q")
    Path(path).resolve().unlink()
    code, _, err = offline("download", REPO, NAME, OTHER)
    assert (code, NAME in err) == (1, True)


def test_a_damaged_file_cannot_be_repaired(offline: Run, path: str) -> None:
    with Path(path).resolve().open("r+b") as file:
        file.seek(40)
        file.write(b"?")
    code, _, err = offline("verify", "--repair", path)
    assert (code, "offline mode is on" in err) == (1, True)
