"""llama-server's routes of a router: the models, their state, loading and downloading."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from gguf_hub.api.server.bodies import Body
from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.metrics import metric_lines, request_lines
from gguf_hub.api.server.openai_routes import meta_of
from gguf_hub.api.server.replies import LLAMA_SERVER, Events, Json, error
from gguf_hub.api.server.router.fleet import State
from gguf_hub.api.server.router.library import ListedModel
from gguf_hub.api.server.router.requests import RoutedRequest
from gguf_hub.api.server.router.service import Router
from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.hub.catalog import CatalogFile

router = APIRouter(tags=["Router"])

PING_S = 15.0
"""Between comments that keep a stream of events open."""


class NameBody(Body):
    """A request about a model."""

    model: str


def router_of(request: Request) -> Router:
    """Return what the routes work with."""
    found: Router = request.app.state.service
    return found


@router.get("/v1/health", include_in_schema=False)
@router.get("/health")
async def health(request: Request) -> Response:
    """Report that the server is running."""
    return Json({"status": "ok"})


# -- lists ----------------------------------------------------------------------------------------


@router.get("/models", include_in_schema=False)
@router.get("/v1/models")
async def models(
    request: Request, reload: bool = False, catalog: bool = False, fit: bool = False
) -> Response:
    """List the models, loaded or not, under the names of OpenAI's, Anthropic's and llama-server's.

    Args:
        request: The request.
        reload: Look for models again; unload those whose files have changed.
        catalog: Name the quants of the catalog that are not on this machine, too.
        fit: Say of each whether it fits this machine.
    """
    service = router_of(request)
    if reload:
        await service.refresh()
    found = await service.models()
    data = [await _entry(service, model) for model in found]
    missing = service.library.quants_to_download() if catalog else []
    data += [_entry_of_quant(file) for file in missing]
    if fit:
        everything: list[ListedModel | CatalogFile] = [*found, *missing]
        for each, entry in zip(everything, data, strict=True):
            entry["fit"] = await service.fit_of(each)
    names = [entry["id"] for entry in data]
    pages = {"has_more": False, "first_id": names[0] if names else None,
             "last_id": names[-1] if names else None}  # fmt: skip
    return Json({"object": "list", "data": data, **pages})


@router.get("/v1/models/{model_id:path}")
async def model(model_id: str, request: Request) -> Response:
    """Describe a model."""
    service = router_of(request)
    return Json(await _entry(service, await service.find(model_id)))


async def _entry(service: Router, model: ListedModel) -> dict[str, Any]:
    instance = service.fleet.get(model.name)
    try:
        meta = meta_of(await service.describe(model, reads_vocabulary=False))
    except GgufHubError:  # it cannot be read, as an attempt to load it will say
        meta = {"size": model.size_bytes}
    created_at = datetime.fromtimestamp(model.modified_time, timezone.utc).isoformat()
    modalities = {"input_modalities": ["text"], "output_modalities": ["text"]}
    return {
        "id": model.name, "object": "model", "created": int(model.modified_time),
        "owned_by": "gguf-hub", "type": "model", "display_name": model.name,
        "created_at": created_at, "path": str(model.path), "architecture": modalities,
        "meta": meta, **(instance.info if instance else {}),
        "status": _status(service, model.name),
    }  # fmt: skip


def _entry_of_quant(file: CatalogFile) -> dict[str, Any]:
    return {"id": file.quant, "object": "model", "created": 0, "owned_by": "gguf-hub",
            "meta": {"size": file.size_bytes, "quant": file.quant},
            "status": {"value": "not_downloaded"}}  # fmt: skip


def _status(service: Router, name: str) -> dict[str, Any]:
    state = service.fleet.state_of(name)
    if state is State.UNLOADING:  # no word of llama-server's, whose clients know theirs
        state = State.UNLOADED
    status: dict[str, Any] = {"value": state.value}
    failure = service.fleet.failures.get(name)
    if failure is not None and state is State.UNLOADED:
        status |= {"failed": True, "exit_code": failure.status, "error": str(failure)}
    return status


# -- loading --------------------------------------------------------------------------------------


@router.post("/models/load")
async def load(body: NameBody, request: Request) -> Response:
    """Begin to load a model."""
    service = router_of(request)
    service.load(await service.find(body.model))
    return Json({"success": True})


@router.post("/models/unload")
async def unload(body: NameBody, request: Request) -> Response:
    """Begin to unload a model, or stop its download."""
    service = router_of(request)
    if service.pulls.cancel(body.model):
        return Json({"success": True})
    found = await service.find(body.model)
    if service.fleet.get(found.name) is None:
        raise UsageError(f"model '{found.name:.200}' is not loaded")
    service.unload(found.name)
    return Json({"success": True})


@router.get("/models/sse")
async def events(request: Request) -> Response:
    """Send what becomes of models, as it happens; `ping` where nothing does."""
    service = router_of(request)

    async def batches() -> AsyncIterator[list[Any]]:
        """Yield events as they come, and a ping where none came for a while."""
        async for event in service.fleet.events.listen(PING_S):
            yield [event or {"model": "*", "event": "ping"}]

    return Events(batches(), lambda: None, LLAMA_SERVER)


@router.post("/models")
async def download(body: NameBody, request: Request) -> Response:
    """Begin to download a model."""
    service = router_of(request)
    check_downloads(service)
    target = await while_connected(request, service.target_of(body.model))
    service.pulls.begin(body.model, target).n_watching += 1  # it goes on without anybody
    return Json({"success": True})


@router.delete("/models")
async def delete(request: Request, model: str) -> Response:
    """Remove the files of a model."""
    service = router_of(request)
    await service.delete(await service.find(model))
    return Json({"success": True})


def check_downloads(service: Router) -> None:
    """Refuse downloads where they would not be served.

    Raises:
        UsageError: The models were named.
    """
    if service.library.is_fixed:
        raise UsageError("this server has the models that were named to it, and gets no others",
                         hint="start it without MODEL, or use `gguf-hub download`")  # fmt: skip


# -- state ----------------------------------------------------------------------------------------


@router.get("/props")
async def props(request: Request, model: str = "") -> Response:
    """Return the properties of the router, or those of a model."""
    service = router_of(request)
    if model:
        return await service.pass_on(request)
    return Json({
        "role": "router",
        "max_instances": service.fleet.settings.max_models,
        "models_autoload": service.autoload,
        "model_alias": "gguf-hub",
        "model_path": "none",
        "default_generation_settings": {"params": {}, "n_ctx": 0},
        "build_info": request.app.version,
    })  # fmt: skip


@router.get("/metrics")
async def metrics(request: Request, model: str = "") -> Response:
    """Return the metrics of the router, or those of a model that is loaded."""
    service = router_of(request)
    if model:
        found = await service.find(model)
        service.check_autoload(found, RoutedRequest(autoload=False))
        return await service.pass_on(request)
    fleet = service.fleet
    lines = metric_lines([
        ("models_loaded", "gauge", "Models that are loaded.", len(fleet.loaded)),
        ("models_max", "gauge", "Most models at once; 0: no limit.", fleet.settings.max_models),
        ("models_waiting", "gauge", "Requests that wait for a model.", fleet.n_waiting),
        ("model_loads_total", "counter", "Models that were loaded.", fleet.counts["loads"]),
        ("model_unloads_total", "counter", "Models that were unloaded.", fleet.counts["unloads"]),
        ("model_failures_total", "counter", "Processes of models that failed.",
         fleet.counts["failures"]),
    ]) + request_lines(request.app.state.requests)  # fmt: skip
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


# -- answers that are kept ------------------------------------------------------------------------


@router.get("/v1/responses/{response_id}")
@router.delete("/v1/responses/{response_id}")
@router.get("/v1/responses/{response_id}/input_items")
@router.post("/v1/responses/{response_id}/cancel")
async def kept_response(response_id: str, request: Request) -> Response:
    """Pass a request about a response on to the process of the model that has stored it."""
    reply = await router_of(request).ask_all(request)
    if reply is not None:
        return reply
    text = f"no response `{response_id:.60}`: no model that is loaded has it"
    return error(request.url.path, 404, text, code="not_found")
