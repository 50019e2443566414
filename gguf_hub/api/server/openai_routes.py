"""``/v1``: OpenAI's interface."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from gguf_hub.api.server.bodies import (
    MAX_EMBEDDED,
    MAX_PROMPTS,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
)
from gguf_hub.api.server.conversations import count_tokens, prepare_chat
from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.measures import progress_of, timings_of, usage_of
from gguf_hub.api.server.replies import Events, Json, error
from gguf_hub.api.server.service import ModelInfo, Service
from gguf_hub.api.server.stream import Stream
from gguf_hub.errors import UsageError
from gguf_hub.run.generation import Generation, TextDelta
from gguf_hub.run.generation.answers import (
    Answer,
    Head,
    chat_choice,
    chat_logprobs,
    embeddings,
    text_choice,
    warned,
)
from gguf_hub.run.generation.chat import ChatPlan, schema_of
from gguf_hub.run.generation.stops import stop_list
from gguf_hub.run.generation.streams import ChatStream, CompletionStream, chat_answer_choice, gather

router = APIRouter(prefix="/v1", tags=["OpenAI"])
bare = APIRouter(include_in_schema=False)
"""Those of them that llama-server has without ``/v1``, too."""


@bare.get("/models")
@router.get("/models")
async def models(request: Request) -> Response:
    """List the one model, under the names of OpenAI's fields and Anthropic's."""
    service: Service = request.app.state.service
    name = service.model_info.name
    pages = {"has_more": False, "first_id": name, "last_id": name}
    return Json({"object": "list", "data": [_model(service)], **pages})


@router.get("/models/{model_id:path}")
async def model(model_id: str, request: Request) -> Response:
    """Describe the model."""
    service: Service = request.app.state.service
    if model_id == service.model_info.name:
        return Json(_model(service))
    text = f"no model `{model_id}`: expected `{service.model_info.name}`"
    return error(request.url.path, 404, text, param="model", code="model_not_found")


def _model(service: Service) -> dict[str, Any]:
    info = service.model_info
    created_at = datetime.fromtimestamp(service.created, timezone.utc).isoformat()
    anthropic = {"type": "model", "display_name": info.name, "created_at": created_at}
    return {"id": info.name, "object": "model", "created": service.created,
            "owned_by": "gguf-hub", **anthropic, "meta": meta_of(info)}  # fmt: skip


def meta_of(info: ModelInfo) -> dict[str, Any]:
    """Return what lists of models say of one beside its name."""
    return {"n_ctx": info.n_ctx, "n_ctx_train": info.n_ctx_train, "n_embd": info.n_embd,
            "n_vocab": info.n_vocab, "n_params": info.n_params, "size": info.size_bytes,
            "quant": info.quant, "n_slots": info.n_slots,
            "description": info.description}  # fmt: skip


# -- completions ----------------------------------------------------------------------------------


@router.post("/completions")
async def completions(body: CompletionBody, request: Request) -> Response:
    """Complete one text or several."""
    service: Service = request.app.state.service
    prompts, generations = await while_connected(request, _prepare_completions(service, body))
    head = Head(body.model or service.model_info.name)
    completions = [
        CompletionStream(head, service.tokenizer, generation, prompts[i // body.n], index=i,
                         has_echo=body.echo, has_logprobs=body.logprobs is not None,
                         warnings=generation.request.warnings)
        for i, generation in enumerate(generations)
    ]  # fmt: skip
    stream = service.start(
        generations, is_buffered=not body.stream, shows_progress=body.shows_progress
    )
    if body.stream:
        return Events(_completion_chunks(body, head, stream, completions), stream.cancel)
    deltas = await while_connected(request, stream.all())
    choices = [
        completion.choice(text_deltas)
        for completion, text_deltas in zip(completions, deltas, strict=True)
    ]
    return Json(head.text(choices, **_final(generations, body.n)))


def prompts_of(prompt: Any, most: int = MAX_PROMPTS) -> list[str | list[int | str]]:
    """Return the prompts of a request: one of texts and ids, or several.

    Raises:
        UsageError: There are more than ``most``.
    """
    is_one = isinstance(prompt, str) or not prompt or any(isinstance(i, int) for i in prompt)
    prompts: list[str | list[int | str]] = [prompt] if is_one else prompt
    if len(prompts) > most:
        raise UsageError(f"expected at most {most} prompts, found {len(prompts)}")
    return prompts


async def _prepare_completions(
    service: Service, body: CompletionBody
) -> tuple[list[str | list[int | str]], list[Generation]]:
    """Return the prompts of a request, and ``n`` texts for each."""
    prompts, generations = prompts_of(body.prompt), []
    for prompt in prompts:  # one at a time, so that other requests get their turn
        generations += await service.pool_of(body).run(_prepare_prompt, service, body, prompt)
    return prompts, generations


def _prepare_prompt(
    service: Service, body: CompletionBody, prompt: str | list[int | str]
) -> list[Generation]:
    tokens = service.encode_infill(prompt, body.suffix) if body.suffix else service.encode(prompt)
    schema, strict = schema_of(body.response_format, body.json_schema)
    return [
        service.prepare(
            tokens, body, max_tokens=body.max_tokens, stops=stop_list(body.stop),
            n_top=body.logprobs, n_prompt_top=body.logprobs if body.echo else None,
            schema=schema, strict=strict, choice=choice,
        )
        for choice in range(body.n)
    ]  # fmt: skip


async def _completion_chunks(
    body: CompletionBody, head: Head, stream: Stream, completions: list[CompletionStream]
) -> AsyncIterator[list[Answer]]:
    async for batch in stream.batches():
        yield [
            {**chunk, **_timings(body, stream.generations[i])}
            for i, delta in batch
            for chunk in _text_chunks(head, completions[i], i, delta)
        ]
    if body.stream_options and body.stream_options.include_usage:
        yield [head.text([], **_final(stream.generations, body.n))]


def _text_chunks(
    head: Head, completion: CompletionStream, index: int, delta: TextDelta
) -> Iterable[Answer]:
    if progress := progress_of(delta):
        return [{**head.text([text_choice("", index=index)]), **progress}]
    return completion.chunks(delta)


# -- conversations --------------------------------------------------------------------------------


@bare.post("/chat/completions")
@router.post("/chat/completions")
async def chat_completions(body: ChatBody, request: Request) -> Response:
    """Answer a conversation."""
    service: Service = request.app.state.service
    plan, generations = await prepare_chat(service, body, request)
    head = Head(body.model or service.model_info.name)
    stream = service.start(
        generations, is_buffered=not body.stream, shows_progress=body.shows_progress
    )
    if body.stream:
        return Events(_chat_chunks(service, body, head, plan, stream), stream.cancel)
    deltas = await while_connected(request, stream.all())
    choices = [
        _chat_choice(service, body, head, plan, i, text_deltas)
        for i, text_deltas in enumerate(deltas)
    ]
    return Json(head.chat(choices, **_final(generations, body.n)))


@router.post("/chat/completions/input_tokens")
async def chat_tokens(body: ChatBody, request: Request) -> Response:
    """Count the tokens of a conversation."""
    n_tokens = await count_tokens(request.app.state.service, body, request)
    return Json({"object": "response.input_tokens", "input_tokens": n_tokens})


def _chat_choice(
    service: Service, body: ChatBody, head: Head, plan: ChatPlan, i: int, deltas: list[TextDelta]
) -> Answer:
    text, token_logprobs, reason = gather(deltas)
    logprobs = chat_logprobs(token_logprobs, service.tokenizer) if body.logprobs else None
    return chat_answer_choice(head, plan, text, reason, index=i, logprobs=logprobs,
                              call_form=body.call_form)  # fmt: skip


async def _chat_chunks(
    service: Service, body: ChatBody, head: Head, plan: ChatPlan, stream: Stream
) -> AsyncIterator[list[Answer]]:
    streams = [
        ChatStream(head, service.tokenizer, plan, has_logprobs=bool(body.logprobs), index=i,
                 call_form=body.call_form, warnings=generation.request.warnings)
        for i, generation in enumerate(stream.generations)
    ]  # fmt: skip
    async for batch in stream.batches():
        yield [
            {**chunk, **_timings(body, stream.generations[i])}
            for i, delta in batch
            for chunk in _message_chunks(head, streams[i], i, delta)
        ]
    if body.stream_options and body.stream_options.include_usage:
        yield [head.chat_chunk([], **_final(stream.generations, body.n))]


def _message_chunks(
    head: Head, stream: ChatStream, index: int, delta: TextDelta
) -> Iterable[Answer]:
    if progress := progress_of(delta):
        return [{**head.chat_chunk([chat_choice("delta", {}, index=index)]), **progress}]
    return stream.chunks(delta)


# -- embeddings -----------------------------------------------------------------------------------


@router.post("/embeddings")
async def embed(body: EmbeddingBody, request: Request) -> Response:
    """Return vectors of texts."""
    service: Service = request.app.state.service
    service.vectors.check_dimensions(body.dimensions)
    texts = await while_connected(request, embedded_texts(service, body.input))
    vectors = await while_connected(
        request, service.vectors.embed(texts, body.embd_normalize, body.dimensions)
    )
    encoded = [_encode_vector(vector, body.encoding_format) for vector in vectors]
    return Json(embeddings(encoded, body.model or service.model_info.name, sum(map(len, texts))))


async def embedded_texts(service: Service, prompts: Any) -> list[list[int]]:
    """Return the tokens of each text to embed.

    Raises:
        UsageError: There is none.
    """
    found = prompts_of(prompts, MAX_EMBEDDED)
    texts = [await service.pool.run(service.encode, text) for text in found]
    if not texts:
        raise UsageError("input: expected at least one text, found none")
    return texts


def _encode_vector(vector: Any, encoding: str) -> Any:
    if encoding == "float":
        return vector.tolist()
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")


# -- what they share ------------------------------------------------------------------------------


def _timings(body: CompletionBody | ChatBody, generation: Generation) -> Answer:
    """Return llama-server's ``timings`` of a chunk, if they are wanted in each."""
    return {"timings": timings_of(generation)} if body.timings_per_token else {}


def _final(generations: Sequence[Generation], n_choices: int) -> Answer:
    """Return what the last chunk of a stream, or a whole answer, says of its texts."""
    timings = {"timings": timings_of(generations[0])} if len(generations) == 1 else {}
    warnings = warned(text for each in generations for text in each.request.warnings)
    return {"usage": usage_of(generations, n_choices), **timings, **warnings}
