from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.running import Running


def need() -> None:
    """Skip where the server's packages are not installed."""
    for package in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture(scope="session")
def stories(data: Path) -> Path:
    return data / "models" / "stories260K.f32.gguf"


@pytest.fixture(scope="module")
def server(stories: Path, kernels: None, request: pytest.FixtureRequest) -> Iterator[Running]:
    """Share a server among the tests of a module, whose ``N_CTX`` may ask for a longer context."""
    need()
    with ExitStack() as stack:
        yield Running(stories, stack, {}, n_ctx=getattr(request.module, "N_CTX", 256))


@pytest.fixture
def serve(stories: Path) -> Iterator[Callable[..., Running]]:
    """Start servers with options of their own."""
    need()
    with ExitStack() as stack:

        def start(app: dict[str, Any] | None = None, **options: Any) -> Running:
            return Running(stories, stack, app or {}, **options)

        yield start


@pytest.fixture
def slow_server(server: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """Let the shared server compute a tenth of a second longer, and be idle after a hundredth."""
    from gguf_hub.api.server import conversations

    monkeypatch.setattr(conversations, "IDLE_S", 0.01)
    scheduler = server.service.scheduler
    compute = scheduler.round
    monkeypatch.setattr(scheduler, "round", lambda: (time.sleep(0.1), compute()))
    return server
