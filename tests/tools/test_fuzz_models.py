"""The fuzzer of models: a few inputs of fixed seeds, and that it sees what it looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and mprotect")


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "first"), [(1, 100), (2, 160)])
def test_models_with_faults_are_refused_or_run(seed: int, first: int, tmp_path: Path) -> None:
    done = python(
        "tools/fuzz_models.py", 200, seed, "--first", first, "--inputs", 30,
        "--types", "F32", "Q8_0", "--out", tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].endswith(" uses, 0 failed")
    ends = {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in lines[1:]}
    assert ends["ran"] >= 10
    assert sum(n for end, n in ends.items() if end.startswith("refused")) >= 10


KINDS = """
import ctypes, os, warnings
from gguf_hub.errors import ProgramError, UsageError
from tests.guard import guarded
import tools.fuzz_models as fuzz
def burn():
    while True: pass
def wrong():
    raise UsageError("no")
def unsafe():
    raise ProgramError("n[5:6]")
def read_behind():
    ctypes.string_at(guarded(5000, "end").ctypes.data + 5000, 1)
def fill():
    b"x" * (600 << 20)
for work in (lambda: None, wrong, unsafe, read_behind, burn, fill, lambda: 1 / 0,
             lambda: warnings.warn("numpy's", RuntimeWarning), lambda: os._exit(7)):
    fuzz.ENDLESS_CPU_S = 1 if work is burn else 60
    found = fuzz.in_child(work)
    print(found.end, "|", found.kind)
"""


@pytest.mark.slow
def test_every_kind_of_failure_is_seen() -> None:
    done = python("-c", KINDS)
    assert done.stdout.splitlines() == [
        "ran | ",
        "refused | UsageError",
        "failed | unsafe program",
        "failed | SIGSEGV",
        "failed | no end",
        "failed | large",
        "failed | ZeroDivisionError in <string>:<lambda>",
        "failed | RuntimeWarning in <string>:<lambda>",
        "failed | exit code 7",
    ], done.stderr
