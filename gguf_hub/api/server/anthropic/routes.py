"""``/v1/messages``: Anthropic's interface."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from gguf_hub.api.server.anthropic.answers import MessageBuilder
from gguf_hub.api.server.anthropic.bodies import CountBody, MessagesBody
from gguf_hub.api.server.anthropic.requests import chat_body, counted_body
from gguf_hub.api.server.conversations import answer_chat, count_tokens
from gguf_hub.api.server.replies import NAMED, Json
from gguf_hub.api.server.service import Service
from gguf_hub.run.generation import Generation
from gguf_hub.run.generation.chat import ChatPlan
from gguf_hub.run.generation.stops import stop_list

router = APIRouter(prefix="/v1/messages", tags=["Anthropic"])


@router.post("")
async def messages(body: MessagesBody, request: Request) -> Response:
    """Answer a conversation."""
    service: Service = request.app.state.service
    thinking = body.thinking

    def builder(plan: ChatPlan, generation: Generation) -> MessageBuilder:
        return MessageBuilder(
            body.model or service.model_info.name, generation,
            stops=stop_list(body.stop_sequences),
            hides_thinking=thinking is not None and thinking.display == "omitted",
        )  # fmt: skip

    return await answer_chat(service, chat_body(body), request, builder, NAMED)


@router.post("/count_tokens")
async def count(body: CountBody, request: Request) -> Response:
    """Count the tokens of a conversation."""
    service: Service = request.app.state.service
    n_tokens = await count_tokens(service, counted_body(body), request)
    return Json({"input_tokens": n_tokens})
