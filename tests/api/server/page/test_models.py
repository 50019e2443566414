"""The choice among the models of a router: how each fits, loading, downloading, stopping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.page.browser import Page
from tests.api.server.router.conftest import files  # noqa: F401 (a fixture)
from tests.api.server.router.harness import RunningRouter
from tests.hub_server import Fault, HubServer


@pytest.fixture
def start_router(driver: Any) -> Iterator[Callable[..., RunningRouter]]:
    with ExitStack() as stack:
        yield lambda paths, **options: RunningRouter(stack, paths, **options)


def rows(page: Page) -> dict[str, list[str]]:
    """Name -> size, fit and state."""
    cells = page.run(
        "return [...document.querySelectorAll('#model-rows tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    return {name: rest[:3] for name, *rest in cells}


def open_models(page: Page) -> None:
    page.click("#model")
    page.wait(lambda: page.all("#model-rows tr") or page.text("#model-note"))
    page.wait(lambda: page.run("return document.getElementById('model-rows').ariaBusy") == "false")


def press(page: Page, action: str, name: str) -> None:
    page.run(
        "[...document.querySelectorAll('#model-rows tr')]"
        ".find((row) => row.dataset.name === arguments[1])"
        ".querySelector(`button[data-action=${arguments[0]}]`).click()",
        action,
        name,
    )


def test_models_are_listed_with_their_fit_chosen_loaded_and_unloaded(
    start_router: Callable[..., RunningRouter],
    files: list[Path],  # noqa: F811
    open_page: Callable[..., Page],
) -> None:
    router = start_router(files)
    page = open_page(router.url)
    page.wait(lambda: page.text("#model") == "a")
    open_models(page)
    assert list(rows(page)) == ["a", "b", "c"]
    assert {fit for _, fit, _ in rows(page).values()} == {"fits in RAM"}
    page.one("#model-search").send_keys("B")
    assert list(rows(page)) == ["b"]
    press(page, "use", "b")
    page.wait(lambda: page.text("#model") == "b")
    assert not page.run("return document.getElementById('models').open")
    page.ask("Hello")
    assert router.started == ["b"]  # loaded because it was asked
    page.wait(lambda: "loaded" in page.text("#facts"))
    open_models(page)
    page.one("#model-search").clear()
    page.one("#model-search").send_keys("b")
    press(page, "unload", "b")
    page.wait(lambda: rows(page)["b"][2] == "unloaded")
    press(page, "load", "b")
    page.wait(lambda: router.statuses()["b"] == "loaded")
    page.reload()
    page.wait(lambda: page.text("#model") == "b")  # remembered


def test_a_model_that_is_too_big_says_why(
    start_router: Callable[..., RunningRouter],
    files: list[Path],  # noqa: F811
    open_page: Callable[..., Page],
) -> None:
    page = open_page(start_router(files, ram_bytes=10**7).url)
    page.wait(lambda: not page.run("return document.getElementById('model').hidden"))
    open_models(page)
    assert {fit for _, fit, _ in rows(page).values()} == {"too big"}
    reason = page.run("return document.querySelector('#model-rows .bad').title")
    assert "of memory" in reason


def test_a_model_is_downloaded_with_progress_and_stopped(
    start_router: Callable[..., RunningRouter],
    open_page: Callable[..., Page],
    hub_server: HubServer,
    stories: Path,
) -> None:
    content = stories.read_bytes()
    hub_server.add_repo("org/story", {"story.Q8_0.gguf": content})
    hub_server.faults.append(Fault("GET", "*/resolve/*", bytes_per_s=len(content) / 3))
    page = open_page(start_router(None).url)
    page.wait(lambda: "no models yet" in page.text("#facts"))
    open_models(page)
    listed = rows(page)  # quants of the catalog, none of which is here
    assert listed["Q4_K_M"][2] == "not downloaded"
    assert listed["Q4_K_M"][1] in ("fits in RAM", "too big", "from disk")
    page.one("#pull-name").send_keys("org/story:Q8_0\n")
    bar = "return document.getElementById('pull-bar')"
    page.wait(lambda: 0 < (page.run(f"{bar}.value") or 0) < len(content))
    assert page.run(f"{bar}.max") == len(content)
    assert " MB of " in page.text("#pull-status") or " of " in page.text("#pull-status")
    page.click("#pull-stop")
    page.wait(lambda: "stopped" in page.text("#pull-status"))
    hub_server.faults.clear()
    page.one("#pull-name").clear()
    page.one("#pull-name").send_keys("org/story:Q8_0\n")
    page.wait(lambda: "is here" in page.text("#pull-status"))
    page.wait(lambda: rows(page).get("org/story:Q8_0", [""])[-1] == "unloaded")
    press(page, "use", "org/story:Q8_0")
    page.wait(lambda: page.text("#model") == "org/story:Q8_0")
    page.one("#pull-form")


def test_a_model_that_is_not_there_is_an_error(
    start_router: Callable[..., RunningRouter],
    open_page: Callable[..., Page],
    hub_server: HubServer,
) -> None:
    page = open_page(start_router(None).url)
    page.wait(lambda: "no models yet" in page.text("#facts"))
    open_models(page)
    page.one("#pull-name").send_keys("org/nothing:Q8_0\n")
    page.wait(lambda: "org/nothing" in page.text("#pull-status"))
    page.wait(lambda: not page.run("return !document.getElementById('pull-stop').hidden"))
    assert "no" in page.text("#pull-status")
