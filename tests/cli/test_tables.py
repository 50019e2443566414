"""Tables on narrow terminals, and text on streams whose encoding lacks its characters."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.cli import console
from gguf_hub.cli.main import COMMANDS, run

Cli = Callable[..., tuple[int, str, str]]
HEADERS = ["name", "size", "what it is for", "path"]
ALIGN = ["left", "right", "left", "left"]
CELL = st.text("abcdefgh -/", max_size=60).map(lambda text: text.strip() or "x")
ROWS = st.lists(st.tuples(CELL.map(lambda t: t[:10]), st.just("12.34 GB"), CELL, CELL), min_size=1)


def printed(n_columns: int | None, rows: Any, **more: Any) -> list[str]:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        if n_columns is not None:
            patch.setenv("COLUMNS", str(n_columns))
        console.print_table(rows, HEADERS, align=ALIGN, **more)
    return out.getvalue().splitlines()


@settings(deadline=None)
@given(rows=ROWS, n_columns=st.integers(62, 200))
def test_a_table_is_no_wider_than_the_terminal_and_loses_nothing(
    rows: list[tuple[str, ...]], n_columns: int
) -> None:
    lines = printed(n_columns, rows)
    assert max(map(len, lines)) <= n_columns
    wide = printed(None, rows)
    assert sorted("".join(lines[2:]).replace(" ", "")) == sorted("".join(wide[2:]).replace(" ", ""))


@settings(deadline=None)
@given(rows=ROWS, n_columns=st.integers(30, 61))
def test_what_can_be_done_without_is_left_out_first(
    rows: list[tuple[str, ...]], n_columns: int
) -> None:
    lines = printed(n_columns, rows, expendable=["path", "what it is for"])
    assert max(map(len, lines)) <= n_columns
    assert "name" in lines[0] and "size" in lines[0]
    assert "path" not in lines[0] or "what it is for" in lines[0]


def test_files_pipes_and_markdown_get_the_whole_table() -> None:
    row = ["a", "1", "b" * 80, "c" * 90]
    assert len(max(printed(None, [row]), key=len)) > 170
    assert len(max(printed(60, [row], is_markdown=True), key=len)) > 170


@pytest.mark.parametrize("n_columns", [40, 60, 80, 100, 120])
@pytest.mark.parametrize("line", ["pick --no-probe --ram 24GB", "list"])
def test_the_tables_of_a_first_look_fit(
    gguf_hub: Cli, monkeypatch: pytest.MonkeyPatch, n_columns: int, line: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(n_columns))
    code, out, err = gguf_hub(*line.split())
    assert (code, err.count("Traceback")) == (0, 0)
    table = out.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= n_columns
    assert "Q4_K_M" in out


ENCODINGS = ["ascii", "latin-1", "cp437", "koi8-r", "shift_jis"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_command_fails_for_want_of_a_character(
    encoding: str, embedded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [[name, "--help"] for name in COMMANDS]
    lines += [["--help"], ["list"], ["list", "--json"], ["inspect", str(embedded), "--metadata"]]
    lines += [["pick", "--no-probe", "--ram", "24GB", "--explain"], ["ls"], ["run", "\u65e5\u672c"]]
    for line in lines:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stderr", err)
        assert run(line) == (1 if line[0] == "run" and len(line[1]) == 2 else 0), line


@pytest.mark.slow
def test_symbols_become_letters(embedded: Path) -> None:
    line = [
        sys.executable,
        "-m",
        "gguf_hub",
        "run",
        str(embedded),
        "-p",
        "\u65e5 \u00e9",
        "-n",
        "1",
    ]
    done = subprocess.run(
        line, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, timeout=300
    )
    assert done.returncode == 0
    assert done.stdout.startswith(b"\\u65e5 \xe9")
    line = [sys.executable, "-m", "gguf_hub", "pick", "--no-probe", "--ram", "24GB"]
    done = subprocess.run(
        line, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, timeout=300
    )
    assert b"########  94 %" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_in_letters_that_every_encoding_has(gguf_hub: Cli, name: str) -> None:
    assert gguf_hub(name, "--help")[1].isascii()
