"""A router: from the name in a request to the process that answers it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.opening import describe_file
from gguf_hub.api.server.router.children import Child, LoadError
from gguf_hub.api.server.router.fleet import Fleet, State
from gguf_hub.api.server.router.forwarding import (
    Answer,
    Call,
    Forwarded,
    ProcessEndedError,
    ask,
)
from gguf_hub.api.server.router.library import Library, ListedModel, UnknownModelError
from gguf_hub.api.server.router.pulls import Pulls
from gguf_hub.api.server.router.requests import RoutedRequest, read_routed
from gguf_hub.api.server.router.room import OpeningFacts
from gguf_hub.api.server.service import ModelInfo
from gguf_hub.api.server.worker_pool import WorkerPool
from gguf_hub.errors import ModelNotFoundError, UnavailableError, UsageError
from gguf_hub.gguf.shard_names import model_files
from gguf_hub.hub.catalog import CatalogFile
from gguf_hub.hub.download.inventory import inventory
from gguf_hub.hub.download.refs import Target
from gguf_hub.hub.download.removal import remove
from gguf_hub.hub.fit import facts_from_catalog
from gguf_hub.hub.resolve import Resolver

_GONE_S = 1.0  # from the end of a connection to that of its process, if that is why
_MAX_KNOWN = 1024
NOT_USES = ("/props", "/metrics", "/slots")
"""Routes that do not keep a model loaded, as in llama-server."""


class Router:
    """What the routes of a server with several models work with.

    Args:
        library: The models.
        fleet: Those that are loaded.
        pulls: Downloads.
        resolver: Knows the files of this machine.
        opening: How models are opened.
        autoload: Whether requests load models, where they do not say.
    """

    def __init__(
        self,
        library: Library,
        fleet: Fleet,
        pulls: Pulls,
        resolver: Resolver,
        opening: OpeningFacts,
        *,
        autoload: bool = True,
    ) -> None:
        self.library, self.fleet, self.pulls = library, fleet, pulls
        self.autoload = autoload
        self._resolver, self._opening = resolver, opening
        self._pool = WorkerPool("gguf-hub-router", n_threads=2)
        self._known: dict[tuple[object, ...], ModelInfo | None] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- models ----------------------------------------------------------------------------------

    async def models(self, *, is_fresh: bool = False) -> list[ListedModel]:
        """Return the models, without those that vanished."""
        return await self._pool.run(partial(self.library.models, is_fresh=is_fresh))

    async def find(self, name: str) -> ListedModel:
        """Return the model of a name; without one the only model there is.

        That is the only one of the server, the first of those that were named to it, or the only
        one that is loaded.

        Raises:
            UnknownModelError: No model has the name.
            UsageError: It is not clear which model is meant.
        """
        if name:
            return await self._pool.run(self.library.find, name)
        models = await self.models()
        loaded = self.fleet.loaded
        if models and (len(models) == 1 or self.library.is_fixed):
            return models[0]
        if len(loaded) == 1:
            return loaded[0].model
        if not models:
            raise UnknownModelError("this server has no models yet",
                                    hint="`gguf-hub download` fetches one")  # fmt: skip
        raise UsageError(
            "model: expected a name, as this server has several models",
            hint="`/v1/models` lists them",
        )

    async def describe(self, model: ListedModel, *, reads_vocabulary: bool = True) -> ModelInfo:
        """Return the properties of a model, loaded or not.

        Raises:
            GgufHubError: Its file cannot be read.
        """
        key = (*model.key, reads_vocabulary)
        if (known := self._known.get(key)) is not None:
            return known
        opening = self._opening
        work = partial(describe_file, model.path, name=model.name, n_ctx=opening.n_ctx_of,
                       n_slots=opening.n_slots, reads_vocabulary=reads_vocabulary)  # fmt: skip
        info = await self._pool.run(work)
        while len(self._known) >= _MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[key] = info
        return info

    async def fit_of(self, model: ListedModel | CatalogFile) -> dict[str, Any]:
        """Return how a model fits this machine, as plain data; reads its header."""
        if isinstance(model, ListedModel):
            demand = await self._pool.run(self.fleet.judge, model.path)
        else:
            facts = facts_from_catalog(self.library.catalog, model)
            demand = await self._pool.run(self.fleet.judge, facts)
        return {"verdict": demand.verdict.value, "ram_bytes": demand.ram_bytes,
                "vram_bytes": demand.vram_bytes, "reason": demand.problem}  # fmt: skip

    async def target_of(self, name: str) -> Target:
        """Return what a name means, on the hub.

        Raises:
            UsageError: It means nothing.
        """
        try:
            return await self._pool.run(self.pulls.target_of, name)
        except ModelNotFoundError as exc:
            raise UsageError(exc.message, hint=exc.hint) from exc

    def load(self, model: ListedModel) -> None:
        """Begin to load a model, in the background."""
        self._spawn(self._load(model))

    async def _load(self, model: ListedModel) -> None:
        try:
            async with self.fleet.lease(model):
                pass
        except LoadError as exc:
            self.fleet.note_failure(model.name, exc)
        except UnavailableError:
            return  # it was to be, or there is no room by now: its state says so

    def unload(self, name: str) -> None:
        """Begin to unload a model, once it has answered what it has."""
        self._spawn(self.fleet.unload(name))

    async def refresh(self) -> None:
        """Look for models again; unload those whose files have changed or vanished."""
        keys = {model.name: model.key for model in await self.models(is_fresh=True)}
        for instance in self.fleet.loaded:
            if keys.get(instance.model.name) != instance.model.key:
                self.unload(instance.model.name)
        self.fleet.events.publish("*", "models_reload")

    async def delete(self, model: ListedModel) -> None:
        """Unload a model and remove its files.

        Raises:
            GgufHubError: They cannot be removed, or are none that gguf-hub or a cache holds.
        """
        if self.library.is_fixed:
            raise UsageError("the models of this server were named to it and are not removed",
                             hint="`gguf-hub rm` removes models")  # fmt: skip
        await self.fleet.unload(model.name)
        await self._pool.run(self._remove, model)
        self.fleet.events.publish(model.name, "model_remove")

    def _remove(self, model: ListedModel) -> None:
        paths = set(model_files(model.path))
        store = self._resolver.store
        files = inventory(store, self._resolver.roots)
        known = {file.path for file in files if file.foreign is None}
        if not paths & known:
            raise UsageError(f"`{model.path}` is on no record and in no cache of gguf-hub",
                             hint="the program whose file it is removes it")  # fmt: skip
        for path in sorted(paths & known):
            remove(path, store)
        self.library.models(is_fresh=True)

    # -- requests --------------------------------------------------------------------------------

    async def pass_on(self, request: Request, routed: RoutedRequest | None = None) -> Response:
        """Answer a request through the process of its model.

        Raises:
            GgufHubError: There is no such model, or it cannot answer.
        """
        routed = await read_routed(request) if routed is None else routed
        model = await while_connected(request, self._model_of(routed, request.url.path))
        self.check_autoload(model, routed)
        call = Call.of(request, routed.body)
        try:
            return await self._answer(request, call, model, routed)
        except ProcessEndedError as exc:
            if not await _has_ended(exc.child):
                raise
        # its process has ended, nothing was answered yet: another one may
        return await self._answer(request, call, model, routed)

    async def _model_of(self, routed: RoutedRequest, path: str) -> ListedModel:
        """Return the model of a request; the only one that was named answers to every name.

        That is as without a router; Ollama's clients want to be told of a name that is wrong.
        """
        try:
            return await self.find(routed.model)
        except UnknownModelError:
            models = await self.models() if self.library.is_fixed else []
            if len(models) != 1 or path.startswith("/api/"):
                raise
            return models[0]

    def check_autoload(self, model: ListedModel, routed: RoutedRequest) -> None:
        """Refuse to load a model where that is not to be done for requests.

        Raises:
            UsageError: It is not loaded.
        """
        is_allowed = self.autoload if routed.autoload is None else routed.autoload
        if not is_allowed and self.fleet.state_of(model.name) in (State.UNLOADED, State.UNLOADING):
            raise UsageError(f"model '{model.name:.200}' is not loaded",
                             hint="`POST /models/load` loads it")  # fmt: skip

    async def _answer(
        self, request: Request, call: Call, model: ListedModel, routed: RoutedRequest
    ) -> Response:
        stack = AsyncExitStack()
        async with stack:
            lease = self.fleet.lease(model, routed.keep_alive_s, is_use=call.path not in NOT_USES)
            instance = await while_connected(request, stack.enter_async_context(lease))
            assert instance.child is not None
            answer = await while_connected(request, ask(instance.child, call))
            return Forwarded(answer, call.path, stack.pop_all().aclose)

    async def ask_all(self, request: Request) -> Response | None:
        """Return the first answer that is no 404, of whichever model that is loaded, or None."""
        call = Call.of(request)
        for instance in self.fleet.loaded:
            if self.fleet.get(instance.model.name) is not instance or not instance.is_open:
                continue  # it has gone meanwhile, and with it what it has stored
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.fleet.lease(instance.model, is_use=False))
                assert instance.child is not None
                answer: Answer = await while_connected(request, ask(instance.child, call))
                if answer.status != 404:
                    return Forwarded(answer, call.path, stack.pop_all().aclose)
                answer.close()
        return None

    def end(self) -> None:
        """Cut off all answers and let all processes end, without waiting."""
        self.pulls.close()
        self._pool.close()
        self.fleet.end()

    async def close(self) -> None:
        """End all processes and wait for them."""
        self.end()
        await self.fleet.close()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _has_ended(child: Child) -> bool:
    """Return whether a process has ended, or does so in a moment."""
    await asyncio.wait({child.exited}, timeout=_GONE_S)
    return child.exited.done()


async def ask_models(child: Child) -> dict[str, Any]:
    """Return what a process says of its model at ``/v1/models``."""
    answer = await ask(child, Call("GET", b"/v1/models", "/v1/models", []))
    return dict(json.loads(await answer.read())["data"][0])
