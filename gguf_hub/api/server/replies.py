"""Bytes of replies: JSON that can hold any text, streams, errors in each interface's shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gguf_hub.errors import (
    BusyError,
    ChatTemplateError,
    ContextFullError,
    GgufHubError,
    TokenizerError,
    UnavailableError,
    UnsupportedGgufError,
    UsageError,
)

_ENCODER = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))


def dumps(data: Any) -> str:
    """Return JSON in ASCII, which can also hold lone surrogates, as some clients send."""
    return _ENCODER.encode(data)


class Json(Response):
    """A JSON reply."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return dumps(content).encode("ascii")


@dataclass(frozen=True)
class Framing:
    """How the chunks of a stream stand in its body.

    Attributes:
        chunk: Returns the text of a chunk.
        end: What follows the last one.
        media_type: Of the body.
    """

    chunk: Callable[[Any], str]
    end: str = ""
    media_type: str = "text/event-stream"


def _data(chunk: Any) -> str:
    return f"data: {dumps(chunk)}\n\n"


def _named(event: Any) -> str:
    return f"event: {event['type']}\n{_data(event)}"


OPENAI = Framing(_data, "data: [DONE]\n\n")
LLAMA_SERVER = Framing(_data)
NAMED = Framing(_named)
"""Events with their type as name: Anthropic's, and OpenAI's Responses."""
LINES = Framing(lambda chunk: dumps(chunk) + "\n", media_type="application/x-ndjson")
"""One chunk a line: Ollama's."""


class Events(StreamingResponse):
    """A stream of chunks.

    Args:
        batches: The chunks; those of a batch are sent together.
        cancel: Cancels the work behind them; always called at the end.
        framing: How chunks are sent.
    """

    def __init__(
        self,
        batches: AsyncIterator[list[Any]],
        cancel: Callable[[], None],
        framing: Framing = OPENAI,
    ) -> None:
        self._cancel = cancel
        super().__init__(
            _frames(batches, framing),
            media_type=framing.media_type,
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the chunks; cancel the work behind them in any case."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._cancel()


async def _frames(batches: AsyncIterator[list[Any]], framing: Framing) -> AsyncIterator[str]:
    try:
        async for batch in batches:
            if batch:
                yield "".join(map(framing.chunk, batch))
    except Exception as exc:  # the status is sent already: report the error in the stream
        yield framing.chunk(error_body(exc))
        return
    if framing.end:
        yield framing.end


def error_body(exc: Exception, path: str = "") -> dict[str, Any]:
    """Return an error in the shape of a path's interface.

    A prompt that is too long has OpenAI's code, and llama-server's type and numbers; in Anthropic's
    interface it has the words by which clients know it.
    """
    message = str(exc) if isinstance(exc, GgufHubError) else f"{type(exc).__name__}: {exc}"
    hint = getattr(exc, "hint", None)
    more: dict[str, Any] = {}
    if isinstance(exc, ContextFullError):
        more = {"type": "exceed_context_size_error", "code": "context_length_exceeded"}
        more |= {"n_prompt_tokens": exc.n_tokens, "n_ctx": exc.n_ctx}
        if _is_anthropic(path):
            message = f"prompt is too long: {exc.n_tokens} tokens > {exc.n_ctx} maximum"
    text = f"{message}; {hint}" if hint else message
    return shaped_error(path, status_of(exc), text, **more)


def framing_of(media_type: str, path: str) -> Framing | None:
    """Return how a path's interface sends chunks in a body of that type; None for no stream."""
    if media_type.startswith(LINES.media_type):
        return LINES
    if not media_type.startswith(NAMED.media_type):
        return None
    return NAMED if _is_anthropic(path) or _is_responses(path) else LLAMA_SERVER


def stream_error(exc: Exception, path: str) -> dict[str, Any]:
    """Return the chunk of an error that ends a stream of a path's interface."""
    body = error_body(exc, path)
    if not _is_responses(path):
        return body
    return {"type": "error", "code": "server_error", "message": body["error"]["message"],
            "param": None}  # fmt: skip


def status_of(exc: Exception) -> int:
    """Return the HTTP status of an error."""
    if isinstance(exc, BusyError):
        return 503 if isinstance(exc, UnavailableError) else 429
    if isinstance(exc, UnsupportedGgufError):  # the file holds no such thing
        return 501
    client_errors = (UsageError, ChatTemplateError, ContextFullError, TokenizerError)
    return 400 if isinstance(exc, client_errors) else 500


_ANTHROPIC_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip
_OPENAI_TYPES = {
    401: "authentication_error", 403: "permission_error", 429: "rate_limit_error",
    501: "not_supported_error",
}  # fmt: skip


def _is_anthropic(path: str) -> bool:
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def _is_responses(path: str) -> bool:
    return path == "/v1/responses"


def shaped_error(path: str, status: int, message: str, **more: Any) -> dict[str, Any]:
    """Return an error in the shape of a path's interface: Anthropic's, Ollama's or OpenAI's.

    Args:
        path: Of the request.
        status: Of the reply.
        message: What is wrong.
        more: OpenAI's ``type``, ``param`` and ``code``, the status if None.
    """
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    if _is_anthropic(path):
        kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else fallback)
        return {"type": "error", "error": {"type": kind, "message": message}}
    if path.startswith("/api/"):
        return {"error": message}
    kind = _OPENAI_TYPES.get(status, fallback)
    return {"error": {"message": message, "type": kind, "param": None, "code": status, **more}}


def error(path: str, status: int, message: str, **more: Any) -> Json:
    """Return an error reply; see ``shaped_error``."""
    return Json(shaped_error(path, status, message, **more), status)


def not_offered(request: Request, what: str, flag: str) -> Json:
    """Return the reply to a request for what a flag would offer."""
    text = f"this server does not offer the {what}; start it with `{flag}`"
    return error(request.url.path, 501, text, type="not_supported_error")


async def reply_to_error(request: Request, exc: Exception) -> Response:
    """Return the reply to a ``GgufHubError``."""
    headers = {"Retry-After": "1"} if isinstance(exc, BusyError) else None
    return Json(error_body(exc, request.url.path), status_of(exc), headers)
