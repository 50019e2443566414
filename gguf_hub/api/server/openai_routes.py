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
)
from gguf_hub.run.generation.chat import ChatPlan, encode_chat, modern_tools, plan_chat
from gguf_hub.run.generation.streams import ChatStream, CompletionStream, chat_answer_choice, gather

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.get("/models")
async def models(request: Request) -> Response:
    """List the one model."""
    service: Service = request.app.state.service
    facts = service.facts
    meta = {"n_ctx": facts.n_ctx, "n_ctx_train": facts.n_ctx_train, "n_embd": facts.n_embd,
            "n_vocab": facts.n_vocab, "n_params": facts.n_params, "size": facts.size_bytes,
            "quant": facts.quant, "n_slots": facts.n_slots,
            "description": facts.description}  # fmt: skip
    model = {"id": facts.name, "object": "model", "created": service.created,
             "owned_by": "gguf-hub", "meta": meta}  # fmt: skip
    return Json({"object": "list", "data": [model]})


# -- completions ----------------------------------------------------------------------------------


@router.post("/completions")
async def completions(body: CompletionBody, request: Request) -> Response:
    """Go on with a text, or with several."""
    service: Service = request.app.state.service
    runs, texts = await while_connected(request, _completion_runs(service, body))
    head = Head(body.model or service.facts.name)
    stream = service.start(runs, is_whole=not body.stream)
    if body.stream:
        return Events(_completion_chunks(service, body, head, stream, texts), stream.cancel)
    pieces = await while_connected(request, stream.all())
    choices = [
        _completion_choice(service, body, i, texts[i], found) for i, found in enumerate(pieces)
    ]
    return Json(head.text(choices, usage=_usage(runs)))


def _prompts(prompt: Any) -> list[str | list[int]]:
    """Return the prompts of a request, which may hold one or several."""
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    prompts: list[str | list[int]] = prompt if several else [prompt]
    if len(prompts) > MAX_PROMPTS:
        raise UsageError(f"expected at most {MAX_PROMPTS} prompts, found {len(prompts)}")
    return prompts


async def _completion_runs(
    service: Service, body: CompletionBody
) -> tuple[list[Generation], list[str]]:
    """Return the runs of a request, and the text of each one's prompt."""
    runs: list[Generation] = []
    texts: list[str] = []
    for prompt in _prompts(body.prompt):  # one at a time: others have their turn between them
        more, text = await service.pool_of(body).run(_runs_of_prompt, service, body, prompt)
        runs += more
        texts += [text] * len(more)
    return runs, texts


def _runs_of_prompt(
    service: Service, body: CompletionBody, prompt: str | list[int]
) -> tuple[list[Generation], str]:
    tokens = service.encode(prompt)
    runs = [
        service.run(
            tokens, body, max_tokens=body.max_tokens, stops=_stops(body.stop),
            n_top=body.logprobs, choice=choice,
        )
        for choice in range(body.n)
    ]  # fmt: skip
    return runs, prompt if isinstance(prompt, str) else service.tokenizer.decode(prompt)


def _completion_choice(
    service: Service, body: CompletionBody, i: int, prompt: str, pieces: list[TextDelta]
) -> Answer:
    text, chances, reason = gather(pieces)
    logprobs = None
    if body.logprobs is not None:
        logprobs = text_logprobs(chances, service.tokenizer, len(prompt))
    text = f"{prompt if body.echo else ''}{text}{body.suffix or ''}"
    return text_choice(text, index=i, logprobs=logprobs, finish_reason=reason)


async def _completion_chunks(
    service: Service, body: CompletionBody, head: Head, stream: Stream, texts: list[str]
) -> AsyncIterator[list[Answer]]:
    talks = [
        CompletionStream(head, service.tokenizer, has_logprobs=body.logprobs is not None,
                 offset=len(text), index=i)
        for i, text in enumerate(texts)
    ]  # fmt: skip
    if body.echo:
        yield [head.text([text_choice(text, index=i)]) for i, text in enumerate(texts)]
    async for batch in stream.batches():
        yield [chunk for i, piece in batch for chunk in talks[i].chunks(piece)]
    if body.stream_options and body.stream_options.include_usage:
        yield [head.text([], usage=_usage(stream.runs))]


# -- conversations --------------------------------------------------------------------------------


@router.post("/chat/completions")
async def chat_completions(body: ChatBody, request: Request) -> Response:
    """Answer a conversation."""
    service: Service = request.app.state.service
    work = service.pool_of(body).run(_chat_runs, service, body)
    plan, runs = await while_connected(request, work)
    head = Head(body.model or service.facts.name)
    stream = service.start(runs, is_whole=not body.stream)
    if body.stream:
        return Events(_chat_chunks(service, body, head, plan, stream), stream.cancel)
    pieces = await while_connected(request, stream.all())
    choices = [_chat_choice(service, body, head, plan, i, found) for i, found in enumerate(pieces)]
    return Json(head.chat(choices, usage=_usage(runs)))


def _chat_runs(service: Service, body: ChatBody) -> tuple[ChatPlan, list[Generation]]:
    tools, choice = body.tools, body.tool_choice
    if body.functions is not None:
        old, choice = modern_tools(body.functions, body.function_call)
        tools = [dict(tool) for tool in old or ()]
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
    runs = [
        service.run(
            tokens, body, max_tokens=body.max_tokens if limit is None else limit,
            stops=[*_stops(body.stop), *plan.stops],
            n_top=(body.top_logprobs or 0) if body.logprobs else None, schema=plan.schema,
            choice=choice,
        )
        for choice in range(body.n)
    ]  # fmt: skip
    return plan, runs


def _template_variables(given: dict[str, Any] | None) -> dict[str, Any]:
    """Return a client's values for the template; it cannot replace what the server gives."""
    taken = {"messages", "tools", "tool_choice", "response_format", "chat_format",
             "add_generation_prompt", "documents", "bos_token", "eos_token"}  # fmt: skip
    return {name: value for name, value in (given or {}).items() if name not in taken}


def _chat_choice(
    service: Service, body: ChatBody, head: Head, plan: ChatPlan, i: int, pieces: list[TextDelta]
) -> Answer:
    text, chances, reason = gather(pieces)
    logprobs = chat_logprobs(chances, service.tokenizer) if body.logprobs else None
    return chat_answer_choice(head, plan, text, reason, index=i, logprobs=logprobs,
                              has_legacy_call=body.functions is not None)  # fmt: skip


async def _chat_chunks(
    service: Service, body: ChatBody, head: Head, plan: ChatPlan, stream: Stream
) -> AsyncIterator[list[Answer]]:
    talks = [
        ChatStream(head, service.tokenizer, plan, has_logprobs=bool(body.logprobs), index=i,
                 has_legacy_call=body.functions is not None)
        for i in range(len(stream.runs))
    ]  # fmt: skip
    async for batch in stream.batches():
        yield [chunk for i, piece in batch for chunk in talks[i].chunks(piece)]
    if body.stream_options and body.stream_options.include_usage:
        yield [head.chat_chunk([], usage=_usage(stream.runs))]


# -- embeddings -----------------------------------------------------------------------------------


@router.post("/embeddings")
async def embed(body: EmbeddingBody, request: Request) -> Response:
    """Return vectors of texts."""
    service: Service = request.app.state.service
    texts = await while_connected(request, _embedded_texts(service, body))
    vectors = await while_connected(request, service.embed(texts))
    shown = [_shown(vector, body.encoding_format) for vector in vectors]
    return Json(embeddings(shown, body.model or service.facts.name, sum(map(len, texts))))


async def _embedded_texts(service: Service, body: EmbeddingBody) -> list[list[int]]:
    texts = [await service.pool.run(service.encode, text) for text in _prompts(body.input)]
    if not texts:
        raise UsageError("input: expected at least one text, found none")
    return texts


def _shown(vector: Any, encoding: str) -> Any:
    if encoding == "float":
        return vector.tolist()
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")


# -- what they share ------------------------------------------------------------------------------


def _stops(stop: str | list[str] | None) -> list[str]:
    return [stop] if isinstance(stop, str) else list(stop or ())


def _usage(runs: Sequence[Generation]) -> Answer:
    n_prompt = sum(len(run.job.prompt) for run in runs)
    return usage(n_prompt, sum(run.n_generated for run in runs))
