"""``/v1``: OpenAI's interface."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from gguf_hub.api.server.bodies import MAX_PROMPTS, ChatBody, CompletionBody, EmbeddingBody
from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.replies import Events, Json
from gguf_hub.api.server.service import Service
from gguf_hub.api.server.stream import Stream
from gguf_hub.errors import UsageError
from gguf_hub.run.generation import Generation, TextDelta
from gguf_hub.run.generation.answers import (
    Answer,
    Head,
    chat_logprobs,
    embeddings,
    text_choice,
    text_logprobs,
    usage,
    warned,
)
from gguf_hub.run.generation.chat import ChatPlan, encode_chat, modern_tools, plan_chat
from gguf_hub.run.generation.stops import stop_list
from gguf_hub.run.generation.streams import ChatStream, CompletionStream, chat_answer_choice, gather

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.get("/models")
async def models(request: Request) -> Response:
    """List the one model."""
    service: Service = request.app.state.service
    info = service.model_info
    meta = {"n_ctx": info.n_ctx, "n_ctx_train": info.n_ctx_train, "n_embd": info.n_embd,
            "n_vocab": info.n_vocab, "n_params": info.n_params, "size": info.size_bytes,
            "quant": info.quant, "n_slots": info.n_slots,
            "description": info.description}  # fmt: skip
    model = {"id": info.name, "object": "model", "created": service.created,
             "owned_by": "gguf-hub", "meta": meta}  # fmt: skip
    return Json({"object": "list", "data": [model]})


# -- completions ----------------------------------------------------------------------------------


@router.post("/completions")
async def completions(body: CompletionBody, request: Request) -> Response:
    """Complete one text or several."""
    service: Service = request.app.state.service
    generations, texts = await while_connected(request, _prepare_completions(service, body))
    head = Head(body.model or service.model_info.name)
    stream = service.start(generations, is_buffered=not body.stream)
    if body.stream:
        return Events(_completion_chunks(service, body, head, stream, texts), stream.cancel)
    deltas = await while_connected(request, stream.all())
    choices = [
        _completion_choice(service, body, i, texts[i], text_deltas)
        for i, text_deltas in enumerate(deltas)
    ]
    return Json(head.text(choices, usage=_usage(generations), **_warned(generations)))


def _prompts(prompt: Any) -> list[str | list[int]]:
    is_list = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    prompts: list[str | list[int]] = prompt if is_list else [prompt]
    if len(prompts) > MAX_PROMPTS:
        raise UsageError(f"expected at most {MAX_PROMPTS} prompts, found {len(prompts)}")
    return prompts


async def _prepare_completions(
    service: Service, body: CompletionBody
) -> tuple[list[Generation], list[str]]:
    """Return the texts of a request, and the prompt of each."""
    generations: list[Generation] = []
    texts: list[str] = []
    for prompt in _prompts(body.prompt):  # one at a time, so that other requests get their turn
        prompt_generations, text = await service.pool_of(body).run(
            _prepare_prompt, service, body, prompt
        )
        generations += prompt_generations
        texts += [text] * len(prompt_generations)
    return generations, texts


def _prepare_prompt(
    service: Service, body: CompletionBody, prompt: str | list[int]
) -> tuple[list[Generation], str]:
    tokens = service.encode(prompt)
    generations = [
        service.prepare(
            tokens, body, max_tokens=body.max_tokens, stops=stop_list(body.stop),
            n_top=body.logprobs, choice=choice,
        )
        for choice in range(body.n)
    ]  # fmt: skip
    return generations, prompt if isinstance(prompt, str) else service.tokenizer.decode(prompt)


def _completion_choice(
    service: Service, body: CompletionBody, i: int, prompt: str, deltas: list[TextDelta]
) -> Answer:
    text, token_logprobs, reason = gather(deltas)
    logprobs = None
    if body.logprobs is not None:
        logprobs = text_logprobs(token_logprobs, service.tokenizer, len(prompt))
    text = f"{prompt if body.echo else ''}{text}{body.suffix or ''}"
    return text_choice(text, index=i, logprobs=logprobs, finish_reason=reason)


async def _completion_chunks(
    service: Service, body: CompletionBody, head: Head, stream: Stream, texts: list[str]
) -> AsyncIterator[list[Answer]]:
    streams = [
        CompletionStream(head, service.tokenizer, has_logprobs=body.logprobs is not None,
                 offset=len(text), index=i, warnings=stream.generations[i].request.warnings)
        for i, text in enumerate(texts)
    ]  # fmt: skip
    if body.echo:
        yield [head.text([text_choice(text, index=i)]) for i, text in enumerate(texts)]
    async for batch in stream.batches():
        yield [chunk for i, delta in batch for chunk in streams[i].chunks(delta)]
    if body.stream_options and body.stream_options.include_usage:
        yield [head.text([], usage=_usage(stream.generations), **_warned(stream.generations))]


# -- conversations --------------------------------------------------------------------------------


@router.post("/chat/completions")
async def chat_completions(body: ChatBody, request: Request) -> Response:
    """Answer a conversation."""
    service: Service = request.app.state.service
    work = service.pool_of(body).run(_prepare_chat, service, body)
    plan, generations = await while_connected(request, work)
    head = Head(body.model or service.model_info.name)
    stream = service.start(generations, is_buffered=not body.stream)
    if body.stream:
        return Events(_chat_chunks(service, body, head, plan, stream), stream.cancel)
    deltas = await while_connected(request, stream.all())
    choices = [
        _chat_choice(service, body, head, plan, i, text_deltas)
        for i, text_deltas in enumerate(deltas)
    ]
    return Json(head.chat(choices, usage=_usage(generations), **_warned(generations)))


def _prepare_chat(service: Service, body: ChatBody) -> tuple[ChatPlan, list[Generation]]:
    tools, choice = body.tools, body.tool_choice
    if body.functions is not None:
        converted, choice = modern_tools(body.functions, body.function_call)
        tools = [dict(tool) for tool in converted or ()]
    plan = plan_chat(
        service.chat_format,
        [message.model_dump(exclude_unset=True) for message in body.messages],
        tools=tools,
        tool_choice=choice,
        response_format=body.response_format,
        **_template_variables(body.chat_template_kwargs),
    )
    service.check_length(plan.prompt)
    tokens = encode_chat(service.tokenizer, plan.prompt)
    limit = body.max_completion_tokens
    generations = [
        service.prepare(
            tokens, body, max_tokens=body.max_tokens if limit is None else limit,
            stops=[*stop_list(body.stop), *plan.stops],
            n_top=(body.top_logprobs or 0) if body.logprobs else None, schema=plan.schema,
            strict=plan.strict, choice=choice, warnings=plan.warnings,
        )
        for choice in range(body.n)
    ]  # fmt: skip
    return plan, generations


def _template_variables(variables: dict[str, Any] | None) -> dict[str, Any]:
    """Return a client's template variables without those that the server sets."""
    reserved = {"messages", "tools", "tool_choice", "response_format", "chat_format",
             "add_generation_prompt", "documents", "bos_token", "eos_token"}  # fmt: skip
    return {name: value for name, value in (variables or {}).items() if name not in reserved}


def _chat_choice(
    service: Service, body: ChatBody, head: Head, plan: ChatPlan, i: int, deltas: list[TextDelta]
) -> Answer:
    text, token_logprobs, reason = gather(deltas)
    logprobs = chat_logprobs(token_logprobs, service.tokenizer) if body.logprobs else None
    return chat_answer_choice(head, plan, text, reason, index=i, logprobs=logprobs,
                              has_legacy_call=body.functions is not None)  # fmt: skip


async def _chat_chunks(
    service: Service, body: ChatBody, head: Head, plan: ChatPlan, stream: Stream
) -> AsyncIterator[list[Answer]]:
    streams = [
        ChatStream(head, service.tokenizer, plan, has_logprobs=bool(body.logprobs), index=i,
                 has_legacy_call=body.functions is not None, warnings=generation.request.warnings)
        for i, generation in enumerate(stream.generations)
    ]  # fmt: skip
    async for batch in stream.batches():
        yield [chunk for i, delta in batch for chunk in streams[i].chunks(delta)]
    if body.stream_options and body.stream_options.include_usage:
        yield [head.chat_chunk([], usage=_usage(stream.generations), **_warned(stream.generations))]


# -- embeddings -----------------------------------------------------------------------------------


@router.post("/embeddings")
async def embed(body: EmbeddingBody, request: Request) -> Response:
    """Return vectors of texts."""
    service: Service = request.app.state.service
    texts = await while_connected(request, _embedded_texts(service, body))
    vectors = await while_connected(request, service.embed(texts))
    encoded = [_encode_vector(vector, body.encoding_format) for vector in vectors]
    return Json(embeddings(encoded, body.model or service.model_info.name, sum(map(len, texts))))


async def _embedded_texts(service: Service, body: EmbeddingBody) -> list[list[int]]:
    texts = [await service.pool.run(service.encode, text) for text in _prompts(body.input)]
    if not texts:
        raise UsageError("input: expected at least one text, found none")
    return texts


def _encode_vector(vector: Any, encoding: str) -> Any:
    if encoding == "float":
        return vector.tolist()
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")


# -- what they share ------------------------------------------------------------------------------


def _warned(generations: Sequence[Generation]) -> Answer:
    return warned(text for generation in generations for text in generation.request.warnings)


def _usage(generations: Sequence[Generation]) -> Answer:
    n_prompt = sum(len(generation.request.prompt) for generation in generations)
    return usage(n_prompt, sum(generation.n_generated for generation in generations))
