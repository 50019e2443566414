from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.page import browser
from tests.api.server.page.browser import Page
from tests.api.server.page.scripted_server import ScriptedServer

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser puts files."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def driver(downloads: Path) -> Iterator[Any]:
    """One browser for all tests: each server has an origin, and so a storage, of its own."""
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    pytest.importorskip("selenium", reason="selenium is not installed: `make page`")
    if browser.DRIVER is None or browser.BROWSER is None:
        pytest.skip("chromium and chromedriver are not installed: `make page`")
    started = browser.start(downloads)
    yield started
    started.quit()


@pytest.fixture
def open_page(driver: Any) -> Iterator[Open]:
    """Open a page by its address; nothing may be refused or fail to run in it."""
    opened: list[Page] = []

    def open_(url: str, width: int = 1100, height: int = 750, *, is_dark: bool = False) -> Page:
        driver.switch_to.window(driver.window_handles[0])
        page = Page(driver, url)
        page.size(width, height, is_dark=is_dark)
        opened.append(page)
        return page

    yield open_
    complaints = [text for page in opened for text in page.complaints()]
    for handle in driver.window_handles[1:]:
        driver.switch_to.window(handle)
        driver.close()
    driver.switch_to.window(driver.window_handles[0])
    assert [text for text in complaints if " 401 " not in text] == []


@pytest.fixture
def start_server() -> Iterator[Callable[..., ScriptedServer]]:
    with ExitStack() as stack:
        yield lambda **options: ScriptedServer(stack, **options)


@pytest.fixture
def server(start_server: Callable[..., ScriptedServer]) -> ScriptedServer:
    return start_server()


@pytest.fixture
def page(open_page: Open, server: ScriptedServer) -> Page:
    return open_page(server.url)
