"""Downloads that clients ask for, through the download engine, and their progress."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

from gguf_hub.api.server.router.events import ModelEvents
from gguf_hub.api.server.worker_pool import WorkerPool
from gguf_hub.errors import UsageError
from gguf_hub.hub.download.refs import Target
from gguf_hub.hub.download.total import COUNTED
from gguf_hub.hub.resolve import Resolver
from gguf_hub.progress import Progress, SilentProgress, Task

INTERVAL_S = 0.2
"""Between two reports of progress."""
_MAX_PULLS = 16

Line = dict[str, Any]


@dataclass
class FileState:
    """How far a file has come.

    Attributes:
        label: What is being done and to which file, as ``Progress.task`` has it.
        total: Bytes of the file.
        done: Bytes that are there.
    """

    label: str
    total: int
    done: int = 0

    @property
    def name(self) -> str:
        """The file."""
        return self.label.partition(" ")[2] or self.label

    @property
    def is_download(self) -> bool:
        """Whether bytes come; otherwise files are checked or copied."""
        return self.label.startswith(COUNTED)


@dataclass(eq=False)
class Pull:
    """One download, which several clients may watch.

    Attributes:
        name: As it was asked for.
        files: What was begun, in order.
        digests: File name -> SHA-256, where the hub says it.
        is_cancelled: It is to stop.
        n_watching: Clients that watch it; when the last one goes, it stops.
        work: Done at its end, or with what went wrong.
    """

    name: str
    files: list[FileState] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    is_cancelled: threading.Event = field(default_factory=threading.Event)
    n_watching: int = 0
    work: asyncio.Task[None] = field(init=False)

    def progress(self) -> Progress:
        """Return what the engine reports to, in its threads."""
        return _PullProgress(self)


class _PullProgress(SilentProgress):
    def __init__(self, pull: Pull) -> None:
        self._pull = pull

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        """Follow a file."""
        state = FileState(label, total or 0, done)
        if unit == "B" and " " in label:  # not the total of all
            self._pull.files.append(state)
        return _PullTask(self._pull, state)


class _PullTask:
    def __init__(self, pull: Pull, state: FileState) -> None:
        self._pull, self._state = pull, state
        self._lock = threading.Lock()

    def advance(self, n: int) -> None:
        """Count bytes; stop the engine if nobody wants them any more."""
        if self._pull.is_cancelled.is_set():
            raise CancelledError
        with self._lock:
            self._state.done += n

    def __enter__(self) -> _PullTask:
        return self

    def __exit__(self, *error: object) -> None:
        """End nothing."""


class Pulls:
    """The downloads of a router.

    Args:
        resolver: Makes a resolver that reports to a progress.
        events: Where to report them.
        has_changed: Called in a thread when files have come.
    """

    def __init__(
        self,
        resolver: Callable[[Progress], Resolver],
        events: ModelEvents,
        has_changed: Callable[[], object],
    ) -> None:
        self._resolver, self._events, self._has_changed = resolver, events, has_changed
        self._pool = WorkerPool("gguf-hub-pulls", n_threads=2, n_waiting=_MAX_PULLS)
        self._pulls: dict[str, Pull] = {}

    def target_of(self, name: str) -> Target:
        """Return what a name means, on the hub.

        Raises:
            GgufHubError: It means nothing.
        """
        target = self._resolver(SilentProgress()).target(name, is_remote=True)
        if not isinstance(target, Target):
            raise UsageError(f"`{name:.200}`: expected a model of the hub")
        return target

    def begin(self, name: str, target: Target) -> Pull:
        """Download a model in the background, or join in if that is done already."""
        pull = self._pulls.get(name)
        if pull is None or pull.is_cancelled.is_set():
            before = pull.work if pull is not None else None
            pull = self._pulls[name] = Pull(name)
            pull.work = asyncio.get_running_loop().create_task(self._run(pull, target, before))
            pull.work.add_done_callback(_retrieve)
        return pull

    def cancel(self, name: str) -> bool:
        """Stop a download, of which the next one goes on; return whether there was one."""
        pull = self._pulls.get(name)
        if pull is not None:
            pull.is_cancelled.set()
        return pull is not None

    def close(self) -> None:
        """Stop all downloads, without waiting."""
        for name in list(self._pulls):
            self.cancel(name)
        self._pool.close()

    async def watch(self, pull: Pull) -> AsyncIterator[Line]:
        """Yield what Ollama says of a download; it stops when nobody watches it any more.

        Raises:
            GgufHubError: It has failed.
        """
        pull.n_watching += 1
        try:
            yield {"status": "pulling manifest"}
            shown: dict[int, int] = {}
            while not pull.work.done():
                await asyncio.wait({pull.work}, timeout=INTERVAL_S)
                for line in _news(pull, shown):
                    yield line
            try:
                pull.work.result()
            except asyncio.CancelledError:
                raise UsageError(f"`{pull.name:.200}`: the download was stopped") from None
            yield {"status": "writing manifest"}
            yield {"status": "success"}
        finally:
            pull.n_watching -= 1
            if not pull.n_watching:
                pull.is_cancelled.set()

    async def _run(self, pull: Pull, target: Target, before: asyncio.Task[None] | None) -> None:
        """Download, once ``before``, a download of the same name that was stopped, has ended."""
        reports = asyncio.get_running_loop().create_task(self._report(pull))
        try:
            if before is not None:
                await asyncio.wait({before})
            await self._pool.run(self._fetch, pull, target)
        except (CancelledError, asyncio.CancelledError):
            self._events.publish(pull.name, "download_failed", {"error": "stopped"})
            raise asyncio.CancelledError from None
        except Exception as exc:
            self._events.publish(pull.name, "download_failed", {"error": str(exc)})
            raise
        else:
            self._events.publish(pull.name, "download_finished")
        finally:
            reports.cancel()
            if self._pulls.get(pull.name) is pull:
                del self._pulls[pull.name]

    def _fetch(self, pull: Pull, target: Target) -> None:
        resolver = self._resolver(pull.progress())
        confirm = resolver.confirm

        def note_digests(plan: Any, fetcher: Any) -> None:
            """Remember the SHA-256 of each file, for the progress of Ollama's clients."""
            confirm(plan, fetcher)
            for planned in plan.files:
                if planned.file.sha256:
                    pull.digests[planned.file.path.rpartition("/")[2]] = planned.file.sha256

        resolver.confirm = note_digests
        resolver.get(target)
        self._has_changed()

    async def _report(self, pull: Pull) -> None:
        """Send events of a download while it goes on."""
        shown: dict[int, int] = {}
        while True:
            await asyncio.sleep(INTERVAL_S)
            if list(_news(pull, shown)):
                data = {file.name: {"done": file.done, "total": file.total}
                        for file in pull.files if file.is_download}  # fmt: skip
                self._events.publish(pull.name, "download_progress", data)


def _news(pull: Pull, shown: dict[int, int]) -> list[Line]:
    """Return a line for each file that has come further than was shown."""
    lines = []
    for i, file in enumerate(list(pull.files)):
        if shown.get(i) == file.done:
            continue
        shown[i] = file.done
        digest = pull.digests.get(file.name)
        status = f"pulling {digest[:12] if digest else file.name}"
        if not file.is_download:
            status = "verifying sha256 digest"
        more = {"digest": f"sha256:{digest}"} if digest else {}
        done = min(file.done, file.total)
        lines.append({"status": status, **more, "total": file.total, "completed": done})
    return lines


def _retrieve(work: asyncio.Task[None]) -> None:
    """Mark an error as seen: who watches gets it."""
    with contextlib.suppress(asyncio.CancelledError):
        work.exception()
