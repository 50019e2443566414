"""Flags as people know them from llama.cpp, commands as they know them from Ollama."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.cli.arguments import read_arguments
from gguf_hub.cli.compatibility import COMMANDS as ELSEWHERE
from gguf_hub.cli.compatibility import IGNORED_OF, REFUSED_OF, IgnoredFlag
from gguf_hub.cli.main import COMMANDS, module_of
from gguf_hub.errors import UsageError
from tests.conftest import ROOT

Cli = Callable[..., tuple[int, str, str]]


def command(name: str) -> click.Command:
    found: click.Command = importlib.import_module(module_of(name)).command
    return found


def context(name: str) -> click.Context:
    of = command(name)
    return click.Context(of, info_name=name, **of.context_settings)


def flags_of(name: str) -> set[str]:
    options = [p for p in command(name).params if isinstance(p, click.Option)]
    return {flag for option in options for flag in (*option.opts, *option.secondary_opts)}


def test_the_bare_command_prints_help(gguf_hub: Cli) -> None:
    assert gguf_hub() == gguf_hub("--help")
    assert gguf_hub()[0] == 0


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_command_of_another_program_names_ours(gguf_hub: Cli, name: str) -> None:
    code, out, err = gguf_hub(name, "llama3.2", "--verbose")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: no such command `{name}`\n\nhint: ")
    words = err.replace("`", " ").split()
    named = [b for a, b in itertools.pairwise(words) if a == "gguf-hub"]
    assert set(named) <= set(COMMANDS)


def test_no_command_of_another_program_hides_one_of_ours() -> None:
    assert not set(ELSEWHERE) & set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@given(letters=st.text(string.ascii_letters, min_size=2, max_size=4))
def test_an_unknown_flag_of_several_letters_is_refused_whole(name: str, letters: str) -> None:
    ctx = context(name)
    if f"-{letters}" in flags_of(name):
        return
    with pytest.raises(UsageError, match=f"no such option `-{letters}`"):
        read_arguments(ctx.command, ctx, [f"-{letters}", "on"])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-n8", "-c", "64"], None),
        (["-n-1", "-t4", "-s.5"], None),
        (["-p", "-fa", "x"], None),  # a value may look like a flag
        (["--prompt=-zz"], None),
        (["--", "-zz"], None),
        (["-", "x"], None),
        (["--repeat_penalty", "1.1"], None),
        (["-fa", "model.gguf"], ["-fa", "on", "model.gguf"]),
        (["-fa", "OFF", "x"], None),
        (["-fa"], ["-fa", "on"]),
        (["--color", "model.gguf"], ["--color", "on", "model.gguf"]),
        (["-co", "--", "x"], ["-co", "on", "--", "x"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_arguments_are_read_as_llama_cpp_reads_them(
    args: list[str], expected: list[str] | None
) -> None:
    ctx = context("run")
    assert read_arguments(ctx.command, ctx, args) == (expected or args)


@pytest.mark.parametrize("args", [["-np4"], ["-n8x"], ["-yn"], ["-n"], ["--threads"]], ids=" ".join)
def test_what_is_no_number_is_not_attached(gguf_hub: Cli, args: list[str]) -> None:
    code, out, err = gguf_hub("run", "x.gguf", *args)
    assert (code, out) == (2, "")
    assert args[0] in err


@pytest.mark.parametrize("name", IGNORED_OF)
def test_ignored_and_refused_flags_are_no_others(name: str) -> None:
    ignored = [flag for each in IGNORED_OF[name] for flag in each.names]
    refused = [flag for flags in REFUSED_OF[name] for flag in flags]
    assert len(set(ignored + refused)) == len(ignored + refused)
    assert not set(refused) & flags_of(name)
    hidden = [p for p in command(name).params if isinstance(p, click.Option) and p.hidden]
    assert {flag for option in hidden for flag in option.opts} == set(ignored)


@pytest.mark.parametrize("name", IGNORED_OF)
@pytest.mark.parametrize("mark", ["-", "_"])
def test_every_ignored_flag_is_accepted_with_a_note(gguf_hub: Cli, name: str, mark: str) -> None:
    line, notes = [], []
    for flag in IGNORED_OF[name]:
        for spelling in flag.names:
            line += [spelling[:2] + spelling[2:].replace("-", mark), *value_of(flag)]
            notes.append(f"{spelling} is ignored: {flag.reason}")
    text = ["x"] * (name == "embed")
    code, out, err = gguf_hub(name, "no-such.gguf", *text, *line)
    assert (code, out) == (1, "")
    assert err.splitlines()[: len(notes) + 1] == [
        *notes, "error: no model `no-such.gguf`: no such file",
    ]  # fmt: skip


def value_of(flag: IgnoredFlag) -> list[str]:
    return [flag.choices[1]] if flag.choices else ["3"] * bool(flag.value)


@pytest.mark.parametrize("name", REFUSED_OF)
def test_every_refused_flag_says_what_to_do_instead(gguf_hub: Cli, name: str) -> None:
    for flags, hint in REFUSED_OF[name].items():
        for flag in flags:
            code, out, err = gguf_hub(name, "no-such.gguf", flag)
            assert (code, out) == (2, "")
            assert err == f"error: no such option `{flag}`\n\nhint: {hint}\n"


def test_a_typing_error_names_the_flag_that_is_meant(gguf_hub: Cli) -> None:
    assert "no such option `--tempp`: did you mean `--temp`?" in gguf_hub("run", "--tempp", 1)[2]
    assert "no such option `-temp`: did you mean `--temp`?" in gguf_hub("run", "-temp", 1)[2]


def test_llama_cpps_flags_change_no_text(gguf_hub: Cli, data: Path) -> None:
    line = ("run", data / "models" / "stories260K.f32.gguf", "-p", "Once", "-n", 4, "--temp", 0)
    more = (
        "-fa",
        "on",
        "--jinja",
        "-cb",
        "--no-warmup",
        "-ub",
        256,
        "--log-disable",
        "-v",
        "--perf",
    )
    assert gguf_hub(*line)[:2] == gguf_hub(*line, *more)[:2]


# -- completion ----------------------------------------------------------------------------------


SCRIPTS = Path(sys.executable).parent


def bash(script: str) -> str:
    """Return what a script of bash prints, with the command on its path."""
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("no bash here")
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [shell, "-ec", script], env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not (SCRIPTS / "gguf-hub").exists(), reason="the command is not installed")
def test_the_documented_line_completes_commands_and_flags_in_bash() -> None:
    text = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^eval .*$", text, re.MULTILINE)
    ask = f"""{line}
complete -p gguf-hub
complete_after() {{
  COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
  _gguf_hub_completion gguf-hub
  echo "${{COMPREPLY[@]}}"
}}
complete_after gguf-hub perp
complete_after gguf-hub run --no-m
complete_after gguf-hub run -fa
"""
    assert bash(ask).splitlines()[1:] == ["perplexity", "--no-mmap", ""]
