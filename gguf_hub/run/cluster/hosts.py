"""Who starts the processes of stages, and where: the seam between the driver and a cluster."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from gguf_hub.errors import ClusterError
from gguf_hub.gguf.shards import Gguf
from gguf_hub.run.cluster.files import StageFiles
from gguf_hub.run.cluster.links import Address
from gguf_hub.run.cluster.server import StageServer
from gguf_hub.run.cluster.stage import count_layers
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.program import Stage
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.subprocesses import start_python

KEY_BYTES = 32
_PASSED = ("GGUF_HUB_KERNEL_CACHE", "GGUF_HUB_ISA", "GGUF_HUB_HOME")


@dataclass(frozen=True)
class Assignment:
    """A stage, and the node that holds it."""

    node: str
    stage: Stage


class StageProcess(Protocol):
    """A process that serves a stage.

    Attributes:
        address: Where it listens.
    """

    address: Address

    def stop(self) -> None:
        """End it, whatever it does."""


class Host(Protocol):
    """The machines of a cluster.

    Attributes:
        key: What all processes of this driver prove to know.
    """

    key: bytes

    def assign(
        self, file: Gguf, settings: ModelSettings, without: Collection[str]
    ) -> Sequence[Assignment]:
        """Return which node holds which stage, in the order of the layers.

        Args:
            file: The model.
            settings: How it is opened.
            without: Nodes that have failed.

        Raises:
            ClusterError: The nodes that are left do not hold it.
        """
        ...

    def start(self, node: str) -> StageProcess:
        """Start a process on a node.

        Raises:
            ClusterError: The node is not there or cannot.
        """
        ...

    def offer(self, file: Gguf, names: Collection[str]) -> Mapping[str, Any] | None:
        """Return what a node that lacks the file needs to fetch some of its tensors.

        Args:
            file: The model.
            names: The tensors.

        Returns:
            JSON for ``StageFiles.fetch``; None where nodes see the driver's files.
        """
        ...

    def close(self) -> None:
        """Let go of the cluster."""


def even_stages(n_layer: int, n_stages: int) -> list[Stage]:
    """Return stages of about as many layers each; embeddings in the first, head in the last."""
    ends = [n_layer * (i + 1) // n_stages for i in range(n_stages)]
    return [
        Stage(first, end, has_embedding=i == 0, has_head=i == n_stages - 1)
        for i, (first, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


class LocalHost:
    """Nodes that are processes or threads of this machine: ``--cluster local:2``, and tests.

    Args:
        nodes: Their names.
        start: Starts a stage; a process by default.
        n_stages: How many of the nodes are used at once; all by default.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        start: Callable[[bytes], StageProcess] | None = None,
        n_stages: int | None = None,
    ) -> None:
        self.key = secrets.token_bytes(KEY_BYTES)
        self.nodes = list(nodes)
        self._start = start or ChildStage
        self._n_stages = n_stages or len(nodes)

    def assign(
        self, file: Gguf, settings: ModelSettings, without: Collection[str]
    ) -> Sequence[Assignment]:
        """Share the layers out evenly."""
        nodes = [node for node in self.nodes if node not in without][: self._n_stages]
        if len(nodes) < self._n_stages:
            raise ClusterError(
                f"{len(nodes)} nodes are left: expected {self._n_stages}",
                hint="start the others again",
            )
        stages = even_stages(count_layers(file), len(nodes))
        return [Assignment(*pair) for pair in zip(nodes, stages, strict=True)]

    def start(self, node: str) -> StageProcess:
        """Start a process of this machine."""
        return self._start(self.key)

    def offer(self, file: Gguf, names: Collection[str]) -> Mapping[str, Any] | None:
        """Offer nothing: the file is on this machine."""
        return None

    def close(self) -> None:
        """Nothing is held."""


class ThreadStage:
    """A stage in threads of this process."""

    def __init__(
        self, key: bytes, builder: KernelBuilder | None = None, files: StageFiles | None = None
    ) -> None:
        self.server = StageServer(key, files=files, builder=builder)
        self.address = self.server.address

    def stop(self) -> None:
        """End its connections."""
        self.server.close()


class ChildStage:
    """A stage in a child process, which ends when its stdin is closed.

    Raises:
        ClusterError: It does not start.
    """

    def __init__(self, key: bytes) -> None:
        start = partial(start_python, "gguf_hub.run.cluster.child", passed=_PASSED)
        self.child = start(stderr=sys.stderr.fileno()) if _has_stderr() else start()
        assert self.child.stdin is not None and self.child.stdout is not None
        try:
            self.child.stdin.write(json.dumps({"key": key.hex()}).encode() + b"\n")
            self.child.stdin.flush()
            host, port = json.loads(self.child.stdout.readline())["address"]
        except (OSError, ValueError) as exc:
            self.stop()
            raise ClusterError("the process of a stage does not start") from exc
        self.address: Address = (host, port)

    def stop(self) -> None:
        """Kill the process."""
        self.child.kill()
        for pipe in (self.child.stdin, self.child.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self.child.wait()


def _has_stderr() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False
