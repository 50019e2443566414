"""A real control group of this machine: `pick` follows its limit and ignores its page cache."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gguf_hub.resources.cgroup import parse_membership, parse_mounts
from gguf_hub.units import MIB

LIMIT_BYTES = 600 * MIB
CACHE_BYTES = 200 * MIB


@dataclass(frozen=True)
class Group:
    """A group of our own, and the names of its files."""

    folder: Path
    limit: str
    usage: str


def groups_of_this_process(version: int) -> Path | None:
    """The folder of this process's memory group, as far as there is one."""
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
    membership = parse_membership(Path("/proc/self/cgroup").read_text())
    wanted = "" if version == 2 else "memory"
    for name, path in membership:
        for mount in mounts:
            if name == mount.controller == wanted:
                return Path(mount.point) / path.lstrip("/")
    return None


@pytest.fixture(params=[1, 2], ids=["version 1", "version 2"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """A memory group with a limit below that of this process; skipped where none may be made."""
    if sys.platform != "linux":
        pytest.skip("no control groups on this system")
    parent = groups_of_this_process(request.param)
    if parent is None:
        pytest.skip(f"no memory hierarchy of version {request.param} is mounted")
    folder = parent / f"gguf-hub-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no group may be made in {parent}: {error.strerror}")
    names = ("memory.max", "memory.current")
    if request.param == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    try:
        try:
            (folder / names[0]).write_text(str(LIMIT_BYTES))
        except OSError as error:
            pytest.skip(f"memory is not delegated to {parent}: {error.strerror}")
        yield Group(folder, *names)
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)


@pytest.mark.slow
def test_pick_follows_the_limit_and_ignores_page_cache(group: Group, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    code = f"""
import os, sys
from pathlib import Path
Path({str(group.folder / "cgroup.procs")!r}).write_text(str(os.getpid()))
with open({str(large)!r}, "wb") as file:
    for _ in range({CACHE_BYTES // MIB}):
        file.write(bytes({MIB}))
    os.fsync(file.fileno())
used = int(Path({str(group.folder / group.usage)!r}).read_text())
print(used, file=sys.stderr)
from gguf_hub.cli.main import run
run(["pick", "--json", "--no-probe"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    used_bytes = int(done.stderr.split()[0])
    assert used_bytes > CACHE_BYTES, "the page cache counts in the group's own figure"
    data = json.loads(done.stdout)
    assert data["machine"]["ram_limit_bytes"] == LIMIT_BYTES
    # what Python itself takes is some 50 MB, kernel memory included
    assert LIMIT_BYTES - 120 * MIB < data["ram_bytes"] < LIMIT_BYTES
    assert data["recommended"] is None
