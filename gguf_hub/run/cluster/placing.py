"""Opening stages on the nodes of a cluster, and again when some are gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from gguf_hub.errors import ClusterError, GgufHubError
from gguf_hub.gguf.identity import header_id, tensors_id
from gguf_hub.gguf.manifest import Manifest
from gguf_hub.gguf.shards import Gguf
from gguf_hub.progress import Progress
from gguf_hub.run.cluster import wire
from gguf_hub.run.cluster.hosts import Assignment, Host, StageProcess
from gguf_hub.run.cluster.identity import program_id
from gguf_hub.run.cluster.pipeline import OPEN_S, Pipeline, RemoteStage, StageFailed
from gguf_hub.run.cluster.stage import stage_tensors
from gguf_hub.run.model.settings import ModelSettings

RETURN_S = 20.0
"""How long a node that is needed may take to return, or another one to join."""
SUSPECT_S = 60.0
"""How long a node that has failed is not used where others hold the model, too."""


@dataclass(frozen=True)
class PlacedStage:
    """A stage that is open on a node."""

    assignment: Assignment
    process: StageProcess
    remote: RemoteStage


class Stages:
    """The stages of a model, wherever they are."""

    def __init__(
        self, file: Gguf, settings: ModelSettings, host: Host, pipeline: Pipeline,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._file, self._settings, self._host = file, settings, host
        self._pipeline, self._progress = pipeline, progress
        self._header = header_id(file)
        self._suspects: dict[str, float] = {}
        self.placed: Sequence[PlacedStage] = ()

    def place(self) -> None:
        """Open all stages and wire them; keep those that are open where they belong.

        Raises:
            ClusterError: The nodes do not hold the model, or do not open it.
            GgufHubError: A node cannot open its part.
        """
        is_first = not self.placed
        self._drop_failed()
        deadline = time.monotonic() + RETURN_S
        while True:
            try:
                self._open(self._assign())
                return
            except (GgufHubError, StageFailed) as error:
                self._drop_failed()
                if is_first or time.monotonic() > deadline:
                    raise _as_error(error) from error
                time.sleep(0.5)

    def close(self) -> None:
        """End all processes, and let go of the cluster."""
        for stage in self.placed:
            stage.process.stop()
        self.placed = ()
        self._host.close()

    def _assign(self) -> Sequence[Assignment]:
        """Return where stages go: not to nodes that have failed, unless nothing else holds them."""
        now = time.monotonic()
        without = {node for node, at in self._suspects.items() if now - at < SUSPECT_S}
        try:
            return self._host.assign(self._file, self._settings, without)
        except ClusterError:
            if not without:
                raise
            return self._host.assign(self._file, self._settings, ())

    def _open(self, assignments: Sequence[Assignment]) -> None:
        """Open what is not open yet, all at once; then wire the chain."""
        known = {stage.assignment: stage for stage in self.placed}
        for stage in self.placed:
            if stage.assignment not in assignments:
                stage.remote.close()
                stage.process.stop()
        missing = [a for a in assignments if a not in known]
        for each in missing:
            self._progress.note(f"{_layers(each)} on `{each.node}`")
        with ThreadPoolExecutor(max(1, len(missing))) as pool:
            futures = [pool.submit(self._open_one, each) for each in missing]
        errors = [future.exception() for future in futures]
        known |= {f.result().assignment: f.result() for f in futures if not f.exception()}
        self.placed = [known[each] for each in assignments if each in known]
        for each, error in zip(missing, errors, strict=True):
            if error is not None:
                self._suspects[each.node] = time.monotonic()
                raise error
        self._pipeline.wire(
            [stage.remote for stage in self.placed],
            [stage.process.address for stage in self.placed],
        )

    def _open_one(self, assignment: Assignment) -> PlacedStage:
        process = self._host.start(assignment.node)
        try:
            remote = self._pipeline.reach(assignment.node, process.address, self._host.key)
            names = stage_tensors(self._file, assignment.stage)
            path = str(self._file.path.absolute())
            offer = None
            if not self._pipeline.ask(remote, {"do": "find", "path": path}).head["is_here"]:
                offer = self._host.offer(self._file, names)
            with self._progress_of(remote, offer):
                answer = self._pipeline.ask(remote, {
                    "do": "open", "program": program_id(), "path": path, "offer": offer,
                    "header": self._header, "tensors": tensors_id(self._file, names),
                    "stage": asdict(assignment.stage),
                    "settings": wire.settings_to_json(self._settings),
                }, timeout_s=None if offer else OPEN_S)  # fmt: skip
        except StageFailed as error:
            process.stop()
            raise ClusterError(
                f"node `{assignment.node}` was lost while its layers were opened: {remote.failure}",
                hint="`gguf-hub cluster status` shows the nodes",
            ) from error
        except BaseException:
            process.stop()
            raise
        remote.facts = answer.head
        for text in answer.head["notes"]:
            self._progress.note(f"node `{assignment.node}`: {text}")
        return PlacedStage(assignment, process, remote)

    @contextlib.contextmanager
    def _progress_of(self, remote: RemoteStage, offer: Mapping[str, Any] | None) -> Iterator[None]:
        """Show what a node fetches in the meantime, as its signs of life tell."""
        if not offer:
            yield
            return
        label = f"fetch {self._file.path.name} ({remote.node})"
        with self._progress.task(label, Manifest.from_json(offer["manifest"]).hashed_bytes) as task:
            shown = 0

            def show(n_bytes: int) -> None:
                """Advance by what came since; the other machine reports totals."""
                nonlocal shown
                task.advance(n_bytes - shown)
                shown = n_bytes

            remote.on_fetched = show
            try:
                yield
            finally:
                remote.on_fetched = lambda n_bytes: None

    def _drop_failed(self) -> None:
        """Forget stages that are gone, and suspect their nodes."""
        for stage in self.placed:
            if stage.remote.failure:
                node = stage.assignment.node
                self._progress.note(f"node `{node}` is lost ({stage.remote.failure}): "
                                    f"{_layers(stage.assignment)}: placed anew")  # fmt: skip
                self._suspects[node] = time.monotonic()
                stage.process.stop()
        self.placed = [stage for stage in self.placed if not stage.remote.failure]


def _layers(assignment: Assignment) -> str:
    """Return what a stage holds: ``embeddings and layers 0 to 7``."""
    stage = assignment.stage
    parts = ["embeddings"] * stage.has_embedding
    if stage.end is None or stage.end > stage.first:
        last = "the last" if stage.end is None else stage.end - 1
        parts.append(f"layers {stage.first} to {last}")
    return " and ".join([*parts, *["head"] * stage.has_head])


def _as_error(error: GgufHubError | StageFailed) -> GgufHubError:
    if isinstance(error, GgufHubError):
        return error
    return ClusterError("a node was lost while its layers were opened",
                        hint="`gguf-hub cluster status` shows the nodes")  # fmt: skip
