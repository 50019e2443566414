from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.compat import llama_cpp as compat
from tests.api.server.running import Running
from tests.api.server.scripted import saying

# the libraries leave connections open, which are errors in all other tests
if os.environ.get("GGUF_HUB_CLIENTS"):
    compat.install()  # before anything is imported that looks whether there is a `llama_cpp`
else:
    collect_ignore_glob = ["test_*.py"]

NAME = "tiny-mixtral"


def held(body: dict[str, Any], answer: str) -> dict[str, Any]:
    """Return a request that is answered by a text, whatever form it asks for."""
    grammar = {"grammar": saying(answer)}
    freed = {key: value for key, value in body.items()
             if key not in ("response_format", "text", "format")}  # fmt: skip
    if body.get("tool_choice") is not None:
        freed["tool_choice"] = "auto"
    return {**freed, **grammar, "options": {**body.get("options", {}), **grammar}}


class Script:
    """A server around the server: the next answers can be given, one for each request.

    A given answer is what a grammar holds the model to, so that all that follows, from parsing
    calls to the shape of streams, is the server's own.
    """

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, app: Any) -> Any:
        """Put it around an application, which is returned."""
        app.add_middleware(self._middleware)
        return app

    def _middleware(self, app: Any) -> Any:
        async def scripted(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message["body"], message.get("more_body", False)
            data = json.loads(body)
            if self.answers and not data.keys().isdisjoint(("messages", "prompt", "input")):
                self.bodies.append(data)
                body = json.dumps(held(data, self.answers.pop(0))).encode()
            length = (b"content-length", str(len(body)).encode())
            headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
            given = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def replay() -> Any:
                return next(given, None) or await receive()

            await app({**scope, "headers": [*headers, length]}, replay, send)

        return scripted


@pytest.fixture(scope="session")
def whole_script() -> Script:
    return Script()


@pytest.fixture
def script(whole_script: Script) -> Iterator[Script]:
    """What the model answers next; all of it must have been asked for."""
    whole_script.bodies = []
    yield whole_script
    left, whole_script.answers = whole_script.answers, []
    assert not left, f"never asked for: {left}"


@pytest.fixture(scope="session")
def model_path() -> Path:
    return Path(__file__).parents[2] / "gguf_hub" / "data" / "tiny-mixtral.f16.gguf"


@pytest.fixture(scope="session")
def server(kernels: None, whole_script: Script, model_path: Path) -> Iterator[Running]:
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    with ExitStack() as stack:
        yield Running(model_path, stack, {"wrap": whole_script}, n_ctx=8192, name=NAME)


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One loop for all: clients keep connections from one use to the next."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def person() -> Any:
    from pydantic import BaseModel

    class Person(BaseModel):
        """A person."""

        age: int

    return Person
