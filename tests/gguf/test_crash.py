from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.synth import TINY, write_mixtral

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def points(action: str, *args: object) -> int:
    """Run ``killing.py`` and return how many times the process was killed."""
    command = [sys.executable, "-m", "tests.gguf.killing", action, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_an_upgrade_killed_anywhere_harms_nothing(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY)
    assert points("upgrade", path, tmp_path / "out.gguf") >= 50


@pytest.mark.slow
def test_an_edit_killed_anywhere_can_be_finished(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY)
    assert points("edit", path, tmp_path / "out.gguf") >= 10
