"""Bytes of replies: JSON that can hold any text, events, errors in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
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


class Events(StreamingResponse):
    """Server-sent events, one for each dictionary.

    Args:
        batches: The dictionaries; those of a batch are sent together.
        cancel: Cancels the work behind them; always called at the end.
        has_done: Whether to send ``[DONE]``, as in OpenAI's interface.
    """

    def __init__(
        self,
        batches: AsyncIterator[list[Any]],
        cancel: Callable[[], None],
        *,
        has_done: bool = True,
    ) -> None:
        self._cancel = cancel
        super().__init__(
            _events(batches, has_done),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; cancel the work behind them in any case."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._cancel()


async def _events(batches: AsyncIterator[list[Any]], has_done: bool) -> AsyncIterator[str]:
    try:
        async for batch in batches:
            if batch:
                yield "".join([f"data: {dumps(chunk)}\n\n" for chunk in batch])
    except Exception as exc:  # the status is sent already: report the error in the stream
        yield f"data: {dumps(error_body(exc))}\n\n"
        return
    if has_done:
        yield "data: [DONE]\n\n"


def error_body(exc: Exception) -> dict[str, Any]:
    """Return an error in OpenAI's shape.

    A prompt that is too long has OpenAI's code, and llama-server's type and numbers.
    """
    status = status_of(exc)
    kind = {400: "invalid_request_error", 429: "rate_limit_error", 401: "authentication_error"}
    message = str(exc) if isinstance(exc, GgufHubError) else f"{type(exc).__name__}: {exc}"
    hint = getattr(exc, "hint", None)
    body = {
        "message": f"{message}; {hint}" if hint else message,
        "type": kind.get(status, "server_error"),
        "param": None,
        "code": status,
    }
    if isinstance(exc, ContextFullError):
        body |= {"type": "exceed_context_size_error", "code": "context_length_exceeded"}
        body |= {"n_prompt_tokens": exc.n_tokens, "n_ctx": exc.n_ctx}
    return {"error": body}


def status_of(exc: Exception) -> int:
    """Return the HTTP status of an error."""
    if isinstance(exc, BusyError):
        return 429
    client_errors = (UsageError, ChatTemplateError, ContextFullError, TokenizerError)
    return 400 if isinstance(exc, client_errors) else 500


def error(status: int, message: str, kind: str = "invalid_request_error", **more: Any) -> Json:
    """Return an error reply; ``more`` are OpenAI's ``param`` and ``code``, the status if None."""
    body = {"message": message, "type": kind, "param": None, "code": status, **more}
    return Json({"error": body}, status)


async def reply_to_error(request: Request, exc: Exception) -> Response:
    """Return the reply to a ``GgufHubError``."""
    headers = {"Retry-After": "1"} if isinstance(exc, BusyError) else None
    return Json(error_body(exc), status_of(exc), headers)
