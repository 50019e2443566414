"""The page with a server behind it that answers what it is told to, at the pace that it is told."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response


@dataclass
class Answer:
    """What is answered to one request.

    Attributes:
        content: The text, a letter at a time if it is slow.
        reasoning: What comes before it.
        calls: Names and arguments of functions.
        reason: Why it ended.
        piece_s: Seconds between pieces; 0: all at once.
    """

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    reason: str = "stop"
    piece_s: float = 0.0


class ScriptedServer:
    """A server with the page.

    Attributes:
        answers: What is answered, in order; ``ok`` when there is no more.
        bodies: Path and body of each request for an answer.
        n_ctx: Context of its model.
    """

    def __init__(self, stack: ExitStack, *, key: str = "", has_template: bool = True) -> None:
        from fastapi import FastAPI

        from gguf_hub.api.server.addresses import ANY, AllowedHosts, AllowedOrigins
        from gguf_hub.api.server.api_keys import ApiKeys
        from gguf_hub.api.server.app import MAX_BODY_BYTES, new_app
        from gguf_hub.api.server.guard import Access
        from gguf_hub.api.server.listening import Server

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            yield

        self.answers: list[Answer] = []
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.n_ctx, self._has_template = 4096, has_template
        access = Access(ApiKeys((key,) if key else ()), AllowedHosts((ANY,)), AllowedOrigins(()))
        app = new_app(access, (), MAX_BODY_BYTES, lifespan)
        app.state.service = self
        app.add_route("/props", self._props)
        for path in ("/v1/chat/completions", "/v1/completions"):
            app.add_route(path, self._answer, methods=["POST"])
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = Server(app, grace_s=0.1)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        stack.callback(self._stop)
        while not self._server.started:
            time.sleep(0.005)

    def _stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def end(self) -> None:
        """Have nothing to end: answers end by themselves."""

    def say(self, *contents: str, **fields: Any) -> None:
        """Add answers."""
        self.answers += [Answer(content, **fields) for content in contents]

    async def _props(self, request: Request) -> Response:
        from gguf_hub.api.server.replies import Json

        model = {"description": "scripted", "quant": "Q4_K_M", "n_params": 7e9, "size_bytes": 4e9,
                 "has_template": self._has_template}  # fmt: skip
        settings = {"n_ctx": self.n_ctx, "params": {"temperature": 0.7}}
        return Json({"model": model, "default_generation_settings": settings, "total_slots": 4})

    async def _answer(self, request: Request) -> Response:
        from gguf_hub.api.server.replies import Events

        path, body = request.url.path, await request.json()
        self.bodies.append((path, body))
        answer = self.answers.pop(0) if self.answers else Answer("ok")
        return Events(self._chunks(answer, path.endswith("/chat/completions")), lambda: None)

    async def _chunks(self, answer: Answer, is_chat: bool) -> AsyncIterator[list[Any]]:
        if answer.reasoning:
            yield [_chunk({"reasoning_content": answer.reasoning})]
        pieces = list(answer.content) if answer.piece_s else [answer.content]
        for n, piece in enumerate(pieces, 1):
            timings = {
                "cache_n": 90,
                "prompt_n": 10,
                "predicted_n": n,
                "predicted_per_second": 12.5,
            }
            choice = _chunk({"content": piece}) if is_chat else _text(piece)
            yield [{**choice, "timings": timings}]
            await asyncio.sleep(answer.piece_s)
        for i, (name, arguments) in enumerate(answer.calls):
            call = {"index": i, "id": f"call_{i}", "function": {"name": name, "arguments": ""}}
            yield [_chunk({"tool_calls": [call]})]
            more = {"index": i, "function": {"arguments": arguments}}
            yield [_chunk({"tool_calls": [more]})]
        reason = "tool_calls" if answer.calls else answer.reason
        yield [{"choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": reason}]}]


def _chunk(delta: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def _text(piece: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": piece, "finish_reason": None}]}
