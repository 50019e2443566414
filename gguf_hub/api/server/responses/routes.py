"""``/v1/responses``: OpenAI's newer interface."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from gguf_hub.api.server.conversations import answer_chat, count_tokens
from gguf_hub.api.server.replies import NAMED, Json, error, error_body
from gguf_hub.api.server.responses.answers import ResponseBuilder
from gguf_hub.api.server.responses.bodies import InputBody, ResponsesBody
from gguf_hub.api.server.responses.requests import chat_body, input_items, left_out
from gguf_hub.api.server.responses.store import NoResponseError, ResponseStore
from gguf_hub.api.server.service import Service
from gguf_hub.errors import UsageError
from gguf_hub.run.generation import Generation
from gguf_hub.run.generation.chat import ChatPlan

router = APIRouter(prefix="/v1/responses", tags=["OpenAI Responses"])


@router.post("")
async def create(body: ResponsesBody, request: Request) -> Response:
    """Answer a conversation."""
    service: Service = request.app.state.service
    store: ResponseStore = request.app.state.responses
    items = input_items(body, store)

    def builder(plan: ChatPlan, generation: Generation) -> ResponseBuilder:
        return ResponseBuilder(
            body, body.model or service.model_info.name, generation, service.tokenizer,
            warnings=left_out(body),
            store=lambda response: store.add(response, items) if body.store else None,
        )  # fmt: skip

    return await answer_chat(service, chat_body(body, items), request, builder, NAMED)


@router.post("/input_tokens")
async def count(body: InputBody, request: Request) -> Response:
    """Count the tokens of a conversation."""
    service: Service = request.app.state.service
    items = input_items(body, request.app.state.responses)
    n_tokens = await count_tokens(service, chat_body(body, items), request)
    return Json({"object": "response.input_tokens", "input_tokens": n_tokens})


@router.get("/{response_id}")
async def get(response_id: str, request: Request, stream: bool = False) -> Response:
    """Return a response that is stored."""
    store: ResponseStore = request.app.state.responses
    if stream:
        text = "stream: a response that is stored is not streamed again"
        return error(request.url.path, 400, text, param="stream")
    return Json(store.get(response_id))


@router.delete("/{response_id}")
async def delete(response_id: str, request: Request) -> Response:
    """Forget a response that is stored."""
    store: ResponseStore = request.app.state.responses
    store.delete(response_id)
    return Json({"id": response_id, "object": "response", "deleted": True})


@router.get("/{response_id}/input_items")
async def input_of(
    response_id: str,
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """List the items that a response answers, those of the conversation before it included.

    Args:
        response_id: The response.
        request: The request.
        after: Id of the item after which the list begins.
        limit: Most items of the list.
        order: Of the conversation, or the newest first.
    """
    store: ResponseStore = request.app.state.responses
    items = store.input_of(response_id)
    items = items if order == "asc" else items[::-1]
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise UsageError(f"after: this response has no item `{after:.60}`")
    start = 0 if after is None else ids.index(after) + 1
    data = items[start : start + limit]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {
        "first_id": None, "last_id": None}  # fmt: skip
    return Json({"object": "list", "data": data, **ends, "has_more": start + limit < len(items)})


@router.post("/{response_id}/cancel")
async def cancel(response_id: str, request: Request) -> Response:
    """Refuse to cancel: a response that is stored has ended."""
    store: ResponseStore = request.app.state.responses
    store.get(response_id)
    raise UsageError(f"`{response_id:.60}` has ended: there are no background responses to cancel",
                     hint="close the connection to end one that is under way")  # fmt: skip


async def reply_to_missing(request: Request, exc: Exception) -> Response:
    """Reply to a request of a response that is not stored, or that refers to one."""
    assert isinstance(exc, NoResponseError)
    message = error_body(exc)["error"]["message"]
    if "response_id" in request.path_params:
        return error(request.url.path, 404, message, code="not_found")
    more = {"param": "previous_response_id", "code": "previous_response_not_found"}
    return error(request.url.path, 400, message, **more)
