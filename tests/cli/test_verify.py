"""``gguf-hub verify`` as people and programs call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from tests.hub_server import HubServer, sha256

REPO = "TheBloke/Mixtral-8x7B-v0.1-GGUF"
NAME = "mixtral-8x7b-v0.1.Q4_K_M.gguf"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small sound GGUF."""
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    write_gguf(path, {"general.name": Field.of("nothing")}, [])
    return path.read_bytes()


@pytest.fixture
def server(hub_server: HubServer, sound: bytes) -> HubServer:
    hub_server.add_repo(REPO, {NAME: sound})
    return hub_server


@pytest.fixture
def file(tmp_path: Path, sound: bytes) -> Path:
    """A file that has a name of the catalog and that nobody has seen before."""
    path = tmp_path / "models" / NAME
    path.parent.mkdir()
    path.write_bytes(sound)
    return path


@pytest.fixture
def verify(gguf_hub: Run) -> Run:
    return lambda *args: gguf_hub("verify", *args)


@pytest.fixture
def row(verify: Run) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Exit code and the one row of ``--json``."""

    def call(*args: object) -> tuple[int, dict[str, Any]]:
        code, out, _ = verify("--json", *args)
        result = json.loads(out)
        assert result["is_good"] is (code == 0)
        (only,) = result["files"]
        return code, only

    return call


Row = Callable[..., tuple[int, dict[str, Any]]]


def test_a_known_name_is_checked_against_the_hub(
    server: HubServer, row: Row, file: Path, sound: bytes
) -> None:
    code, found = row(file)
    assert code == 0
    assert (found["verdict"], found["expected_from"], found["repo_id"]) == ("verified", "hub", REPO)
    assert found["sha256"] == found["expected_sha256"] == sha256(sound)
    # from now on the record knows it
    asked = len(server.requests)
    assert row(file)[1]["expected_from"] == "record"
    assert len(server.requests) == asked


def test_offline_asks_nobody(server: HubServer, row: Row, file: Path) -> None:
    code, found = row(file, "--offline")
    assert (code, found["verdict"]) == (0, "sound, origin unknown")
    assert server.requests == []


def test_deep_looks_at_every_block(row: Row, tmp_path: Path) -> None:
    path = tmp_path / "nan.gguf"
    weights = np.array([1, np.nan], np.float32)
    write_gguf(path, {}, [(TensorSpec("t", (2,), QuantType.F32), weights)])
    assert row(path, "--offline")[1]["verdict"] == "sound, origin unknown"
    code, found = row(path, "--offline", "--deep")
    assert (code, found["verdict"]) == (1, "damaged")
    assert "GGUF-DATA-NAN" in {issue["code"] for issue in found["issues"]}


def test_a_hub_that_does_not_answer_is_told_and_no_failure(
    server: HubServer, verify: Run, file: Path
) -> None:
    server.close()
    code, out, err = verify(file)
    assert code == 0
    assert "sound, origin unknown" in out
    assert "no answer from the hub" in err


def test_a_name_that_nobody_knows_asks_nobody(
    server: HubServer, row: Row, tmp_path: Path, sound: bytes
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(sound)
    code, found = row(path)
    assert (code, found["verdict"]) == (0, "sound, origin unknown")
    assert server.requests == []


def test_a_changed_byte_is_found(server: HubServer, verify: Run, file: Path, sound: bytes) -> None:
    file.write_bytes(sound.replace(b"nothing", b"nothinG"))
    code, out, err = verify(file)
    assert code == 1
    assert out.startswith(f"not what the hub has: {file}\n")
    assert sha256(sound) in out
    assert f"gguf-hub download {REPO} {NAME} --local-dir {file.parent}" in err


def test_the_hint_puts_the_right_bytes_back(
    server: HubServer, verify: Run, gguf_hub: Run, file: Path, sound: bytes
) -> None:
    file.write_bytes(sound.replace(b"nothing", b"nothinG"))
    hint = verify(file)[2]
    command = hint.split("`")[1].split()
    assert command[-1] == "--force"  # nobody knows whose file it is
    assert gguf_hub(*command[1:])[0] == 0
    assert file.read_bytes() == sound
    assert verify(file)[0] == 0


@pytest.mark.parametrize("n_bytes", [0, 3, 20], ids=["empty", "three", "header"])
def test_a_cut_file_is_damaged(
    server: HubServer, verify: Run, file: Path, sound: bytes, n_bytes: int
) -> None:
    file.write_bytes(sound[:n_bytes])
    code, out, _ = verify(file)
    assert code == 1
    assert out.startswith(f"damaged: {file}\n  error: ")
    assert f"{n_bytes} bytes; expected {len(sound)}" in out


def test_a_web_page_is_called_that(server: HubServer, row: Row, tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<!DOCTYPE html><html>log in</html>")
    code, found = row(path)
    assert (code, found["verdict"]) == (1, "damaged")
    assert [issue["code"] for issue in found["issues"]] == ["GGUF-FILE-HTML"]
    assert set(found["issues"][0]) == {"code", "severity", "place", "message"}


def test_a_given_hash_decides(server: HubServer, verify: Run, file: Path, sound: bytes) -> None:
    code, out, _ = verify(file, "--sha256", sha256(sound).upper())
    assert (code, out.split(":")[0]) == (0, "verified")
    code, out, err = verify(file, "--sha256", "0" * 64)
    assert (code, out.split(":")[0]) == (1, "not the given SHA-256")
    assert "this file and revision" in err


def test_bad_bytes_of_the_publisher_are_not_blamed_on_the_download(
    server: HubServer, verify: Run, gguf_hub: Run
) -> None:
    server.add_repo("org/broken", {"m.Q4_0.gguf": b"no gguf at all"})
    assert gguf_hub("download", "org/broken")[0] == 0
    code, _, err = verify("org/broken:Q4_0")
    assert code == 1
    assert "the publisher's file is like this" in err


@pytest.mark.parametrize("argument", ["Q4_K_M", f"{REPO}:Q4_K_M", f"{REPO}/{NAME}"])
def test_a_model_that_was_downloaded_is_found_by_name(
    server: HubServer, row: Row, gguf_hub: Run, argument: str
) -> None:
    path = gguf_hub("download", "Q4_K_M")[1].strip()
    code, found = row(argument)
    assert (code, found["path"], found["verdict"]) == (0, path, "verified")


def test_a_model_of_another_client_is_found_by_name(server: HubServer, row: Row) -> None:
    from huggingface_hub import hf_hub_download

    from gguf_hub.paths import default_cache_dir

    path = hf_hub_download(REPO, NAME, endpoint=server.endpoint, cache_dir=default_cache_dir())
    code, found = row("Q4_K_M")
    assert (code, found["path"], found["expected_from"]) == (0, path, "cache")


def test_every_file_is_checked_even_after_a_bad_one(
    server: HubServer, verify: Run, file: Path
) -> None:
    code, out, _ = verify("--json", "nothing.gguf", "Q8_0", file)
    rows = json.loads(out)["files"]
    assert code == 1
    assert [row["verdict"] for row in rows] == ["not checked", "not checked", "verified"]
    assert "no such file" in rows[0]["error"]
    assert "`gguf-hub download Q8_0`" in rows[1]["hint"]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}


def test_what_cannot_be_checked_is_an_error_with_a_hint(server: HubServer, verify: Run) -> None:
    code, out, err = verify("nothing.gguf")
    assert (code, out) == (1, "")
    assert "error: no model `nothing.gguf`" in err
    assert "hint: " in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "missing argument"),
        (["a", "--sha256", "abc"], "expected 64 hex digits, found 3"),
        (["a", "b", "--sha256", "0" * 64], "is for one file, not 2"),
    ],
)
def test_impossible_questions_are_usage_errors(
    server: HubServer, verify: Run, args: list[str], words: str
) -> None:
    code, out, err = verify(*args)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("name", "raw"),
    [("config.json", b"{}"), ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      "),
     ("README.md", b"# A model"), ("LICENSE", b"")],
)  # fmt: skip
def test_a_file_that_is_no_gguf_has_an_unknown_origin(
    row: Callable[..., tuple[int, dict[str, Any]]], name: str, raw: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    code, found = row(path)
    assert (code, found["verdict"]) == (0, "not a GGUF, origin unknown")
    assert (found["sha256"], found["issues"]) == (sha256(raw), [])


def test_an_error_page_in_place_of_a_model_is_damage(
    row: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b'{"error": "not found"}')
    code, found = row(path)
    assert (code, found["verdict"]) == (1, "damaged")
