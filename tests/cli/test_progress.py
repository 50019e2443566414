"""Progress: bars for people, events for programs, nothing in pipes."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gguf_hub.cli import console, events
from gguf_hub.hub.download.total import with_total
from tests.conftest import ROOT
from tests.hub_server import Fault, HubServer
from tests.noise import noise
from tests.notes import Notes

REPO = "org/model"
FILES = {"a.bin": noise(400_000), "sub/b.bin": noise(300_000, 1)}
SCHEMA = json.loads((ROOT / "docs" / "progress.schema.json").read_text())

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.add_repo(REPO, FILES)
    return hub_server


@pytest.fixture
def told(server: HubServer, gguf_hub: Run) -> Callable[..., tuple[int, str, list[dict[str, Any]]]]:
    """Run a command; return its code, its stdout, and its events, each held by the schema."""

    def call(*args: object) -> tuple[int, str, list[dict[str, Any]]]:
        code, out, err = gguf_hub(*args, "--progress", "json")
        rows = [json.loads(line) for line in err.splitlines()]
        for row in rows:
            jsonschema.validate(row, SCHEMA)
        return code, out, rows

    return call


def test_a_download_is_told_from_start_to_end(
    told: Callable[..., Any], tmp_path: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVERY_S", 0.05)
    server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=1e6))
    code, out, rows = told("download", REPO, "a.bin", "--local-dir", tmp_path)
    assert (code, out) == (0, f"{tmp_path / 'a.bin'}\n")
    about = {"id": 1, "task": "download", "file": "a.bin", "unit": "B", "total": 400_000}
    mine = [row for row in rows if row.get("id") == 1]
    assert mine[0] == {"event": "start", **about, "done": 0}
    assert {row["event"] for row in mine[1:-1]} == {"progress"}
    assert all({**row, **about} == row for row in mine)
    assert [row["done"] for row in mine] == sorted(row["done"] for row in mine)
    assert any(row["rate_per_s"] > 0 and row["left_s"] is not None for row in mine[1:-1])
    assert (mine[-1]["event"], mine[-1]["done"], mine[-1]["ok"]) == ("end", 400_000, True)


def test_of_several_files_the_total_is_told(told: Callable[..., Any]) -> None:
    code, _, rows = told("download", REPO, "--include", "*")
    assert code == 0
    (total,) = [row for row in rows if row["event"] == "end" and row["task"] == "total"]
    assert (total["file"], total["done"], total["total"]) == (None, 700_000, 700_000)
    ends = {row["file"] for row in rows if row["event"] == "end" and row["task"] == "download"}
    assert ends == {"a.bin", "b.bin"}


def test_what_an_earlier_run_left_counts_as_done(
    told: Callable[..., Any], server: HubServer, tmp_path: Path
) -> None:
    (tmp_path / ".cache/huggingface/download").mkdir(parents=True)
    from tests.hub_server import sha256

    left = f"x.{sha256(FILES['a.bin'])}.0a1b2c3d.incomplete"
    (tmp_path / ".cache/huggingface/download" / left).write_bytes(FILES["a.bin"][:100_000])
    _, _, rows = told("download", REPO, "a.bin", "--local-dir", tmp_path)
    (start,) = [r for r in rows if r["event"] == "start" and r["task"] == "download"]
    assert start["done"] == 100_000


def test_errors_notes_and_warnings_are_events_too(
    told: Callable[..., Any], server: HubServer
) -> None:
    code, out, rows = told("download", REPO, "c.bin", "--include", "x", "--resume-download")
    assert (code, out) == (1, "")
    assert [row["event"] for row in rows] == ["note", "warning", "error"]
    assert "no file `c.bin`" in rows[-1]["text"]
    server.faults.append(Fault("GET", "*/resolve/*", status=404))
    code, _, rows = told("download", REPO, "a.bin")
    assert code == 1
    assert [row["ok"] for row in rows if row["event"] == "end"] == [False]
    assert rows[-1]["event"] == "error"


def test_verify_tells_too(told: Callable[..., Any], tmp_path: Path) -> None:
    told("download", REPO, "a.bin", "--local-dir", tmp_path)
    _, _, rows = told("verify", "--sha256", "0" * 64, tmp_path / "a.bin")
    tasks = {(row["event"], row["task"], row["file"]) for row in rows if "id" in row}
    assert ("end", "check", "a.bin") in tasks


def test_events_end_with_their_command(told: Callable[..., Any], gguf_hub: Run) -> None:
    told("download", REPO, "a.bin")
    assert gguf_hub("download", "nothing")[2].startswith("error: ")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--progress", "none"], ["--no-progress"]])
def test_pipes_get_no_bars(server: HubServer, options: list[str]) -> None:
    done = subprocess.run(line(*options), capture_output=True, text=True, check=True)
    assert "\r" not in done.stderr
    assert "%" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
@pytest.mark.parametrize("option", ["auto", "none"])
def test_a_terminal_gets_a_line_for_each_file_and_the_total(server: HubServer, option: str) -> None:
    import fcntl
    import termios

    server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=3e5))
    outer, inner = os.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    pipe = subprocess.PIPE
    with subprocess.Popen(line("--progress", option), stdout=pipe, stderr=inner) as child:
        os.close(inner)
        text = b""
        try:
            while chunk := os.read(outer, 4096):
                text += chunk
        except OSError:
            pass  # the terminal has no other end any more
    os.close(outer)
    assert child.returncode == 0
    words = (b"total:", b"download a.bin:", b"download b.bin:", b"B/s", b"<00:")
    assert [word in text for word in words] == [option == "auto"] * len(words), text


def line(*options: str) -> list[str]:
    return [sys.executable, "-m", "gguf_hub", "download", REPO, "--include", "*", *options]


def test_what_comes_twice_is_counted_once() -> None:
    counted = []

    class Counting(Notes):
        def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Any:
            task = super().task(label, total)
            if label == "total":
                task.advance = counted.append  # type: ignore[method-assign]
            return task

    with with_total(Counting(), 10) as progress:
        for label in ("download a", "download a", "check a"):
            with progress.task(label, 8) as task:
                task.advance(8)
    assert sum(counted) == 10


def test_talk_is_text_unless_events_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    console.use_text()
    console.warn("careful")
    assert capsys.readouterr().err == "warning: careful\n"
