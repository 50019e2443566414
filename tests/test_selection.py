"""Which tests a run takes, by a run of a small folder of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import pytest
from gguf_hub.gguf.types import QuantType as T

pairs = pytest.mark.parametrize("a, b", [(1, 1), (1, 2), (2, 1), (2, 2)])

@pytest.fixture(params=["x", "y"])
def way(request):
    return request.param

@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_grid(n, m): ...

@pairs
def test_pairs(a, b): ...

@pytest.mark.parametrize(argnames=["n"], argvalues=[[1], [2], [3]])
def test_ways(way, n): ...

@pytest.mark.parametrize("type", [T.Q5_1, T.Q4_K, T.IQ1_S])
def test_types(type): ...

@pytest.mark.parametrize("n", range(100))
def test_many(n): ...

@pytest.mark.slow
def test_slow(): ...

def test_plain(): ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = .\naddopts = --strict-markers\n")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.selection"]\n')
    (tmp_path / "test_it.py").write_text(TESTS)
    return tmp_path


def found(folder: Path, *options: str) -> dict[str, int]:
    """Names of tests that pytest would run, with how many cases of each."""
    line = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*line, *options], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = [each for each in done.stdout.splitlines() if "::" in each]
    names = [each.partition("::")[2].partition("[")[0] for each in tests]
    return {name: names.count(name) for name in names}


QUICK = {"test_grid": 6, "test_pairs": 4, "test_ways": 4, "test_types": 1, "test_plain": 1,
         "test_many": 12}  # fmt: skip
ALL = {**QUICK, "test_grid": 12, "test_ways": 6, "test_types": 3, "test_slow": 1, "test_many": 100}


def test_a_quick_look_shows_each_value_once_and_leaves_out_what_is_slow(folder: Path) -> None:
    # a grid: its first row and column; pairs stand together, as they were written
    assert found(folder) == QUICK


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--all"], ["test_it.py"], ["-k", "test"]])
def test_all_run_when_asked_or_named(folder: Path, options: list[str]) -> None:
    assert found(folder, *options) == ALL
