"""Ollama's routes of a router: several models, which are pulled, unloaded and deleted."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.ollama import routes as single
from gguf_hub.api.server.ollama.answers import PATH, chat_chunk, now, text_chunk
from gguf_hub.api.server.ollama.bodies import ModelBody, PullBody, ShowBody
from gguf_hub.api.server.ollama.description import NEVER, listed, running, shown, time_text
from gguf_hub.api.server.replies import LINES, Events, Json, error, error_body
from gguf_hub.api.server.router.fleet import Instance
from gguf_hub.api.server.router.library import LATEST, ListedModel, UnknownModelError
from gguf_hub.api.server.router.requests import read_routed
from gguf_hub.api.server.router.routes import check_downloads, router_of
from gguf_hub.errors import GgufHubError, UsageError

router = APIRouter(prefix="/api", tags=["Ollama"])
router.add_api_route("/version", single.version, methods=["GET"])
router.add_api_route("/blobs/{digest}", single.blob, methods=["GET"], include_in_schema=False)


# -- answers --------------------------------------------------------------------------------------


@router.post("/chat")
@router.post("/generate")
async def answer(request: Request) -> Response:
    """Answer a conversation or a prompt, or unload the model."""
    service, routed = router_of(request), await read_routed(request)
    if routed.keep_alive_s != 0 or not routed.only_loads:
        return await service.pass_on(request, routed)
    found = await service.find(_required(routed.model))
    service.unload(found.name)
    chunk = chat_chunk if request.url.path == "/api/chat" else text_chunk
    end = {"done": True, "done_reason": "unload"}
    return Json({"model": routed.model, "created_at": now(), **chunk("", "", ()), **end})


def _required(name: str) -> str:
    if not name:
        raise UsageError("model: expected a name")
    return name


# -- the models -----------------------------------------------------------------------------------


@router.get("/tags")
async def tags(request: Request) -> Response:
    """List the models; those whose files cannot be read are left out."""
    service, entries = router_of(request), []
    for model in await service.models():
        try:
            info = await service.describe(model, reads_vocabulary=False)
        except GgufHubError:
            continue
        entries.append(listed(info, _tagged(model)))
    return Json({"models": entries})


@router.get("/ps")
async def processes(request: Request) -> Response:
    """List the models that are loaded."""
    service, entries = router_of(request), []
    for instance in service.fleet.loaded:
        try:
            info = await service.describe(instance.model, reads_vocabulary=False)
        except GgufHubError:  # its file has vanished, it goes on with what is mapped
            continue
        demand = instance.demand
        entries.append(
            running(info, _tagged(instance.model), expires_at=_expiry(instance),
                    memory_bytes=demand.ram_bytes + demand.vram_bytes or None,
                    vram_bytes=demand.vram_bytes)
        )  # fmt: skip
    return Json({"models": entries})


@router.post("/show")
async def show(body: ShowBody, request: Request) -> Response:
    """Describe a model, without loading it."""
    service = router_of(request)
    model = await service.find(_required(body.model_argument))
    return Json(shown(await service.describe(model)))


def _tagged(model: ListedModel) -> str:
    return model.name if ":" in model.name else f"{model.name}{LATEST}"


def _expiry(instance: Instance) -> str:
    if math.isinf(instance.keep_alive_s):
        return NEVER
    left_s = instance.keep_alive_s if instance.n_active else instance.idle_left_s
    return time_text(time.time() + left_s)


# -- files ----------------------------------------------------------------------------------------


@router.post("/pull")
async def pull(body: PullBody, request: Request) -> Response:
    """Download a model, with progress; one that is here is done at once."""
    service, name = router_of(request), _required(body.model_argument)
    try:
        await service.find(name)
        lines = _done()
    except UnknownModelError:
        check_downloads(service)
        target = await while_connected(request, service.target_of(name))
        lines = service.pulls.watch(service.pulls.begin(name, target))
    if body.stream:
        return Events(_batches(lines), lambda: None, LINES)
    return Json(await while_connected(request, _last(lines)))


async def _done() -> AsyncIterator[dict[str, Any]]:
    yield {"status": "success"}


async def _batches(lines: AsyncIterator[dict[str, Any]]) -> AsyncIterator[list[dict[str, Any]]]:
    try:
        async for line in lines:
            yield [line]
    except GgufHubError as exc:  # the status is sent already
        yield [error_body(exc, PATH)]


async def _last(lines: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    return [line async for line in lines][-1]


@router.delete("/delete")
async def delete(body: ModelBody, request: Request) -> Response:
    """Remove the files of a model."""
    service = router_of(request)
    await service.delete(await service.find(_required(body.model_argument)))
    return Response(status_code=200)


@router.post("/create")
@router.post("/copy")
@router.post("/push")
async def manage(request: Request) -> Response:
    """Refuse to make models of models: each is a file, under the names of its repository."""
    text = (
        f"{request.url.path}: models have the names of their files: `/api/pull` and "
        "`gguf-hub download` get them, `gguf-hub quantize` makes others of them"
    )
    return error(request.url.path, 400, text)


@router.post("/blobs/{digest}")
async def upload(request: Request, digest: str) -> Response:
    """Refuse to take a file."""
    return await manage(request)
