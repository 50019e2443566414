"""llama-server's own routes, health, and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from gguf_hub.api.server.bodies import DetokenizeBody, NativeBody, TokenizeBody
from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.metrics import metrics_text
from gguf_hub.api.server.replies import LLAMA_SERVER, Events, Json
from gguf_hub.api.server.service import Service
from gguf_hub.api.server.stream import Stream
from gguf_hub.run.generation import Generation
from gguf_hub.run.generation.answers import token_entries, token_text, warned
from gguf_hub.run.generation.stops import stop_list
from gguf_hub.run.generation.streams import gather
from gguf_hub.run.tokenizer import Tokenizer

router = APIRouter(tags=["llama-server"])


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


@router.get("/props")
async def props(request: Request) -> Response:
    """Return the model's properties and the default settings."""
    service: Service = request.app.state.service
    info, tokenizer = service.model_info, service.tokenizer
    return Json(
        {
            "default_generation_settings": {
                "n_ctx": info.n_ctx,
                "params": service.default_settings(),
            },
            "total_slots": info.n_slots,
            "model_path": info.path,
            "model_alias": info.name,
            "chat_template": info.chat_template,
            "bos_token": _token(tokenizer, tokenizer.bos_id),
            "eos_token": _token(tokenizer, tokenizer.eos_id),
            "build_info": request.app.version,
            "model": {
                "description": info.description, "quant": info.quant,
                "n_params": info.n_params, "size_bytes": info.size_bytes,
                "n_ctx_train": info.n_ctx_train, "n_embd": info.n_embd, "n_vocab": info.n_vocab,
                "has_template": bool(info.chat_template),
            },
        }
    )  # fmt: skip


@router.post("/completion")
async def completion(body: NativeBody, request: Request) -> Response:
    """Complete a text under llama-server's interface."""
    service: Service = request.app.state.service
    generation = await while_connected(request, service.pool_of(body).run(_prepare, service, body))
    stream = service.start([generation], is_buffered=not body.stream)
    if body.stream:
        return Events(_native_chunks(service, stream), stream.cancel, LLAMA_SERVER)
    (deltas,) = await while_connected(request, stream.all())
    text, logprobs, reason = gather(deltas)
    answer = {"content": text, **_final_fields(service, stream, reason)}
    if body.n_probs:
        answer["completion_probabilities"] = token_entries(
            logprobs, service.tokenizer, has_ids=True
        )
    return Json(answer)


def _prepare(service: Service, body: NativeBody) -> Generation:
    return service.prepare(
        service.encode(body.prompt), body, max_tokens=body.n_predict, stops=stop_list(body.stop),
        n_top=body.n_probs or None, schema=body.json_schema,
    )  # fmt: skip


async def _native_chunks(service: Service, stream: Stream) -> AsyncIterator[list[dict[str, Any]]]:
    async for batch in stream.batches():
        chunks = [
            {"index": 0, "content": delta.text, "stop": False} for _, delta in batch if delta.text
        ]
        if (reason := batch[-1][1].finish_reason) is not None:
            chunks.append({"index": 0, "content": "", **_final_fields(service, stream, reason)})
        yield chunks


def _final_fields(service: Service, stream: Stream, reason: str) -> dict[str, Any]:
    generation, timings = stream.generations[0], stream.generations[0].timings
    stop_type = (
        "limit" if reason == "length" else "word" if generation.stop_text is not None else "eos"
    )
    return {
        "stop": True,
        "model": service.model_info.name,
        "tokens_predicted": generation.n_generated,
        "tokens_evaluated": len(generation.request.prompt),
        "tokens_cached": timings.n_cached,
        "truncated": generation.n_shifts > 0,
        "stop_type": stop_type,
        "stopping_word": generation.stop_text or "",
        "timings": {
            "prompt_n": timings.n_prompt, "prompt_ms": timings.prompt_s * 1000,
            "predicted_n": generation.n_generated, "predicted_ms": timings.generate_s * 1000,
            **({"draft_n": timings.n_drafted, "draft_n_accepted": timings.n_accepted}
               if timings.n_drafted else {}),
        },
        **warned(generation.request.warnings),
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
    return Json({"tokens": [{"id": i, "piece": token_text(tokenizer, i)} for i in ids]})


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, request: Request) -> Response:
    """Return the text of tokens."""
    service: Service = request.app.state.service
    pool = service.pool_for(len(body.tokens))
    return await while_connected(request, pool.run(_text, service.tokenizer, body))


def _text(tokenizer: Tokenizer, body: DetokenizeBody) -> Response:
    return Json({"content": tokenizer.decode(body.tokens)})


def _token(tokenizer: Any, token_id: int | None) -> str:
    return "" if token_id is None else str(tokenizer.vocab.tokens[token_id])
