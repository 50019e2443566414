"""``/api``: Ollama's interface, for the model that is served."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gguf_hub.api.server.bodies import MAX_EMBEDDED, ChatBody
from gguf_hub.api.server.conversations import answer, answer_chat
from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.ollama.answers import OllamaBuilder, chat_chunk, now, text_chunk
from gguf_hub.api.server.ollama.bodies import (
    AnswerBody,
    EmbedBody,
    EmbeddingsBody,
    GenerateBody,
    ModelBody,
    OllamaChatBody,
    PullBody,
    ShowBody,
)
from gguf_hub.api.server.ollama.description import listed, running, shown
from gguf_hub.api.server.ollama.names import ModelNames, NoModelError
from gguf_hub.api.server.ollama.requests import chat_body, check_prompt, prompt_body, warnings_of
from gguf_hub.api.server.replies import LINES, Events, Json, error, error_body
from gguf_hub.api.server.service import Service
from gguf_hub.errors import ContextFullError, UsageError
from gguf_hub.run.generation import Generation
from gguf_hub.run.generation.chat import ChatPlan, schema_of
from gguf_hub.run.generation.pooling import EUCLIDEAN, shorten
from gguf_hub.run.generation.stops import stop_list

router = APIRouter(prefix="/api", tags=["Ollama"])

VERSION = "0.40.0"
"""Of the interface: clients refuse versions of Ollama that are too old for them."""


async def _check_model(body: ModelBody, request: Request) -> str:
    """Return the name that the client gave the model.

    Raises:
        NoModelError: It is not the served one's.
    """
    name = body.model_argument
    if not name:
        raise UsageError("model: expected a name")
    names: ModelNames = request.app.state.names
    service: Service = request.app.state.service
    if not names.is_own(name):  # this machine is searched
        await while_connected(request, service.bulk.run(names.check, name))
    return name


# -- answers --------------------------------------------------------------------------------------


@router.post("/chat")
async def chat(body: OllamaChatBody, request: Request) -> Response:
    """Answer a conversation."""
    service, start_time = request.app.state.service, time.perf_counter()
    name = await _check_model(body, request)
    if not body.messages:
        return _loaded(body, name, chat_chunk("", "", ()))
    build = _builder(service, body, name, chat_chunk, start_time)
    return await answer_chat(service, chat_body(body), request, build, LINES)


@router.post("/generate")
async def generate(body: GenerateBody, request: Request) -> Response:
    """Answer a prompt, or continue a text."""
    service, start_time = request.app.state.service, time.perf_counter()
    name = await _check_model(body, request)
    check_prompt(body)
    if not body.prompt:
        return _loaded(body, name, text_chunk("", "", ()))
    build = _builder(service, body, name, text_chunk, start_time)
    if not body.raw and not body.suffix:
        return await answer_chat(service, prompt_body(body), request, build, LINES)
    settings = prompt_body(body)
    work = service.pool_of(settings).run(_prepare_text, service, body, settings)
    generation = await while_connected(request, work)
    plan = ChatPlan("")
    builder = build(plan, generation)
    return await answer(service, plan, generation, request, builder, LINES, body.stream)


def _builder(
    service: Service, body: AnswerBody, name: str, chunk: Any, start_time: float
) -> Callable[[ChatPlan, Generation], OllamaBuilder]:
    def build(plan: ChatPlan, generation: Generation) -> OllamaBuilder:
        tokenizer = service.tokenizer if body.logprobs else None
        warnings = warnings_of(body, service.model_info.n_ctx)
        return OllamaBuilder(
            name, generation, tokenizer, chunk, start_time=start_time, warnings=warnings
        )

    return build


def _prepare_text(service: Service, body: GenerateBody, settings: ChatBody) -> Generation:
    """Return a text that continues the prompt as it is, or fills in up to a suffix."""
    tokens = (
        service.encode_infill(body.prompt, body.suffix)
        if body.suffix
        else service.encode(body.prompt)
    )
    schema, strict = schema_of(settings.response_format, settings.json_schema)
    return service.prepare(
        tokens, settings, max_tokens=settings.max_tokens, stops=stop_list(settings.stop),
        n_top=body.top_logprobs if body.logprobs else None, schema=schema, strict=strict,
    )  # fmt: skip


def _loaded(body: AnswerBody, name: str, chunk: dict[str, Any]) -> Response:
    """Reply to a request that only loads or unloads the model: it stays loaded."""
    reason = "unload" if body.unloads else "load"
    end = {"done": True, "done_reason": reason}
    return Json({"model": name, "created_at": now(), **chunk, **end})


# -- the model ------------------------------------------------------------------------------------


@router.get("/version")
async def version(request: Request) -> Response:
    """Return the version of Ollama whose interface this is."""
    return Json({"version": VERSION})


@router.get("/tags")
async def tags(request: Request) -> Response:
    """List the one model."""
    info, names = request.app.state.service.model_info, request.app.state.names
    return Json({"models": [listed(info, names.shown)]})


@router.get("/ps")
async def processes(request: Request) -> Response:
    """List the one model, which is loaded."""
    info, names = request.app.state.service.model_info, request.app.state.names
    return Json({"models": [running(info, names.shown)]})


@router.post("/show")
async def show(body: ShowBody, request: Request) -> Response:
    """Describe the model."""
    await _check_model(body, request)
    return Json(shown(request.app.state.service.model_info))


# -- embeddings -----------------------------------------------------------------------------------


@router.post("/embed")
async def embed(body: EmbedBody, request: Request) -> Response:
    """Return vectors of texts."""
    service, start_time = request.app.state.service, time.perf_counter()
    name = await _check_model(body, request)
    service.vectors.check_dimensions(body.dimensions)
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors, n_tokens = await _vectors(
        service, request, texts, truncate=body.truncate, dimensions=body.dimensions
    )
    ns = int((time.perf_counter() - start_time) * 1e9)
    durations = {"total_duration": ns, "load_duration": 0, "prompt_eval_count": n_tokens}
    return Json({"model": name, "embeddings": vectors, **durations})


@router.post("/embeddings")
async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
    """Return the vector of one text."""
    service: Service = request.app.state.service
    await _check_model(body, request)
    texts = [body.prompt] if body.prompt else []
    vectors, _ = await _vectors(service, request, texts, truncate=True)
    return Json({"embedding": vectors[0] if vectors else []})


async def _vectors(
    service: Service,
    request: Request,
    texts: list[str],
    *,
    truncate: bool,
    dimensions: int | None = None,
) -> tuple[list[list[float]], int]:
    """Return a vector for each text, and the number of tokens of all."""
    if len(texts) > MAX_EMBEDDED:
        raise UsageError(f"expected at most {MAX_EMBEDDED} texts, found {len(texts)}")
    encode = partial(_encode, service, truncate=truncate)
    work = [await while_connected(request, service.pool.run(encode, text)) for text in texts]
    if not work:
        return [], 0
    vectors = await while_connected(request, service.vectors.embed(work, EUCLIDEAN, dimensions))
    return [vector.tolist() for vector in vectors], sum(map(len, work))


def _encode(service: Service, text: str, *, truncate: bool) -> list[int]:
    """Return the tokens of a text; of one that is too long, the first ones if it may be cut."""
    try:
        return service.encode(text)
    except ContextFullError:
        if not truncate:
            raise
    n_ctx = service.model_info.n_ctx
    while service.tokenizer.least_tokens(len(text)) > n_ctx:
        text = text[: len(text) // 2]
    return shorten(service.tokenizer.encode(text, parse_special=True), n_ctx, service.tokenizer)


# -- what a server of one model does not do -------------------------------------------------------


@router.post("/pull")
async def pull(body: PullBody, request: Request) -> Response:
    """Report that the served model is here; others are not downloaded."""
    await _check_model(body, request)
    status = {"status": "success"}
    if not body.stream:
        return Json(status)

    async def lines() -> Any:
        yield [status]

    return Events(lines(), lambda: None, LINES)


@router.post("/create")
@router.post("/copy")
@router.post("/push")
@router.delete("/delete")
async def manage(request: Request) -> Response:
    """Refuse to change what models there are."""
    text = (
        f"{request.url.path}: this server has one model and changes none: `gguf-hub download`, "
        "`gguf-hub quantize` and `gguf-hub rm` do, and `gguf-hub serve MODEL` serves another one"
    )
    return error(request.url.path, 400, text)


@router.post("/blobs/{digest}")
async def upload(request: Request, digest: str) -> Response:
    """Refuse to take a file."""
    return await manage(request)


@router.get("/blobs/{digest}", include_in_schema=False)  # asked by HEAD
async def blob(request: Request) -> Response:
    """Report that there is no such blob."""
    return Response(status_code=404)


async def reply_to_other_model(request: Request, exc: Exception) -> Response:
    """Reply to a request for a model that is not served."""
    assert isinstance(exc, NoModelError)
    return Json(error_body(exc, request.url.path), 404)
