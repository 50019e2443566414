"""A stage as a process of its own: what the driver asks of it, in order.

Threads: one computes (``_work``), one reads each connection, one shows that the process lives. A
driver opens the first connection and the stage before this one another; when the driver's ends, so
does the process. Messages are passed down the chain in the order in which they came, an error in
place of what a stage could not compute, so that whoever sent several finds as many answers.

An ``epoch`` is one wiring of the chain. What belongs to an earlier one is dropped.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import ClusterError, GgufHubError
from gguf_hub.gguf.identity import header_id, tensors_id
from gguf_hub.gguf.overrides import overridden
from gguf_hub.gguf.shards import Gguf, open_gguf, open_slice
from gguf_hub.run.cluster import wire
from gguf_hub.run.cluster.files import FetchCount, SharedFiles, StageFiles
from gguf_hub.run.cluster.identity import program_id, require_same_program
from gguf_hub.run.cluster.links import (
    Address,
    Link,
    LinkLostError,
    Message,
    accept,
    connect,
    listen,
)
from gguf_hub.run.cluster.stage import StageModel, stage_tensors
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ModelSettings

BEAT_S = 0.5
"""Time between two signs of life."""
ORPHAN_S = 120.0
"""After so long without a word from the driver the stage ends itself."""

RATE_S = 10.0


class StageServer:
    """Serves one stage to one driver.

    Args:
        key: Of the cluster; whoever does not know it is not answered.
        host: Address to listen on.
        files: Finds or fetches the file; the driver's path by default.
        builder: Where machine code comes from; for this CPU when None.

    Attributes:
        address: Where it listens.
        is_over: Set when the driver is gone.
    """

    def __init__(
        self,
        key: bytes,
        host: str = "127.0.0.1",
        files: StageFiles | None = None,
        builder: KernelBuilder | None = None,
    ) -> None:
        self._key, self._files, self._builder = key, files or SharedFiles(), builder
        self._fetching: FetchCount | None = None
        self._listener = listen(host)
        self.address: Address = (host, self._listener.getsockname()[1])
        self.is_over = threading.Event()
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._driver: Link | None = None
        self._next: Link | None = None
        self._epoch = 0
        self._begun_at = time.monotonic()
        self._n_done = 0
        self._rate = Rate()
        self._file: Gguf | None = None
        self._path = ""  # as the driver names it
        self._model: StageModel | None = None
        self._links: list[Link] = []
        for run in (self._accept, self._work, self._beat):
            threading.Thread(target=run, daemon=True, name=f"gguf-hub-stage{run.__name__}").start()

    def close(self) -> None:
        """End the connections and the model."""
        _close_listener(self._listener)
        for link in (*self._links, self._next):
            if link is not None:
                link.close()
        self._inbox.put(None)
        self.is_over.set()

    def status(self) -> dict[str, Any]:
        """Return what the stage holds and has done."""
        model = self._model
        if model is None:
            return {"model": Path(self._path).name, "layers": [], "n_passes": 0}
        layers = range(len(model.config.layers))[model.stage.first : model.stage.end]
        return {
            "model": Path(self._path).name,
            "layers": [layers.start, layers.stop],
            "weights_bytes": model.weights_bytes,
            "cache_bytes": model.held_cache_bytes,
            "n_passes": self._n_done,
            "tok_per_s": self._rate.tok_per_s,
        }

    # -- connections -----------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self.is_over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        link = accept(connection, self._key)
        if link is None:
            return
        self._links.append(link)
        try:
            role = link.receive().head.get("role")
            link.send({"do": "hello", "program": program_id()})
            link.wait_forever()
            if role == "driver" and self._driver is None:
                self._driver = link
                self._read_driver(link)
            elif role == "stage":
                self._read_stage(link)
        except LinkLostError:
            pass
        link.close()
        if link is self._driver:
            self.close()

    def _read_driver(self, link: Link) -> None:
        """Do what wires the chain at once, although the worker may be busy or blocked."""
        while True:
            message = link.receive()
            if message.head["do"] == "wire":
                self._answer_to(link, message, self._wire)
            elif message.head["do"] != "ping":
                self._inbox.put(message)

    def _read_stage(self, link: Link) -> None:
        while True:
            self._inbox.put(link.receive())

    def _wire(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """Forget the old chain; connect to the next stage of the new one."""
        self._epoch = head["epoch"]
        if self._next is not None:
            self._next.close()
            self._next = None
        if head["next"] is not None:
            try:
                self._next, _ = connect(tuple(head["next"]), self._key, "stage")
            except LinkLostError as error:
                raise ClusterError(str(error), hint="the machines must reach each other") from error
        return {}

    def _beat(self) -> None:
        while not self.is_over.wait(BEAT_S):
            heard_at = self._driver.received_at if self._driver is not None else self._begun_at
            if time.monotonic() - heard_at > ORPHAN_S:
                self.close()
            if self._driver is not None:
                try:
                    self._driver.send({"do": "beat", "done": self._n_done, **self._fetched()})
                except LinkLostError:
                    self.close()

    def _fetched(self) -> dict[str, Any]:
        fetching = self._fetching
        return {"fetched": fetching.n_bytes} if fetching else {}

    # -- work ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (message := self._inbox.get()) is not None:
            try:
                self._handle(message)
            except LinkLostError:  # the driver wires the chain anew
                self._report_lost_next(message.head.get("epoch"))
            except Exception:  # a fault of ours: the driver must not wait for an answer
                self.close()
                raise
        if self._model is not None:
            self._model.close()
        if self._file is not None:
            self._file.close()

    def _handle(self, message: Message) -> None:
        head = message.head
        assert self._driver is not None
        if head["do"] == "open":
            self._answer_to(self._driver, message, self._open)
        elif head["do"] == "find":
            self._answer_to(self._driver, message, self._find)
        elif head["do"] == "each":
            self._answer_to(self._driver, message, self._each, message.numbers)
        elif head.get("epoch") == self._epoch:
            self._pass_on(message)
            self._n_done += 1

    def _pass_on(self, message: Message) -> None:
        """Do a stage's part of a message, and send it on."""
        head, numbers = message.head, message.numbers
        if "error" not in head:
            try:
                numbers = self._compute(head, numbers)
            except Exception as error:
                head, numbers = {**head, "error": wire.error_to_json(error)}, None
        if self._next is not None:
            self._next.send(head, numbers)
        else:
            assert self._driver is not None
            answer = {"do": "answer", "id": head["id"]}
            if "error" in head:
                answer["error"] = head["error"]
            self._driver.send(answer, numbers)

    def _compute(
        self, head: Mapping[str, Any], numbers: NDArray[np.float32] | None
    ) -> NDArray[np.float32] | None:
        model = self._model
        assert model is not None
        if head["do"] == "checkpoint":
            model.checkpoint(head["n_positions"], head["slot"])
        elif head["do"] == "copy":
            model.copy_cache(head["source"], head["target"], head["n_positions"])
        else:
            batch = wire.batch_from_json(head)
            result = model.compute(batch, numbers)
            self._rate.count(len(batch.tokens))
            if head["is_hidden"] and model.stage.has_head:
                return model.hidden(len(batch.tokens))
            return result
        return None

    def _report_lost_next(self, epoch: int | None) -> None:
        assert self._driver is not None
        try:
            self._driver.send({"do": "lost", "epoch": epoch})
        except LinkLostError:
            self.close()

    def _answer_to(
        self, link: Link, message: Message, act: Callable[..., Any], *arguments: Any
    ) -> None:
        """Answer the driver itself, past the chain."""
        answer: dict[str, Any] = {"do": "answer", "id": message.head["id"]}
        numbers = None
        try:
            result = act(message.head, *arguments)
            if isinstance(result, dict):
                answer |= result
            else:
                numbers = result
        except Exception as error:
            answer["error"] = wire.error_to_json(error)
        link.send(answer, numbers)

    def _open(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """Open the file and the model, in place of what was open."""
        require_same_program(head["program"], "the driver")
        stage = wire.stage_from_json(head["stage"])
        settings = wire.settings_from_json(head["settings"])
        if self._model is not None:
            self._model.close()
            self._model = None
        n_fetched, count = 0, FetchCount()
        if self._file is None or self._path != head["path"] or head["offer"]:
            paths, n_fetched = self._have(head, count)
            if self._file is not None:
                self._file.close()
            self._file, self._path = _open_same(paths, head, settings), head["path"]
        if tensors_id(self._file, stage_tensors(self._file, stage)) != head["tensors"]:
            raise _other_file(self._file.path, "its weights")
        self._model = StageModel.open_stage(self._file, stage, settings, builder=self._builder)
        return {
            "n_threads": self._model.n_threads,
            "weights_bytes": self._model.weights_bytes,
            "cache_bytes": self._model.held_cache_bytes,
            "active_bytes": self._model.active_bytes,
            "fetched_bytes": n_fetched,
            "notes": count.notes,
        }

    def _find(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """Say whether this machine has the driver's file, or one called so."""
        return {"is_here": self._files.find(Path(head["path"])) is not None}

    def _have(self, head: Mapping[str, Any], count: FetchCount) -> tuple[Sequence[Path], int]:
        """Return the file, or a slice of it, and how many bytes were fetched for that."""
        if head["offer"]:
            self._fetching = count
            try:
                return self._files.fetch(head["offer"], count)
            finally:
                self._fetching = None
        path = self._files.find(Path(head["path"]))
        if path is None:
            raise ClusterError(
                f"{socket.gethostname()} has no copy of `{Path(head['path']).name}`",
                hint="fetch it there with `gguf-hub download` (`gguf-hub mirror` on the machine "
                "that has it serves it), or mount the same folder on all machines",
            )
        return [path], 0

    def _each(
        self, head: Mapping[str, Any], numbers: NDArray[np.uint16] | None
    ) -> NDArray[np.uint16] | dict[str, Any]:
        """Save, load or measure this stage's part of a cache."""
        model, n_positions, slot = self._model, head["n_positions"], head["slot"]
        assert model is not None
        if head["what"] == "save":
            return model.save_cache(n_positions, slot)
        if head["what"] == "load":
            assert numbers is not None
            model.load_cache(numbers, n_positions, slot)
            return {}
        return {"size": model.cache_size(n_positions, slot)}


class Rate:
    """Tokens a second of late."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque(maxlen=256)

    def count(self, n_tokens: int) -> None:
        """Count tokens that are computed now."""
        self._marks.append((time.monotonic(), n_tokens))

    @property
    def tok_per_s(self) -> float:
        """Tokens a second of the last ten seconds."""
        since = time.monotonic() - RATE_S
        return sum(n for at, n in list(self._marks) if at > since) / RATE_S


def _open_same(paths: Sequence[Path], head: Mapping[str, Any], settings: ModelSettings) -> Gguf:
    """Open a file whose header is the driver's.

    Raises:
        ClusterError: It is another file.
    """
    file = open_slice(paths) if head["offer"] else open_gguf(paths[0])
    if header_id(file) != head["header"]:
        file.close()
        raise _other_file(paths[0], "its header")
    if settings.overrides:
        file.read_as(overridden(file.fields, settings.overrides))
    return file


def _other_file(path: Path, what: str) -> GgufHubError:
    return ClusterError(
        f"`{path}` on {socket.gethostname()} is another file than the driver's: {what} differs",
        hint="all machines need the same file; `gguf-hub verify` shows its SHA-256",
    )


def _close_listener(listener: socket.socket) -> None:
    """Close a socket and wake who accepts connections of it."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
