"""``gguf-hub mirror`` as a process of its own, and the programs that download from it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gguf_hub.hub.store import Store
from gguf_hub.paths import data_dir
from tests.hub.mirror.files import REPO, add
from tests.noise import noise
from tests.synth import write_mixtral

DATA = noise(1_000_000)
NAME = "m.Q4_0.gguf"


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    add(Store(data_dir()), tmp_path / "files", {NAME: DATA, "sub/m.Q8_0.gguf": DATA[:1000]})


@contextlib.contextmanager
def running(*args: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "gguf_hub", "mirror", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def endpoint() -> Iterator[str]:
    with running() as process:
        yield first_line(process).removeprefix("HF_ENDPOINT=")


@pytest.mark.slow
def test_hf_download_fetches_from_it(endpoint: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("hf")
    env = os.environ | {"HF_ENDPOINT": endpoint}
    command = [program, "download", REPO, "--include", "*.gguf", "--local-dir", tmp_path / "to"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "to" / NAME).read_bytes() == DATA
    assert (tmp_path / "to" / "sub" / "m.Q8_0.gguf").read_bytes() == DATA[:1000]


def test_curl_fetches_from_it(endpoint: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    url = f"{endpoint}/{REPO}/resolve/main"
    for name, options, expected in [
        (NAME, ["-O"], DATA),
        ("sub/m.Q8_0.gguf", ["-o", "part", "-r", "10-19"], DATA[10:20]),
    ]:
        command = ["curl", "-sSf", *options, f"{url}/{name}"]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
        out = tmp_path / (options[1] if len(options) > 1 else name)
        assert out.read_bytes() == expected
    for path in ("/../../etc/passwd", "/%2e%2e/x", "/%00", "//etc/passwd"):
        command = ["curl", "-s", "--path-as-is", "-o", "out", "-w", "%{http_code}", url + path]
        done = subprocess.run(
            command, cwd=tmp_path, check=True, timeout=60, capture_output=True, text=True
        )
        assert done.stdout == "404"


def test_ctrl_c_ends_it_without_a_traceback() -> None:
    with running("-v") as process:
        assert first_line(process).startswith("HF_ENDPOINT=http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert "stopped" in err
    assert "Traceback" not in err


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def announced(gguf_hub: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command up to where it would serve for ever."""
    monkeypatch.setattr("gguf_hub.hub.mirror.Mirror.serve_forever", lambda self: None)
    return lambda *args: gguf_hub("mirror", *args)


def test_it_prints_how_to_use_it(announced: Run) -> None:
    code, out, err = announced()
    assert code == 0
    assert out.startswith("HF_ENDPOINT=http://127.0.0.1:")
    assert out.count("\n") == 1
    assert "HF_TOKEN" not in err
    for words in (f"hf download {REPO} {NAME}", f"/{REPO}/resolve/main/{NAME}", "1.0 MB"):
        assert words in err
    assert "warning" not in err


def test_the_network_gets_a_warning_and_a_token(
    announced: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = announced("--host", "0.0.0.0"), announced("--host", "0.0.0.0")
    token = first[1].splitlines()[1].removeprefix("HF_TOKEN=")
    assert len(token) >= 32
    assert token not in second[1]
    assert "not encrypted" in first[2]
    assert f"Authorization: Bearer {token}" in first[2]
    assert "HF_TOKEN=mine" in announced("--host", "0.0.0.0", "--token", "mine")[1]
    monkeypatch.setenv("GGUF_HUB_MIRROR_TOKEN", "from-env")
    assert "HF_TOKEN=from-env" in announced()[1]


def test_json_says_where_it_is_and_what_it_has(announced: Run) -> None:
    code, out, _ = announced("--json", "--token", "t")
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"endpoint", "host", "port", "token", "repos"}
    assert (found["host"], found["token"]) == ("127.0.0.1", "t")
    (repo,) = found["repos"]
    assert repo["repo_id"] == REPO
    assert [set(file) for file in repo["files"]] == [{"filename", "size_bytes", "sha256"}] * 2


def test_files_of_unknown_origin_are_checked_and_served(announced: Run, tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "made.gguf")
    code, out, _ = announced("--json", path)
    assert code == 0
    local = json.loads(out)["repos"][0]
    assert (local["repo_id"], [f["filename"] for f in local["files"]]) == (
        "local/models", ["made.gguf"],
    )  # fmt: skip
    assert json.loads(announced("--json")[1])["repos"][0]["repo_id"] == REPO  # not recorded


def test_a_named_file_that_is_known_stays_in_its_repository(announced: Run, tmp_path: Path) -> None:
    data = write_mixtral(tmp_path / "made.gguf").read_bytes()
    path = add(Store(data_dir()), tmp_path / "files", {"known.gguf": data})["known.gguf"]
    (repo,) = json.loads(announced("--json", path)[1])["repos"]
    assert repo["repo_id"] == REPO
    assert "known.gguf" in [file["filename"] for file in repo["files"]]


def test_a_damaged_file_is_not_served(announced: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"<html>")
    code, out, err = announced(path)
    assert (code, out) == (1, "")
    assert f"`{path}` is not served" in err
    assert f"gguf-hub verify {path}" in err


def test_nothing_to_serve_is_told(announced: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUF_HUB_HOME", "/nonexistent")
    code, _, err = announced()
    assert code == 0
    assert "nothing to serve yet" in err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--port", "99999"], 2, "--port"),
        (["nothing.gguf"], 2, "nothing.gguf"),
        (["--host", "192.0.2.1"], 1, "cannot listen on `192.0.2.1`"),
        (["--host", "0.0.0.0", "--token", ""], 2, "no token"),
    ],
)
def test_mistakes_are_one_clear_line(
    announced: Run, args: list[str], code: int, words: str
) -> None:
    found, out, err = announced(*args)
    assert (found, out) == (code, "")
    assert words in err
