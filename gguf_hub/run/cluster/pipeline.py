"""The driver's end of a chain of stages: sends messages, matches answers, notices who is gone."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from gguf_hub.errors import ClusterError
from gguf_hub.run.cluster.identity import require_same_program
from gguf_hub.run.cluster.links import Link, LinkLostError, Message, connect
from gguf_hub.run.cluster.wire import error_from_json

SILENCE_S = 4.0
"""A stage that showed no sign of life for so long hangs, or cannot be reached."""
PING_S = 1.0
OPEN_S = 600.0
"""Time for a stage to open its part of a model, kernels compiled and files fetched."""

OnFailure = Callable[["RemoteStage", "int | None"], None]


class StageFailed(Exception):
    """A stage is gone; who, says ``Pipeline.failed``."""


class NoAnswer(Exception):
    """Nothing came in time."""


class Answer:
    """What will come of a message; one thread waits for it, once.

    A queue written in C: ``concurrent.futures.Future`` is some hundred lines of Python more, which
    a large model's weights have driven out of all caches when a token's logits come.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def put(self, message: Message | None) -> None:
        """Hand over what came; None where the stage is gone."""
        self._queue.put(message)

    def wait(self, timeout_s: float | None) -> Message:
        """Return what came.

        Raises:
            StageFailed: The stage is gone.
            NoAnswer: Nothing came in time.
        """
        try:
            message = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            raise NoAnswer from None
        if message is None:
            raise StageFailed
        return message


class RemoteStage:
    """A stage's process, as the driver knows it.

    Args:
        node: The node that it runs on.
        link: The driver's connection.
        on_failure: Called with it and None when it is gone; with an epoch when it has lost the
            next stage of that chain.

    Attributes:
        facts: What it said of itself when it opened its part.
        n_done: Messages that it has passed on.
        failure: Why it is gone, or empty.
        on_fetched: Called with how many bytes it has fetched, while it does.
    """

    def __init__(self, node: str, link: Link, on_failure: OnFailure) -> None:
        self.node = node
        self.facts: Mapping[str, Any] = {}
        self.n_done = 0
        self.failure = ""
        self.on_fetched: Callable[[int], None] = lambda n_bytes: None
        self._forgiven_at = 0.0
        self._link = link
        self._on_failure = on_failure
        self._answers: dict[int, Answer] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True, name=f"gguf-hub-{node}").start()

    @classmethod
    def reach(cls, node: str, address: Any, key: bytes, on_failure: OnFailure) -> RemoteStage:
        """Connect to a process of a stage.

        Raises:
            ClusterError: It cannot be reached, or has another version.
        """
        try:
            link, hello = connect(address, key, "driver")
        except LinkLostError as error:
            raise ClusterError(f"node `{node}`: {error}") from error
        try:
            require_same_program(str(hello.head.get("program")), f"node `{node}`")
        except ClusterError:
            link.close()
            raise
        return cls(node, link, on_failure)

    def expect(self, number: int) -> Answer:
        """Return the answer that will come under a number."""
        answer = Answer()
        with self._lock:
            if self.failure:
                raise StageFailed
            self._answers[number] = answer
        return answer

    def send(self, head: Mapping[str, Any], numbers: NDArray[Any] | None = None) -> None:
        """Send a message.

        Raises:
            StageFailed: It is gone.
        """
        try:
            self._link.send(head, numbers)
        except LinkLostError as error:
            self.fail(str(error))
            raise StageFailed from error

    @property
    def heard_at(self) -> float:
        """When it showed a sign of life, of ``time.monotonic``."""
        return max(self._link.received_at, self._forgiven_at)

    def forgive(self) -> None:
        """Count its silence from now on."""
        self._forgiven_at = time.monotonic()

    def ping(self) -> None:
        """Show that the driver lives; never wait for a stage that does not read."""
        try:
            self._link.try_send({"do": "ping"})
        except LinkLostError as error:
            self.fail(str(error))

    def fail(self, reason: str) -> None:
        """Take it for gone; whoever waits for it is told so."""
        with self._lock:
            if self.failure:
                return
            self.failure = reason
        self._on_failure(self, None)
        self.drop()
        self._link.close()

    def drop(self) -> None:
        """Give up all answers that have not come."""
        with self._lock:
            answers, self._answers = list(self._answers.values()), {}
        for answer in answers:
            answer.put(None)

    def close(self) -> None:
        """End the connection, and so the process."""
        self.failure = self.failure or "closed"
        self._link.close()

    def _read(self) -> None:
        try:
            while True:
                self._take(self._link.receive())
        except LinkLostError as error:
            self.fail(str(error))

    def _take(self, message: Message) -> None:
        head = message.head
        if head["do"] == "beat":
            self.n_done = head["done"]
            if "fetched" in head:
                self.on_fetched(head["fetched"])
        elif head["do"] == "answer":
            with self._lock:
                answer = self._answers.pop(head["id"], None)
            if answer is not None:
                answer.put(message)
        elif head["do"] == "lost":
            self._on_failure(self, head["epoch"])


class Pipeline:
    """Stages in a chain.

    Attributes:
        stages: In the order of the layers.
    """

    def __init__(self) -> None:
        self.stages: Sequence[RemoteStage] = ()
        self.is_broken = False
        self._lock = threading.Lock()
        self._known: list[RemoteStage] = []  # those that are being opened, too
        self._epoch = 0
        self._numbers = itertools.count()
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="gguf-hub-watch").start()

    @property
    def failed(self) -> list[RemoteStage]:
        """The stages that are gone."""
        return [stage for stage in self.stages if stage.failure]

    def reach(self, node: str, address: Any, key: bytes) -> RemoteStage:
        """Connect to a process of a stage; it is in no chain yet."""
        stage = RemoteStage.reach(node, address, key, self._break)
        with self._lock:
            self._known = [*(s for s in self._known if not s.failure), stage]
        return stage

    def wire(self, stages: Sequence[RemoteStage], addresses: Sequence[Any]) -> None:
        """Make a chain of stages, last to first; what an earlier chain was at is forgotten.

        Raises:
            StageFailed: One is gone.
            ClusterError: One does not reach the next.
        """
        self.stages, self.is_broken = stages, True
        self._epoch += 1
        for stage in stages:
            stage.drop()
        for i, stage in reversed(list(enumerate(stages))):
            following = list(addresses[i + 1]) if i + 1 < len(stages) else None
            self.ask(stage, {"do": "wire", "epoch": self._epoch, "next": following}, timeout_s=20.0)
        self.is_broken = False
        if self.failed:  # meanwhile
            self.is_broken = True
            raise StageFailed

    def ask(
        self, stage: RemoteStage, head: Mapping[str, Any], numbers: NDArray[Any] | None = None,
        *, timeout_s: float | None = OPEN_S,
    ) -> Message:  # fmt: skip
        """Ask one stage, and wait for its answer.

        Raises:
            StageFailed: It is gone.
            GgufHubError: It cannot do it.
        """
        number = next(self._numbers)
        answer = stage.expect(number)
        stage.send({**head, "id": number}, numbers)
        return self._result(answer, f"node `{stage.node}`", timeout_s)

    def send(self, head: Mapping[str, Any]) -> Answer:
        """Send a message down the chain; the last stage will answer.

        Raises:
            StageFailed: A stage is gone.
        """
        if self.is_broken:
            raise StageFailed
        number = next(self._numbers)
        answer = self.stages[-1].expect(number)
        self.stages[0].send({**head, "id": number, "epoch": self._epoch})
        return answer

    def wait(self, answer: Answer) -> Message:
        """Wait for what ``send`` returned.

        Raises:
            StageFailed: A stage is gone.
            GgufHubError: One could not do it.
        """
        return self._result(answer, "a stage of the cluster", None)

    def _result(self, answer: Answer, where: str, timeout_s: float | None) -> Message:
        try:
            message = answer.wait(timeout_s)
        except NoAnswer as exc:
            raise ClusterError(f"{where} does not answer in {timeout_s:.0f} s") from exc
        if "error" in message.head:
            raise error_from_json(message.head["error"], where)
        return message

    def close(self) -> None:
        """End all connections; the processes end by themselves."""
        self._is_over.set()
        for stage in self._known:
            stage.close()

    def _break(self, stage: RemoteStage, epoch: int | None) -> None:
        """Wake whoever waits: a stage of the chain is gone, or its way to the next."""
        if epoch in (None, self._epoch) and any(stage is own for own in self.stages):
            self.is_broken = True
            for own in self.stages:
                own.drop()

    def _watch(self) -> None:
        """Notice stages that show no sign of life, and show ours."""
        pinged_at = woke_at = time.monotonic()
        while not self._is_over.wait(0.25):
            now = time.monotonic()
            if now - woke_at > 2.0:  # this process was stopped: their signs wait to be read
                for stage in self._known:
                    stage.forgive()
            woke_at = now
            for stage in self._known:
                if not stage.failure and now - stage.heard_at > SILENCE_S:
                    stage.fail(f"no sign of life for {SILENCE_S:.0f} s")
            if now - pinged_at > PING_S:
                pinged_at = now
                self._ping()

    def _ping(self) -> None:
        for stage in self._known:
            if not stage.failure:
                stage.ping()
