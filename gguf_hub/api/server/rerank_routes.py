"""Reranking: the interface of Jina's and llama-server's ``/rerank``, and that of TEI's.

Source: ``post_rerank`` and ``format_response_rerank`` in tools/server of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gguf_hub.api.server.bodies import MAX_EMBEDDED, RerankBody
from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.replies import Json
from gguf_hub.api.server.service import Service
from gguf_hub.errors import UsageError

router = APIRouter(tags=["Reranking"])


@router.post("/rerank", include_in_schema=False)
@router.post("/reranking", include_in_schema=False)
@router.post("/v1/reranking", include_in_schema=False)
@router.post("/v1/rerank")
async def rerank(body: RerankBody, request: Request) -> Response:
    """Return how relevant documents are to a query, the most relevant first."""
    service: Service = request.app.state.service
    assert service.vectors.pooler.classifier  # else nothing is encoded
    texts = _texts(body)
    encode = service.encode_pair
    pairs = [
        await while_connected(request, service.pool.run(encode, body.query, text)) for text in texts
    ]
    scores = await while_connected(request, service.vectors.rank(pairs))
    results = _results(body, texts, scores)
    if body.is_tei:
        return Json(results)
    n_tokens = sum(map(len, pairs))
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    name = body.model or service.model_info.name
    return Json({"model": name, "object": "list", "usage": usage, "results": results})


def _texts(body: RerankBody) -> list[str]:
    """Return the documents of a request.

    Raises:
        UsageError: There are none, or too many.
    """
    name = "texts" if body.is_tei else "documents"
    found = [each if isinstance(each, str) else each.text for each in body.all_documents]
    if not 1 <= len(found) <= MAX_EMBEDDED:
        raise UsageError(
            f"{name}: expected 1 to {MAX_EMBEDDED} texts, found {len(found) or 'none'}"
        )
    return found


def _results(body: RerankBody, texts: Sequence[str], scores: Sequence[float]) -> list[Any]:
    """Return the entries of an answer, the best ones first; of equals the one that came first."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[: body.top_n]
    label = "score" if body.is_tei else "relevance_score"
    results: list[dict[str, Any]] = [{"index": i, label: scores[i]} for i in order]
    for result in results:
        text = texts[result["index"]]
        if body.is_tei and body.return_text:
            result["text"] = text
        elif not body.is_tei and body.return_documents:
            result["document"] = {"text": text}
    return results
