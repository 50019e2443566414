"""The application of a router: its own routes, and those of a server of one model, passed on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.responses import Response

from gguf_hub.api.server.addresses import ANY, AllowedHosts, AllowedOrigins
from gguf_hub.api.server.api_keys import ApiKeys
from gguf_hub.api.server.app import MAX_BODY_BYTES, ROUTERS, new_app
from gguf_hub.api.server.guard import Access
from gguf_hub.api.server.offers import EVERYTHING, Offers
from gguf_hub.api.server.replies import error, error_body
from gguf_hub.api.server.router import ollama, routes
from gguf_hub.api.server.router.library import UnknownModelError
from gguf_hub.api.server.router.service import Router


def create_router_app(
    service: Router,
    *,
    api_keys: tuple[str, ...] = (),
    hosts: tuple[str, ...] = (ANY,),
    origins: tuple[str, ...] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
    offers: Offers = EVERYTHING,
) -> FastAPI:
    """Return the application; see ``create_app`` for its arguments.

    Raises:
        UsageError: A key or a host name is invalid.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """End the models' processes when the server ends."""
        yield
        await service.close()

    access = Access(ApiKeys(api_keys), AllowedHosts(hosts), AllowedOrigins(origins))
    app = new_app(access, origins, max_body_bytes, lifespan, offers)
    app.state.service = service
    app.include_router(routes.router)
    app.include_router(ollama.router)
    own = _routes_of(routes.router, ollama.router)
    passed = _passed(own)
    for route in passed:
        methods = sorted(route.methods or ())
        app.add_api_route(route.path, _pass_on, methods=methods, include_in_schema=False)
    app.add_exception_handler(UnknownModelError, _reply_to_unknown_model)
    schema = get_openapi(title=app.title, version=app.version, routes=[*own, *passed])
    app.openapi = lambda: schema  # type: ignore[method-assign]
    return app


def _routes_of(*routers: APIRouter) -> list[APIRoute]:
    return [route for each in routers for route in each.routes if isinstance(route, APIRoute)]


def _passed(own: list[APIRoute]) -> list[APIRoute]:
    """Return the routes of a server of one model that a router does not answer itself."""
    known = {(route.path, method) for route in own for method in route.methods or ()}
    return [
        route
        for route in _routes_of(*ROUTERS)
        if not any((route.path, method) in known for method in route.methods or ())
    ]


async def _pass_on(request: Request) -> Response:
    service: Router = request.app.state.service
    return await service.pass_on(request)


async def _reply_to_unknown_model(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, UnknownModelError)
    path = request.url.path
    more: dict[str, Any] = {} if path.startswith("/api/") else {"param": "model"}
    body = error_body(exc, path)
    text = body["error"] if path.startswith("/api/") else body["error"]["message"]
    return error(path, 404, text, **more, **({"code": "model_not_found"} if more else {}))
