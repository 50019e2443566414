"""Which models are loaded: on demand, as far as there is room, for as long as they are used.

All methods run in the event loop's thread, so that none of them needs a lock. A model that must
make room is the one that has gone longest without a request. While it answers, it is drained: it
finishes what it has, and requests that come for it meanwhile wait for their turn behind those that
wait already. So nobody is cut off, and nobody waits forever for a model that is always busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from gguf_hub.api.server.router.children import (
    Child,
    LoadError,
    StartProcess,
    ending,
    retrieve,
)
from gguf_hub.api.server.router.events import ModelEvents
from gguf_hub.api.server.router.library import ListedModel
from gguf_hub.api.server.router.room import Demand, Room
from gguf_hub.errors import GgufHubError, UnavailableError
from gguf_hub.hub.fit import FileFacts

MAX_WAITING = 256
"""Most requests that wait for a model to be loaded."""


class State(str, Enum):
    """What becomes of a model."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"


@dataclass(frozen=True)
class FleetSettings:
    """How many models are loaded, and for how long.

    Attributes:
        max_models: Most models at once; 0 for no limit.
        keep_alive_s: Seconds without a request after which one is unloaded; infinite for never.
        wait_s: How long a request waits for its model, while nothing is heard of its loading.
    """

    max_models: int = 4
    keep_alive_s: float = 300.0
    wait_s: float = 300.0


@dataclass(eq=False)
class Instance:
    """A model that is loaded, or about to be.

    Attributes:
        model: The model.
        keep_alive_s: Seconds that it stays loaded without a request; the last one that said so.
        demand: The memory that it takes.
        loading: Done when it is loaded, or with what went wrong.
        state: What becomes of it.
        child: Its process.
        n_active: Requests that it answers, and those that wait for it while it is loaded.
        used_time: Of ``time.monotonic``, when the last one came or ended.
        heard_time: Likewise, when its process said something.
        is_draining: Another model needs its room: it takes no more requests.
        is_ending: It is to be unloaded in any case, once it has answered.
        info: What ``/v1/models`` says of it.
    """

    model: ListedModel
    keep_alive_s: float
    demand: Demand
    loading: asyncio.Future[None]
    state: State = State.LOADING
    child: Child | None = None
    n_active: int = 0
    used_time: float = field(default_factory=time.monotonic)
    heard_time: float = field(default_factory=time.monotonic)
    is_draining: bool = False
    is_ending: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether it takes requests, now or when it is loaded."""
        is_there = self.state in (State.LOADING, State.LOADED)
        return is_there and not self.is_draining and not self.is_ending

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded and answers nothing."""
        return self.state is State.LOADED and self.n_active == 0

    @property
    def idle_left_s(self) -> float:
        """Seconds until it is unloaded, if no request comes."""
        return max(0.0, self.used_time + self.keep_alive_s - time.monotonic())


Describe = Callable[[Child], Awaitable[dict[str, Any]]]
"""Asks a process that is ready what ``/v1/models`` says of its model."""


class Fleet:
    """The models that are loaded.

    Args:
        start: Starts the process of a model.
        describe: Asks it about its model.
        room: Whether a model fits.
        settings: How many, and for how long.
        note: Shows a line to whoever runs the server.

    Attributes:
        events: What becomes of models.
        failures: Name -> why its process failed last, until it is loaded again.
        counts: ``loads``, ``unloads``, ``failures`` so far.
    """

    def __init__(
        self,
        start: StartProcess,
        describe: Describe,
        room: Room,
        settings: FleetSettings,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._start, self._describe, self._room, self._note = start, describe, room, note
        self.settings = settings
        self.events = ModelEvents()
        self.failures: dict[str, LoadError] = {}
        self.counts: Counter[str] = Counter()
        self._instances: dict[str, Instance] = {}
        self._waiting: list[str] = []  # names, in the order in which they may be loaded
        self._n_waiting: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def get(self, name: str) -> Instance | None:
        """Return the instance of a model, if it is not unloaded."""
        return self._instances.get(name)

    def state_of(self, name: str) -> State:
        """Return what becomes of a model."""
        instance = self.get(name)
        return instance.state if instance else State.UNLOADED

    @property
    def loaded(self) -> list[Instance]:
        """The models that are loaded, the one that was used last first."""
        found = [each for each in self._instances.values() if each.state is State.LOADED]
        return sorted(found, key=lambda each: -each.used_time)

    @property
    def n_waiting(self) -> int:
        """Requests that wait for a model."""
        return self._n_waiting.total()

    def note_failure(self, name: str, error: LoadError) -> None:
        """Keep why a model could not be loaded in the background."""
        self.failures[name] = error
        self.events.status(name, "unloaded", error=str(error))

    # -- requests --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def lease(
        self, model: ListedModel, keep_alive_s: float | None = None, *, is_use: bool = True
    ) -> AsyncIterator[Instance]:
        """Load a model if need be, and keep it loaded within the block.

        Args:
            model: The model.
            keep_alive_s: How long it stays loaded afterwards; None for as long as before.
            is_use: Whether that counts as use; otherwise it does not stay longer for it.

        Raises:
            LoadError: It cannot be loaded.
            UnavailableError: It was not loaded in time, or too many requests wait.
        """
        instance = await self._take(model)
        if keep_alive_s is not None:
            instance.keep_alive_s = keep_alive_s
        if is_use:
            instance.used_time = time.monotonic()
        try:
            yield instance
        finally:
            if is_use:
                instance.used_time = time.monotonic()
            self._release(instance)

    async def _take(self, model: ListedModel) -> Instance:
        """Return the instance of a model once it is loaded; ``_release`` gives it back."""
        name = model.name
        self._queue(name)
        start_time = time.monotonic()
        try:
            while True:
                if self._is_closed:
                    raise UnavailableError("the server is stopping", hint="use another server")
                instance = self._instances.get(name)
                if instance and instance.model.key != model.key and instance.is_open:
                    instance.is_draining = True  # another file lies there by now
                    self._rest(instance)
                elif instance and instance.is_open:
                    return await self._join(instance)
                elif instance is None and self._is_next(name) and await self._begin(model):
                    continue
                await self._change(start_time, name)
        finally:
            self._unqueue(name)

    async def _join(self, instance: Instance) -> Instance:
        """Count as one of those that use an instance, and wait until it is loaded."""
        instance.n_active += 1
        self._unset_timer(instance)
        try:
            await asyncio.shield(instance.loading)
        except BaseException:
            self._release(instance)
            raise
        return instance

    def _release(self, instance: Instance) -> None:
        instance.n_active -= 1
        self._rest(instance)

    def _rest(self, instance: Instance) -> None:
        """Unload an instance that is idle, now or later."""
        if not instance.is_idle:
            return
        self._unset_timer(instance)
        if not instance.is_open or instance.idle_left_s <= 0:
            self._unload(instance)
        elif math.isfinite(instance.keep_alive_s):
            loop = asyncio.get_running_loop()
            instance.timer = loop.call_later(instance.idle_left_s, self._rest, instance)
        self._notify()  # it can make room

    def _unset_timer(self, instance: Instance) -> None:
        if instance.timer is not None:
            instance.timer.cancel()
            instance.timer = None

    # -- waiting ---------------------------------------------------------------------------------

    def _queue(self, name: str) -> None:
        if self.n_waiting >= MAX_WAITING:
            raise UnavailableError(
                f"{self.n_waiting} requests wait for models, the most this server accepts",
                hint="try again in a moment",
            )
        self._n_waiting[name] += 1
        if name not in self._waiting:
            self._waiting.append(name)

    def _unqueue(self, name: str) -> None:
        self._n_waiting[name] -= 1
        if not self._n_waiting[name]:
            del self._n_waiting[name]
            self._waiting.remove(name)
            if all(each in self._instances for each in self._waiting):  # nobody needs the room
                for instance in self._instances.values():
                    instance.is_draining = False
        self._notify()

    def _is_next(self, name: str) -> bool:
        """Whether a model has waited longest of those that are not being loaded yet."""
        return name == next((each for each in self._waiting if each not in self._instances), None)

    async def _change(self, start_time: float, name: str) -> None:
        """Wait until something has changed."""
        left_s = start_time + self.settings.wait_s - time.monotonic()
        try:
            await asyncio.wait_for(self._changed.wait(), left_s)
        except asyncio.TimeoutError:
            raise UnavailableError(
                f"model '{name:.200}': no room for it within {self.settings.wait_s:.0f} s, as "
                "others answer requests",
                hint="try again, or start the server with a larger --models-max",
            ) from None

    def judge(self, model: Path | FileFacts) -> Demand:
        """Return what a model would take of this machine; reads its header, so not for the loop."""
        return self._room.judge_alone(model)

    def _notify(self) -> None:
        """Wake all who wait."""
        self._changed.set()
        self._changed = asyncio.Event()

    # -- loading ---------------------------------------------------------------------------------

    async def _begin(self, model: ListedModel) -> bool:
        """Begin to load a model if there is room; otherwise let another one make room.

        Returns:
            Whether to look again at once.

        Raises:
            LoadError: It finds no room even alone, or its process cannot be started.
        """
        others = list(self._instances.values())
        if len(others) >= (self.settings.max_models or math.inf):
            self._make_room()
            return False
        demands = [each.demand for each in others]
        demand = await asyncio.to_thread(self._room.demand_of, model.path, demands)
        if self._is_closed or others != list(self._instances.values()):
            return True
        if demand.problem and not others:
            raise LoadError(
                f"model '{model.name:.200}' does not fit this machine: {demand.problem}",
                hint="`gguf-hub pick` shows what fits; a smaller `-c` or `-np` takes less",
            )
        if others and (demand.problem or any(each.is_alone for each in [demand, *demands])):
            self._make_room()
            return False
        self._load(model, demand)
        return True

    def _make_room(self) -> None:
        """Unload the instance that was used least recently, at once or when it has answered."""
        instances = list(self._instances.values())
        loaded = [each for each in instances if each.state is State.LOADED]
        if not loaded or not all(each.is_open for each in instances):
            return  # one makes room already, or may answer first
        idle = [each for each in loaded if each.is_idle]
        oldest = min(idle or loaded, key=lambda each: each.used_time)
        oldest.is_draining = True
        self._rest(oldest)

    def _load(self, model: ListedModel, demand: Demand) -> None:
        loading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loading.add_done_callback(retrieve)
        instance = Instance(model, self.settings.keep_alive_s, demand, loading)

        def receive(message: dict[str, Any]) -> None:
            """Note a message of the model's process: that it lives, how far it has loaded."""
            instance.heard_time = time.monotonic()
            if "note" in message:
                self._note(f"{model.name}: {message['note']}")
            if "progress" in message:
                self.events.status(model.name, "loading", progress=message["progress"])

        try:
            instance.child = Child.start(self._start, model.name, model.path, receive)
        except GgufHubError as exc:
            raise LoadError(f"model '{model.name:.200}' cannot be loaded: {exc}") from exc
        self._instances[model.name] = instance
        self.events.status(model.name, "loading")
        self._spawn(self._follow(instance, instance.child))
        self._notify()

    async def _follow(self, instance: Instance, child: Child) -> None:
        """Follow a process from the begin of loading to its end."""
        try:
            await self._until_ready(instance, child)
            instance.info = await self._describe(child)
        except Exception as exc:
            status = await child.stop()
            error = exc if isinstance(exc, LoadError) else LoadError(str(exc))
            self._crash(instance, error, status)
            return
        if instance.state is State.LOADING:
            self._finish(instance)
        status = await child.exited
        self._crash(instance, LoadError(f"its process {ending(status)}"), status)

    async def _until_ready(self, instance: Instance, child: Child) -> None:
        """Wait until a process is ready.

        Raises:
            LoadError: It has failed, or nothing was heard of it for too long.
        """
        while not child.ready.done():
            left_s = instance.heard_time + self.settings.wait_s - time.monotonic()
            if left_s <= 0:
                child.process.kill()
                limit = f"{self.settings.wait_s:.0f} s"
                raise LoadError(f"nothing was heard of its process for {limit}")
            await asyncio.wait({child.ready}, timeout=left_s)
        child.ready.result()

    def _finish(self, instance: Instance) -> None:
        name = instance.model.name
        instance.state, instance.used_time = State.LOADED, time.monotonic()
        instance.loading.set_result(None)
        self.failures.pop(name, None)
        self.counts["loads"] += 1
        self.events.status(name, "loaded", info=instance.info)
        self._rest(instance)

    def _crash(self, instance: Instance, error: LoadError, status: int) -> None:
        """Forget an instance whose process has ended by itself; the next request loads it again."""
        if instance.state in (State.UNLOADING, State.UNLOADED):
            return
        name = instance.model.name
        self.counts["failures"] += 1
        error.status = status
        self.failures[name] = error
        self._note(f"{name}: {error}")
        if not instance.loading.done():
            message = f"model '{name:.200}' cannot be loaded: {error}"
            instance.loading.set_exception(LoadError(message, status=status, hint=error.hint))
        self._forget(instance, exit_code=status)

    def _forget(self, instance: Instance, **more: Any) -> None:
        name = instance.model.name
        self._unset_timer(instance)
        instance.state = State.UNLOADED
        if not instance.loading.done():
            text = f"model '{name:.200}' was unloaded while it was being loaded"
            instance.loading.set_exception(UnavailableError(text, hint="try again"))
        if self._instances.get(name) is instance:
            del self._instances[name]
        self.events.status(name, "unloaded", **more)
        self._notify()

    # -- unloading -------------------------------------------------------------------------------

    def _unload(self, instance: Instance) -> None:
        """Begin to unload an instance, whatever it does."""
        if instance.state in (State.UNLOADING, State.UNLOADED):
            return
        self._unset_timer(instance)
        instance.state = State.UNLOADING
        self._spawn(self._stop(instance))

    async def _stop(self, instance: Instance) -> None:
        assert instance.child is not None
        await instance.child.stop()
        self.counts["unloads"] += 1
        self._forget(instance)

    async def unload(self, name: str) -> bool:
        """Unload a model once it has answered what it has; return whether it was loaded.

        Loading is broken off.
        """
        instance = self._instances.get(name)
        if instance is None:
            return False
        instance.is_ending = True
        if instance.state is State.LOADING:
            self._unload(instance)
        self._rest(instance)
        while self._instances.get(name) is instance:
            await self._changed.wait()
        return True

    def end(self) -> None:
        """Let all processes end, cutting off what they answer."""
        self._is_closed = True
        self.events.close()
        for instance in list(self._instances.values()):
            self._unload(instance)
        self._notify()

    async def close(self) -> None:
        """End all processes and wait for them."""
        self.end()
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
