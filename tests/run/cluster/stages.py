"""Clusters of threads and of processes on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gguf_hub.gguf.shards import open_gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.cluster.hosts import ChildStage, LocalHost, StageProcess, ThreadStage
from gguf_hub.run.cluster.model import ClusterModel
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer


class RecordingHost(LocalHost):
    """Nodes of this machine; remembers the processes of each, and which nodes are switched off."""

    def __init__(self, nodes: Sequence[str], start: Any = ChildStage, n_stages: int | None = None):
        super().__init__(nodes, start, n_stages)
        self.processes: dict[str, StageProcess] = {}

    def start(self, node: str) -> StageProcess:
        self.processes[node] = super().start(node)
        return self.processes[node]


class Notes:
    """Keeps what is shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    task = SILENT.task


@contextmanager
def opened(
    path: Path, host: LocalHost, progress: Progress = SILENT, **settings: Any
) -> Iterator[tuple[Transformer, ClusterModel]]:
    """A model in one process, and the same over the nodes of a host."""
    chosen = ModelSettings(**settings)
    with (
        open_gguf(path) as file,
        Transformer.open(file, chosen) as one,
        ClusterModel.open(file, chosen, host=host, progress=progress) as several,
    ):
        yield one, several


def thread_host(n_nodes: int, builder: KernelBuilder | None = None) -> RecordingHost:
    """Nodes that are threads of this process."""
    names = [f"node-{i}" for i in range(n_nodes)]
    return RecordingHost(names, partial(ThreadStage, builder=builder))
