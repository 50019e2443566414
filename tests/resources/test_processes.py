"""Which processes run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from gguf_hub.resources.processes import is_running, start_time


def test_a_process_runs_until_it_is_killed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = start_time(child.pid)
    assert started is not None
    assert is_running(child.pid, started)
    assert not is_running(child.pid, started - 60)  # the number was another process's then
    child.kill()
    child.communicate()
    assert not is_running(child.pid, started)


@pytest.mark.skipif(os.name != "posix", reason="zombies are POSIX's")
def test_a_process_that_nobody_collected_does_not_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = start_time(child.pid)
    assert started is not None
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays
    assert start_time(child.pid) is not None
    assert not is_running(child.pid, started)
    child.communicate()
