"""llama-server's own routes, health, and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from gguf_hub.api.server.bodies import DetokenizeBody, NativeBody, TokenizeBody
from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.metrics import metrics_text
from gguf_hub.api.server.replies import Events, Json
from gguf_hub.api.server.service import Service
from gguf_hub.api.server.stream import Stream
from gguf_hub.run.generation import Generation
from gguf_hub.run.generation.answers import piece_text
from gguf_hub.run.generation.streams import gather
from gguf_hub.run.tokenizer import Tokenizer

router = APIRouter(tags=["llama-server"])


@router.get("/health")
async def health(request: Request) -> Response:
    """Tell that the server is there."""
    return Json({"status": "ok"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Tell what was done so far, for Prometheus."""
    service: Service = request.app.state.service
    text = metrics_text(service.scheduler, request.app.state.requests)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


@router.get("/props")
async def props(request: Request) -> Response:
    """Tell about the model and the settings."""
    service: Service = request.app.state.service
    facts, tokenizer = service.facts, service.tokenizer
    return Json(
        {
            "default_generation_settings": {
                "n_ctx": facts.n_ctx,
                "params": service.default_settings(),
            },
            "total_slots": facts.n_slots,
            "model_path": facts.path,
            "model_alias": facts.name,
            "chat_template": facts.chat_template,
            "bos_token": _token(tokenizer, tokenizer.bos_id),
            "eos_token": _token(tokenizer, tokenizer.eos_id),
            "build_info": request.app.version,
            "model": {
                "description": facts.description, "quant": facts.quant,
                "n_params": facts.n_params, "size_bytes": facts.size_bytes,
                "n_ctx_train": facts.n_ctx_train, "n_embd": facts.n_embd, "n_vocab": facts.n_vocab,
                "has_template": bool(facts.chat_template),
            },
        }
    )  # fmt: skip


@router.post("/completion")
async def completion(body: NativeBody, request: Request) -> Response:
    """Go on with a text, llama-server's way."""
    service: Service = request.app.state.service
    run = await while_connected(request, service.pool_of(body).run(_native_run, service, body))
    stream = service.start([run], is_whole=not body.stream)
    if body.stream:
        return Events(_native_chunks(service, stream), stream.cancel, has_done=False)
    (pieces,) = await while_connected(request, stream.all())
    text, chances, reason = gather(pieces)
    answer = {"content": text, **_ending(service, stream, reason)}
    if body.n_probs:
        answer["completion_probabilities"] = _probabilities(service, chances)
    return Json(answer)


def _native_run(service: Service, body: NativeBody) -> Generation:
    stops = [body.stop] if isinstance(body.stop, str) else list(body.stop or ())
    return service.run(
        service.encode(body.prompt), body, max_tokens=body.n_predict, stops=stops,
        n_top=body.n_probs or None, schema=body.json_schema,
    )  # fmt: skip


async def _native_chunks(service: Service, stream: Stream) -> AsyncIterator[list[dict[str, Any]]]:
    async for batch in stream.batches():
        chunks = [
            {"index": 0, "content": piece.text, "stop": False} for _, piece in batch if piece.text
        ]
        if (reason := batch[-1][1].finish_reason) is not None:
            chunks.append({"index": 0, "content": "", **_ending(service, stream, reason)})
        yield chunks


def _ending(service: Service, stream: Stream, reason: str) -> dict[str, Any]:
    """Return what llama-server tells at the end."""
    run, timings = stream.runs[0], stream.runs[0].timings
    kind = "limit" if reason == "length" else "word" if run.stop_text is not None else "eos"
    return {
        "stop": True,
        "model": service.facts.name,
        "tokens_predicted": run.n_generated,
        "tokens_evaluated": len(run.job.prompt),
        "tokens_cached": timings.n_cached,
        "truncated": run.n_shifts > 0,
        "stop_type": kind,
        "stopping_word": run.stop_text or "",
        "timings": {
            "prompt_n": timings.n_prompt, "prompt_ms": timings.prompt_s * 1000,
            "predicted_n": run.n_generated, "predicted_ms": timings.generate_s * 1000,
            **({"draft_n": timings.n_drafted, "draft_n_accepted": timings.n_accepted}
               if timings.n_drafted else {}),
        },
    }  # fmt: skip


def _probabilities(service: Service, chances: Any) -> list[dict[str, Any]]:
    tokenizer = service.tokenizer

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        return {"id": token_id, "token": piece_text(tokenizer, token_id),
                "bytes": list(tokenizer.token_bytes(token_id)), "logprob": logprob}  # fmt: skip

    return [
        {**entry(c.token_id, c.logprob), "top_logprobs": [entry(*top) for top in c.top]}
        for c in chances
    ]


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
    return Json({"tokens": [{"id": i, "piece": piece_text(tokenizer, i)} for i in ids]})


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
