"""What is printed: no text from elsewhere steers a terminal, whatever the stream can encode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_hub.cli import console
from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from tests.synth import TINY, metadata

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b1m\u202etxt\r" + b"\xff".decode(
    "utf-8", "surrogateescape"
)
STEERS = "\x1b\x07\x9b\u202e\r"
PRINTS = """
from gguf_hub.cli import console
console.escape_unencodable_characters()
evil = {evil!r}
console.say(console.style("ours", "red") + evil)
console.print_table([[console.style(evil, "green"), evil + chr(10)]], [evil, "b"])
console.note(evil)
console.warn(evil)
console.error(evil, hint=evil)
console.write(evil + chr(10))
"""


def steering(text: str) -> set[str]:
    return {char for char in text if char in STEERS}


def test_every_way_to_print_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    console.say(HOSTILE)
    console.print_table([[HOSTILE, "x\ny"]], [HOSTILE, "b"])
    console.note(HOSTILE)
    console.warn(HOSTILE)
    console.error(HOSTILE, hint=HOSTILE)
    out, err = capsys.readouterr()
    assert not steering(out + err)
    assert out.count(r"\x1b]0;owned\x07\x1b[31mred\x9b1m\u202etxt\r\xff") == 3
    assert r"x\ny" in out  # a cell has one line
    (out + err).encode()


def test_lines_of_a_message_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console.error("two problems\n  one\n\ttwo")
    assert capsys.readouterr().err == "error: two problems\n  one\n\ttwo\n"


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"name": HOSTILE, HOSTILE: [float("nan"), float("inf"), 1.5, None, True]}
    console.print_json(data)
    out = capsys.readouterr().out
    assert not steering(out)
    assert json.loads(out) == {"name": HOSTILE, HOSTILE: [None, None, 1.5, None, True]}


def test_colours_are_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty", reason="no pseudo terminals here")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = on_terminal(pty, PRINTS.format(evil=HOSTILE.rstrip("\r")))
    assert "\x1b[31mours\x1b[0m" in shown
    assert "\x1b[32m\\x1b]0;owned" in shown
    for ours in ("\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[1m", "\x1b[0m", "\r\n"):
        shown = shown.replace(ours, "")
    assert not steering(shown.replace("\u202e", "", 1))  # text of a model keeps its marks


def on_terminal(pty: object, code: str) -> str:
    """What a program writes to a terminal, both streams."""
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs) as program:
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux says so when the other side has gone
                break
            if not part:
                break
            parts.append(part)
        os.close(ours)
    assert program.returncode == 0
    return b"".join(parts).decode()


def test_text_of_a_model_is_passed_on_as_it_is_where_it_is_piped() -> None:
    code = f"from gguf_hub.cli import console; console.write({HOSTILE[:-1]!r})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert found.stdout.decode() == HOSTILE[:-1]


@pytest.mark.skipif(sys.platform == "win32", reason="names of bytes are those of POSIX")
def test_a_path_is_printed_as_it_is_for_programs() -> None:
    raw = b"/a/\xff\x1b.gguf"
    code = f"import os; from gguf_hub.cli import console; console.say_path(os.fsdecode({raw!r}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert found.stdout == raw + b"\n"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A file with texts that no encoding but UTF-8 has, and some that none has."""
    fields = {
        **metadata(TINY),
        "general.name": Field.of(HOSTILE + "é日"),
        f"x.{HOSTILE}": Field.of(1),
    }
    path = tmp_path / "é日.gguf"
    write_gguf(path, fields, [(TensorSpec(HOSTILE[:20], (1,), QuantType.F32), b"\0\0\0\0")])
    return path


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "cp1252", "utf-8:strict"])
def test_no_encoding_of_the_streams_makes_it_fail(encoding: str, hostile: Path) -> None:
    code = (
        "import sys; from gguf_hub.cli.main import run\n"
        "for more in ([], ['--metadata'], ['--tensors'], ['--json', '--metadata']):\n"
        "    print(run(['inspect', sys.argv[1], *more]), flush=True)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(hostile)],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert b"Traceback" not in found.stderr
    assert found.returncode == 0
    codec = "utf-8" if encoding == "ascii" else encoding.split(":")[0]  # click writes UTF-8 then
    out = found.stdout.decode(codec)
    assert not steering(out)
    document = out[out.index("\n{") : out.rindex("}") + 1]
    assert json.loads(document)["name"].endswith("é日")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["--help"], ["list", "--offline"], ["pick", "--help"]])
def test_a_full_disk_under_stdout_is_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gguf_hub", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: cannot write the output: no space left on device"
    )
    assert "Traceback" not in done.stderr
