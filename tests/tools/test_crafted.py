"""Crafted files: commands end with an error that is one of ours, and print nothing that steers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.gguf.reader import GgufFile
from tools import crafted_files, crafted_runs

SCRIPT = Path(crafted_runs.__file__)
COMMANDS = ("inspect", "inspect-json", "pick-json", "verify", "upgrade", "run", "perplexity")


def test_the_same_seed_makes_the_same_files_and_another_others() -> None:
    names = [case.name for case in crafted_files.cases(200, 1)]
    assert names == [case.name for case in crafted_files.cases(200, 1)]
    assert names != [case.name for case in crafted_files.cases(200, 2)]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_every_kind_comes_once_in_a_long_campaign() -> None:
    single = {case.name for case in crafted_files.kinds()}
    assert len(single) == len(crafted_files.kinds()) > 548
    found = {case.name for case in crafted_files.cases(2 * len(single), 3)}
    assert single <= found


def test_every_file_of_a_long_campaign_can_be_made() -> None:
    for case in list(crafted_files.cases(5000, 1))[1::3]:
        case.encode()


def test_the_file_with_nothing_wrong_is_sound(tmp_path: Path) -> None:
    for case in crafted_files.kinds()[:2]:
        path = tmp_path / "a.gguf"
        path.write_bytes(case.encode())
        assert len(GgufFile.open(path).tensors) > 10


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_sixty_files_through_the_commands(
    part: int, gguf_hub: Callable[..., tuple[int, str, str]], tmp_path: Path, kernels: None
) -> None:
    (tmp_path / "text").write_text("Once upon a time there was a cat. " * 5)
    path, wrong = tmp_path / "a.gguf", []
    for case in list(crafted_files.cases(60, 4))[part::4]:
        raw = case.encode()
        path.write_bytes(raw)
        for name in COMMANDS:
            code, out, err = gguf_hub(*crafted_runs.COMMANDS[name](path, tmp_path))
            outcome = crafted_runs.Outcome(code << 8, 0.0, 0, True, False, out, err)
            left = [found.name for found in tmp_path.glob("out*")]
            found = crafted_runs.problems(name, outcome, path.read_bytes() != raw, left)
            wrong += [(case.name, name, problem, err) for problem in found]
            for target in left:
                (tmp_path / target).unlink()
    assert wrong == []


OUTCOMES = {
    "traceback": {"err": "Traceback (most recent call last):\n  ..."},
    "Python warning": {"err": "/a/model.py:273: RuntimeWarning: overflow encountered in cast"},
    "never ends": {"has_ended": False, "status": 9},
    "signal 11": {"status": 11},
    "exit code 97": {"status": 97 << 8},
    "over 2 s": {"cpu_s": 2.5},
    "over 500 MB": {"rss_mb": 600},
    "control characters": {"err": "error: \x1b[2J"},
    "no JSON": {"out": '{"a": NaN}'},
}


@pytest.mark.parametrize("problem", OUTCOMES)
def test_what_a_campaign_looks_for_is_seen(problem: str) -> None:
    fine = {"status": 0, "cpu_s": 0.1, "rss_mb": 90, "has_ended": True, "was_stopped": False,
            "out": "{}", "err": "note"}  # fmt: skip
    outcome = crafted_runs.Outcome(**{**fine, **OUTCOMES[problem]})  # type: ignore[arg-type]
    assert list(crafted_runs.problems("pick-json", outcome, False, [])) == [problem]
    sound = crafted_runs.Outcome(**fine)  # type: ignore[arg-type]
    assert list(crafted_runs.problems("pick-json", sound, False, [])) == []
    failed = crafted_runs.Outcome(**{**fine, "status": 256})  # type: ignore[arg-type]
    assert list(crafted_runs.problems("upgrade", failed, True, ["out.gguf"])) == [
        "file changed", "files left",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are forked and watched by pidfd")
def test_a_small_campaign(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, SCRIPT, "-n", "6", "-j", "2", "--commands", "inspect-json,verify"],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert "nothing wrong" in found.stdout
    assert "12 runs" in found.stdout
