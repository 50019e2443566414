"""The page with a real model behind it: it types, streams, stops, goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.server.offers import Offers
from tests.api.server.page.browser import Page
from tests.api.server.running import Running


@pytest.fixture(scope="module")
def running(driver: Any, embedded: Path, kernels: None) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(embedded, stack, {}, n_ctx=512)


def test_a_text_streams_stops_and_goes_on(
    running: Running, open_page: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = running.service.scheduler._model
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda rows: (time.sleep(0.02), decode(rows))[1])
    page = open_page(running.url)
    page.wait(lambda: "slots" in page.text("#facts"))
    assert page.text("#name") == "tiny-mixtral"
    assert page.setting("mode") == "chat"  # the model has a template
    page.run("document.querySelector('input[value=text]').click()")
    page.set("seed", "1")
    page.ask("Once upon a time", waits=False)
    page.wait(lambda: len(page.messages[-1]) > 20)
    half = len(page.messages[-1])
    page.wait(lambda: len(page.messages[-1]) > half + 10)  # it streams
    page.click("#stop")
    page.settle()
    stopped = page.messages[-1]
    assert "stopped" in page.text("article:last-child footer")
    running.wait(lambda: running.service.scheduler.n_busy == 0)
    monkeypatch.undo()
    page.press("continue")
    page.wait(lambda: len(page.messages[-1]) > len(stopped) + 20)
    page.settle()
    assert page.messages[-1].startswith(stopped)
    assert "per second" in page.text("article:last-child footer")
    used = page.text("#context-text")
    assert used.endswith("of 512 tokens of context")


def test_a_conversation_has_turns(running: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(running.url)
    page.set("max_tokens", "12")
    page.ask("Hello")
    page.ask("And then?")
    assert len(page.messages) == 4
    assert "12 tokens" in page.text("article:last-child footer")
    before = page.messages[-1]
    page.press("continue")  # the answer is continued as it stands
    page.wait(lambda: len(page.messages[-1]) > len(before))
    page.settle()


def test_it_works_under_a_prefix(
    driver: Any, embedded: Path, kernels: None, open_page: Callable[..., Page]
) -> None:
    with ExitStack() as stack:
        server = Running(embedded, stack, {"offers": Offers(prefix="/a/b")}, n_ctx=512)
        page = open_page(f"{server.url}/a/b")
        page.wait(lambda: page.text("#name") == "tiny-mixtral")
        page.set("max_tokens", "5")
        page.ask("Hello")
        assert "5 tokens" in page.text("article:last-child footer")
