"""llama-server's own routes, health, and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from gguf_hub.api.server.bodies import (
    ChatBody,
    DetokenizeBody,
    InfillBody,
    NativeBody,
    NativeEmbeddingBody,
    TokenizeBody,
)
from gguf_hub.api.server.conversations import render_chat
from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.measures import progress_of, sampling_of, timings_of
from gguf_hub.api.server.metrics import metrics_text
from gguf_hub.api.server.openai_routes import embedded_texts, prompts_of
from gguf_hub.api.server.replies import LLAMA_SERVER, Events, Json, not_offered
from gguf_hub.api.server.service import FALLBACK_FORMAT, Service
from gguf_hub.api.server.slots import PromptProgress
from gguf_hub.api.server.stream import Stream
from gguf_hub.errors import UsageError
from gguf_hub.run.chat import find_format
from gguf_hub.run.generation import Generation, TextDelta
from gguf_hub.run.generation.answers import token_entries, warned
from gguf_hub.run.generation.logits_sampler import TokenLogprob
from gguf_hub.run.generation.stops import stop_list
from gguf_hub.run.generation.streams import gather
from gguf_hub.run.tokenizer import Tokenizer

router = APIRouter(tags=["llama-server"])
_MISSING = object()
_FALLBACK_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""What ``FALLBACK_FORMAT`` prints, as a template for clients."""


@router.get("/v1/health", include_in_schema=False)
@router.get("/health")
async def health(request: Request) -> Response:
    """Report that the server is running."""
    return Json({"status": "ok"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the metrics for Prometheus."""
    service: Service = request.app.state.service
    text = metrics_text(service.scheduler, request.app.state.requests)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


_TEMPLATE_CAPS = {
    "supports_system_role": True, "supports_tools": True, "supports_tool_calls": True,
    "supports_parallel_tool_calls": True, "supports_string_content": True,
    "supports_typed_content": True,
}  # fmt: skip
"""What conversations may have: where a template prints less, it is put into words."""


@router.get("/lora-adapters")
async def lora_adapters(request: Request) -> Response:
    """Return the adapters and their scales."""
    service: Service = request.app.state.service
    adapters = enumerate(service.model_info.adapters)
    return Json([{"id": i, **asdict(adapter)} for i, adapter in adapters])


@router.get("/props")
async def props(request: Request) -> Response:
    """Return the model's properties and the default settings."""
    service: Service = request.app.state.service
    info, tokenizer, offers = service.model_info, service.tokenizer, request.app.state.offers
    return Json(
        {
            "default_generation_settings": {
                "n_ctx": info.n_ctx,
                "params": service.default_settings(),
            },
            "total_slots": info.n_slots,
            "model_path": info.path,
            "model_alias": info.name,
            "model_ftype": info.quant,
            "chat_template": _template_of(service),
            "bos_token": _token(tokenizer, tokenizer.bos_id),
            "eos_token": _token(tokenizer, tokenizer.eos_id),
            "build_info": request.app.version,
            "modalities": {"vision": False, "audio": False},
            "endpoint_slots": offers.slots, "endpoint_props": offers.props,
            "endpoint_metrics": True, "webui": offers.page, "ui": offers.page,
            "is_sleeping": False,
            "chat_template_caps": _TEMPLATE_CAPS,
            "model": {
                "description": info.description, "quant": info.quant,
                "n_params": info.n_params, "size_bytes": info.size_bytes,
                "n_ctx_train": info.n_ctx_train, "n_embd": info.n_embd, "n_vocab": info.n_vocab,
                "has_template": bool(info.chat_template),
            },
        }
    )  # fmt: skip


@router.post("/props")
async def change_props(request: Request, body: dict[str, Any] | None = None) -> Response:
    """Change global properties: there are none that can be changed, as in llama-server."""
    if not request.app.state.offers.props:
        return not_offered(request, "change of properties", "--props")
    if body:
        raise UsageError(f"{next(iter(body)):.60}: no property can be changed while serving")
    return Json({"success": True})


@router.post("/completions", include_in_schema=False)
@router.post("/completion")
async def completion(body: NativeBody, request: Request) -> Response:
    """Complete a text under llama-server's interface, or several."""
    service: Service = request.app.state.service
    tokens = [partial(service.encode, prompt) for prompt in prompts_of(body.prompt)]
    return await _complete(service, body, tokens, request)


@router.post("/infill")
async def infill(body: InfillBody, request: Request) -> Response:
    """Fill in a text between a prefix and a suffix, under llama-server's interface."""
    service: Service = request.app.state.service
    if not service.model_info.can_infill:
        raise UsageError("/infill: this model's vocabulary has no tokens for filling in the middle",
                         hint="serve a model that was trained to fill in")  # fmt: skip
    extra = "".join(f"\n\n--- snippet ---\n\n{each.text}" for each in body.input_extra)
    tokens = partial(_infill_tokens, service, body, f"{extra}{body.input_prefix}")
    return await _complete(service, body, [tokens], request)


def _infill_tokens(service: Service, body: InfillBody, prefix: str) -> list[int]:
    assert isinstance(body.prompt, str)
    service.check_length(body.prompt)
    tokens = service.encode_infill(prefix, body.input_suffix)
    return [*tokens, *service.tokenizer.encode(body.prompt, add_bos=False)]


@router.post("/apply-template")
async def apply_template(body: ChatBody, request: Request) -> Response:
    """Return the prompt of a conversation."""
    return Json({"prompt": await render_chat(request.app.state.service, body, request)})


@router.post("/embeddings", include_in_schema=False)
@router.post("/embedding")
async def embedding(body: NativeEmbeddingBody, request: Request) -> Response:
    """Return vectors of texts under llama-server's interface."""
    service: Service = request.app.state.service
    texts = await while_connected(request, embedded_texts(service, body.content))
    if service.vectors.pools_nothing:
        found = await while_connected(request, service.vectors.embed_tokens(texts))
    else:
        work = service.vectors.embed(texts, body.embd_normalize)
        found = [vector[None] for vector in await while_connected(request, work)]
    return Json([{"index": i, "embedding": rows.tolist()} for i, rows in enumerate(found)])


async def _complete(
    service: Service,
    body: NativeBody,
    prompts: Sequence[Callable[[], Sequence[int]]],
    request: Request,
) -> Response:
    """Complete prompts; of several the answer is an array, as of llama-server."""
    generations = []
    for tokens in prompts:  # one at a time, so that other requests get their turn
        work = service.pool_of(body).run(_prepare, service, body, tokens)
        generations += await while_connected(request, work)
    slot = None if body.id_slot < 0 else body.id_slot
    stream = service.start(
        generations, is_buffered=not body.stream, slot=slot, shows_progress=body.shows_progress
    )
    if body.stream:
        return Events(_native_chunks(service, body, stream), stream.cancel, LLAMA_SERVER)
    deltas = await while_connected(request, stream.all())
    answers = [_answer(service, body, stream, i, each) for i, each in enumerate(deltas)]
    return Json(answers[0] if len(answers) == 1 else answers)


def _answer(
    service: Service, body: NativeBody, stream: Stream, index: int, deltas: Sequence[TextDelta]
) -> dict[str, Any]:
    text, logprobs, reason = gather(deltas)
    ids = [token_id for delta in deltas for token_id in delta.token_ids]
    written = {"tokens": ids if body.return_tokens else []}
    probabilities = _probabilities(service, body, logprobs)
    end = _final_fields(service, body, stream, index, reason)
    answer = {"index": index, "content": text, **written, **end, **probabilities}
    return _chosen(answer, body.response_fields)


def _probabilities(
    service: Service, body: NativeBody, logprobs: Sequence[TokenLogprob]
) -> dict[str, Any]:
    if not body.n_probs:
        return {}
    entries = token_entries(
        logprobs, service.tokenizer, has_ids=True, as_probs=body.post_sampling_probs
    )
    return {"completion_probabilities": entries}


def _chosen(answer: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Return the fields that were asked for, all without any; ``a/b`` is ``b`` of ``a``.

    Source: llama.cpp, tools/server/README.md, ``response_fields``: what is missing is left out.
    """
    if not paths:
        return answer
    chosen = {}
    for path in paths:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            chosen[path] = value
    return chosen


def _prepare(
    service: Service, body: NativeBody, tokens: Callable[[], Sequence[int]]
) -> list[Generation]:
    """Return the texts of a prompt."""
    ids = tokens()
    return [
        service.prepare(
            ids, body, max_tokens=body.n_predict, stops=stop_list(body.stop),
            n_top=body.n_probs or None, schema=body.json_schema, choice=choice,
            is_after_sampling=body.post_sampling_probs,
            max_s=body.t_max_predict_ms / 1000 if body.t_max_predict_ms > 0 else None,
        )
        for choice in range(body.n)
    ]  # fmt: skip


async def _native_chunks(
    service: Service, body: NativeBody, stream: Stream
) -> AsyncIterator[list[dict[str, Any]]]:
    async for batch in stream.batches():
        chunks = []
        for index, delta in batch:
            if delta.text or isinstance(delta, PromptProgress):
                chunks.append(_chunk(service, body, stream, index, delta))
            if delta.finish_reason is not None:
                # tokens without a text of their own, such as those of a stop text
                tokens = {"tokens": [] if delta.text else list(delta.token_ids)}
                end = _final_fields(service, body, stream, index, delta.finish_reason)
                answer = {"index": index, "content": "", **tokens, **end}
                chunks.append(_chosen(answer, body.response_fields))
        yield chunks


def _chunk(
    service: Service, body: NativeBody, stream: Stream, index: int, delta: TextDelta
) -> dict[str, Any]:
    timings = {"timings": timings_of(stream.generations[index])} if body.timings_per_token else {}
    return {"index": index, "content": delta.text, "tokens": list(delta.token_ids), "stop": False,
            **progress_of(delta), **timings,
            **_probabilities(service, body, delta.logprobs)}  # fmt: skip


def _final_fields(
    service: Service, body: NativeBody, stream: Stream, index: int, reason: str
) -> dict[str, Any]:
    generation, decode = stream.generations[index], service.tokenizer.decode
    prompt = generation.request.prompt
    stop_type = (
        "limit" if reason == "length" else "word" if generation.stop_text is not None else "eos"
    )
    return {
        "stop": True,
        "model": service.model_info.name,
        "id_slot": stream.sequences[index].used_slot,
        "generation_settings": _settings(service, body, generation),
        "tokens_predicted": generation.n_generated,
        "tokens_evaluated": len(prompt),
        "prompt": decode(prompt, special=True),
        "has_new_line": "\n" in decode(generation.tokens[len(prompt) :]),
        "tokens_cached": generation.timings.n_cached,
        "truncated": generation.n_shifts > 0,
        "stop_type": stop_type,
        "stopping_word": generation.stop_text or "",
        "timings": timings_of(generation),
        **warned(generation.request.warnings),
    }  # fmt: skip


def _settings(service: Service, body: NativeBody, generation: Generation) -> dict[str, Any]:
    """Return the settings that a text was written with."""
    fields = ("stream", "n_probs", "ignore_eos", "post_sampling_probs", "timings_per_token",
              "t_max_predict_ms")  # fmt: skip
    return {
        "n_ctx": service.model_info.n_ctx, **sampling_of(generation),
        "stop": list(generation.request.stops),
        "n_keep": body.n_keep or 0, "grammar": body.grammar or "",
        **{name: getattr(body, name) for name in fields},
    }  # fmt: skip


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, request: Request) -> Response:
    """Return the tokens of a text."""
    service: Service = request.app.state.service
    service.check_bulk_size(body.content)
    pool = service.pool_for(service.tokenizer.least_tokens(len(body.content)))
    return await while_connected(request, pool.run(_tokens, service.tokenizer, body))


def _tokens(tokenizer: Tokenizer, body: TokenizeBody) -> Response:
    ids = tokenizer.encode(body.content, body.add_special, body.parse_special)
    if not body.with_pieces:
        return Json({"tokens": ids})
    return Json({"tokens": [{"id": i, "piece": _piece(tokenizer, i)} for i in ids]})


def _piece(tokenizer: Tokenizer, token_id: int) -> str | list[int]:
    """Return the text of a token, or its bytes where they are part of a character alone.

    Source: llama.cpp, tools/server/README.md, ``with_pieces``.
    """
    data = tokenizer.token_bytes(token_id, special=True)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, request: Request) -> Response:
    """Return the text of tokens."""
    service: Service = request.app.state.service
    pool = service.pool_for(len(body.tokens))
    return await while_connected(request, pool.run(_text, service.tokenizer, body))


def _text(tokenizer: Tokenizer, body: DetokenizeBody) -> Response:
    return Json({"content": tokenizer.decode(body.tokens, special=True)})


def _template_of(service: Service) -> str:
    """Return the template of the conversations, that of llama-server for models without one."""
    is_fallback = service.chat_format == find_format(FALLBACK_FORMAT)
    return _FALLBACK_TEMPLATE if is_fallback else service.chat_format.source


def _token(tokenizer: Any, token_id: int | None) -> str:
    return "" if token_id is None else str(tokenizer.vocab.tokens[token_id])
