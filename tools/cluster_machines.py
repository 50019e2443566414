"""Machines for checks of clusters: Ray nodes of one Linux machine that share nothing but its CPUs.

Each has a network namespace with an address of its own, a memory cgroup, and folders that it does
not see. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = Path.home() / ".cache" / "gguf-hub"
CGROUPS = Path("/sys/fs/cgroup/memory")


class Machine:
    """A Ray node in a network namespace and a memory cgroup of its own.

    Args:
        number: From 1; the last byte of its address.
        folder: Where it keeps its files.
        limit_bytes: Of its memory, page cache included.
        hidden: A folder of the real machine that it does not see.
    """

    def __init__(
        self, number: int, folder: Path, limit_bytes: int, hidden: Path | None = None
    ) -> None:
        self.name, self.address = f"ghc{number}", f"10.77.0.{number}"
        self.home = folder / self.name
        self.hidden = hidden
        self.cgroup = CGROUPS / self.name
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", f"{self.name}v", "type", "veth", "peer", "name", "eth0",
            "netns", self.name)  # fmt: skip
        run("ip", "link", "set", f"{self.name}v", "master", "ghcbr", "up")
        for words in (["addr", "add", f"{self.address}/24", "dev", "eth0"],
                      ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):  # fmt: skip
            run("ip", "-n", self.name, *words)
        self.cgroup.mkdir()
        (self.cgroup / "memory.limit_in_bytes").write_text(str(limit_bytes))

    def command(self, *words: str) -> list[str]:
        """Return a command that runs words there; `ip netns exec` gives it its own mounts."""
        hide = f"mount -t tmpfs none {self.hidden}; " if self.hidden else ""
        inner = ["sh", "-c", f'{hide}exec "$@"', "sh", *words]
        enter = f'echo $$ > {self.cgroup}/cgroup.procs; exec ip netns exec {self.name} "$@"'
        return ["sh", "-c", enter, "sh", *inner]

    def environment(self, **more: str) -> dict[str, str]:
        own = {"GGUF_HUB_HOME": str(self.home), "GGUF_HUB_KERNEL_CACHE": str(KERNELS)}
        return {**os.environ, **own, **more}

    def gguf_hub(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "gguf_hub", *words]
        return subprocess.run(self.command(*program), capture_output=True, text=True, cwd=ROOT,
                              env=self.environment(**more), timeout=300)  # fmt: skip

    def join(self, head: Machine, token: str, ram: str) -> None:
        """Join the cluster that another began."""
        done = self.gguf_hub("cluster", "up", "--join", f"{head.address}:6379", "--host",
                             self.address, "--ram", ram, GGUF_HUB_CLUSTER_TOKEN=token)  # fmt: skip
        assert done.returncode == 0, done.stderr

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.cgroup / "cgroup.procs").read_text().split()]

    def signal(self, number: int) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def peak_bytes(self) -> int:
        """The most that all its processes took, and what of files lay in memory for them."""
        return int((self.cgroup / "memory.max_usage_in_bytes").read_text())

    def stage_pids(self) -> list[int]:
        """Return the processes of stages."""
        return [
            pid for pid in self.pids() if b"StageActor" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def remove(self) -> None:
        for _ in range(50):
            if not self.pids():
                break
            self.signal(signal.SIGKILL)
            time.sleep(0.1)
        self.cgroup.rmdir()
        run("ip", "netns", "del", self.name)


def held_bytes(pid: int) -> tuple[int, int]:
    """Return what a process holds: pages of model files in memory, and memory of its own.

    Not counted are the libraries that Python and its packages are, which programs share.
    """
    weights = own = 0
    is_weights = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            name = rest[4] if len(rest) > 4 else ""
            is_weights = name.endswith((".gguf", ".gguf-slice"))
        elif first == "Rss:" and is_weights:
            weights += int(rest[0]) * 1024
        elif first == "Anonymous:":
            own += int(rest[0]) * 1024
    return weights, own


def run(*words: str) -> None:
    """Run a command of the system."""
    subprocess.run(words, check=True)


@contextlib.contextmanager
def machines(
    folder: Path, limits: Sequence[int], hidden: Path | None = None
) -> Iterator[list[Machine]]:
    """Machines on one network; all but the first do not see a folder."""
    run("ip", "link", "add", "ghcbr", "type", "bridge")
    run("ip", "addr", "add", "10.77.0.254/24", "dev", "ghcbr")
    run("ip", "link", "set", "ghcbr", "up")
    made: list[Machine] = []
    try:
        for i, limit in enumerate(limits):
            made.append(Machine(i + 1, folder, limit, hidden if i else None))
        yield made
    finally:
        for each in made:
            each.remove()
        run("ip", "link", "del", "ghcbr")


def start(nodes: Sequence[Machine], ram: str) -> str:
    """Make a cluster of machines; return its token."""
    up = nodes[0].gguf_hub("cluster", "up", "--host", nodes[0].address, "--ram", ram)
    assert up.returncode == 0, up.stderr
    token = up.stdout.split("GGUF_HUB_CLUSTER_TOKEN=")[1].split()[0]
    for node in nodes[1:]:
        node.join(nodes[0], token, ram)
    return token
