"""The application: routes, errors, the page."""

from __future__ import annotations

import mimetypes
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from gguf_hub import __version__
from gguf_hub.api.server import native_routes, openai_routes, rerank_routes, slot_routes
from gguf_hub.api.server.addresses import ANY, AllowedHosts, AllowedOrigins
from gguf_hub.api.server.anthropic import routes as anthropic_routes
from gguf_hub.api.server.api_keys import ApiKeys
from gguf_hub.api.server.flow import ClientGoneError
from gguf_hub.api.server.guard import Access, Guard
from gguf_hub.api.server.heads import HeadAsGet
from gguf_hub.api.server.offers import EVERYTHING, Offers
from gguf_hub.api.server.ollama import routes as ollama_routes
from gguf_hub.api.server.ollama.names import ModelNames, NoModelError
from gguf_hub.api.server.prefix import Prefixed
from gguf_hub.api.server.problems import problems_of
from gguf_hub.api.server.replies import error, reply_to_error
from gguf_hub.api.server.responses import routes as responses_routes
from gguf_hub.api.server.responses.store import NoResponseError, ResponseStore
from gguf_hub.api.server.service import Service
from gguf_hub.errors import GgufHubError

PAGE = Path(__file__).with_name("page")
MAX_BODY_BYTES = 8 * 2**20

# The page loads nothing from other origins, runs only its own files, and cannot be framed. Text
# becomes elements through DOMPurify alone.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(
    service: Service,
    *,
    api_keys: tuple[str, ...] = (),
    hosts: tuple[str, ...] = (ANY,),
    origins: tuple[str, ...] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
    takes_any_name: bool = False,
    offers: Offers = EVERYTHING,
) -> FastAPI:
    """Return the application.

    Args:
        service: The model.
        api_keys: API keys; empty for a server without one.
        hosts: Host names that requests may be addressed to, besides loopback; ``*`` for any.
        origins: Other origins whose pages may send requests (CORS).
        max_body_bytes: Maximum size of a request body.
        takes_any_name: Whatever a request calls the model, it is meant; see ``ModelNames``.
        offers: Which parts of the interface there are.

    Raises:
        UsageError: A key or a host name is invalid.
    """
    access = Access(ApiKeys(api_keys), AllowedHosts(hosts), AllowedOrigins(origins))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """Stop computing when the server ends."""
        yield
        service.close()

    app = new_app(access, origins, max_body_bytes, lifespan, offers)
    app.state.service = service
    app.state.responses = ResponseStore()
    app.state.names = ModelNames(service.model_info, takes_any=takes_any_name)
    for router in ROUTERS:
        app.include_router(router)
    return app


ROUTERS = (
    openai_routes.router,
    openai_routes.bare,
    native_routes.router,
    rerank_routes.router,
    slot_routes.router,
    anthropic_routes.router,
    responses_routes.router,
    ollama_routes.router,
)
"""All routes of a server of one model, but for the page."""


def new_app(
    access: Access,
    origins: Sequence[str],
    max_body_bytes: int,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    offers: Offers = EVERYTHING,
) -> FastAPI:
    """Return an application with the page, the checks before all routes and the shapes of errors.

    Args:
        access: Who may send requests.
        origins: Other origins whose pages may send requests (CORS).
        max_body_bytes: Maximum size of a request body.
        lifespan: What to do at the begin and at the end.
        offers: Which parts of the interface there are.
    """
    requests: Counter[tuple[str, int]] = Counter()
    cors = Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"],
                      allow_headers=["*"])  # fmt: skip
    guard = Middleware(Guard, access=access, max_body_bytes=max_body_bytes, requests=requests)
    prefix = Middleware(Prefixed, prefix=offers.prefix)
    outer = [*([prefix] if offers.prefix else []), *([cors] if origins else [])]
    app = FastAPI(
        title="gguf-hub", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        middleware=[*outer, Middleware(HeadAsGet), guard],
        responses={status: {"description": text} for status, text in _ERRORS.items()},
    )  # fmt: skip
    app.state.requests, app.state.offers = requests, offers
    if offers.page:
        _add_page(app)
    app.add_exception_handler(GgufHubError, reply_to_error)
    app.add_exception_handler(NoResponseError, responses_routes.reply_to_missing)
    app.add_exception_handler(NoModelError, ollama_routes.reply_to_other_model)
    app.add_exception_handler(RequestValidationError, _reply_to_invalid_body)
    app.add_exception_handler(ValidationError, _reply_to_invalid_body)  # of a translated body
    app.add_exception_handler(HTTPException, _reply_to_http_error)
    app.add_exception_handler(ClientGoneError, _reply_to_disconnect)
    return app


_ERRORS: dict[int | str, str] = {
    400: "The request is invalid.",
    401: "An API key is required.",
    403: "The request comes from a page of another origin.",
    413: "The body is too large.",
    415: "The body is a form of several parts, or compressed otherwise than as gzip.",
    421: "The host name is not allowed.",
    429: "Too many requests are waiting.",
    501: "The model does not support this.",
}


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """Return the page for a browser."""
        return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)

    for suffix in (".js", ".mjs"):  # some systems call them plain text, which browsers do not run
        mimetypes.add_type("text/javascript", suffix)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")


async def _reply_to_invalid_body(request: Request, exc: Exception) -> Response:
    """Report what is wrong with a body, or with the query."""
    assert isinstance(exc, (RequestValidationError, ValidationError))
    errors: Sequence[Any] = exc.errors()
    if isinstance(exc, ValidationError):  # of a translated body, whose keys are not the client's
        return error(request.url.path, 400, "; ".join(problems_of(errors, None)))
    first = errors[0]
    if first["type"] == "json_invalid":
        text = f"the body is not JSON at character {first['loc'][-1]}"
    elif first["type"] == "missing" and first["loc"] == ("body",):
        text = "the body is empty: expected a JSON object"
    else:
        text = "; ".join(problems_of(errors, exc.body, n_outer=1))  # "body" or "query"
    return error(request.url.path, 400, text)


async def _reply_to_http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    path = request.url.path
    reply = error(path, exc.status_code, f"{request.method} {path}: {exc.detail}")
    for name, value in (exc.headers or {}).items():
        reply.headers[name] = value
    return reply


async def _reply_to_disconnect(request: Request, exc: Exception) -> Response:
    return error(request.url.path, 499, "the client has disconnected")
