"""The page in a headless browser: it types, streams, stops, goes on. Needs selenium and Chromium.

Set ``GGUF_HUB_SCREENSHOTS`` to a folder to get pictures.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.running import Running

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")
DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    DRIVER is None or BROWSER is None, reason="chromium and chromedriver are not installed"
)


@pytest.fixture(scope="module")
def server(embedded: Path, kernels: None) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(embedded, stack, {}, n_ctx=512)


@pytest.fixture
def browse(server: Running) -> Iterator[Any]:
    """Open the page in a browser of a size and colour."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browsers: list[Any] = []

    def open_(width: int, height: int, *, is_dark: bool = False) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER or ""
        for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage",
                         *(["force-dark-mode"] if is_dark else [])):  # fmt: skip
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options, Service(DRIVER))
        browsers.append(browser)
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get(server.url)
        wait(browser, lambda b: "slots" in b.find_element("id", "facts").text)
        return browser

    yield open_
    for browser in browsers:
        browser.quit()


def wait(browser: Any, condition: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20, poll_frequency=0.02).until(condition)


def ask(browser: Any, text: str) -> None:
    browser.find_element("id", "input").send_keys(text + "\n")


def last(browser: Any) -> str:
    text: str = browser.find_elements("css selector", "article")[-1].text
    return text


def is_idle(browser: Any) -> bool:
    return browser.find_element("id", "send").is_displayed()


def shoot(browser: Any, name: str) -> None:
    if folder := os.environ.get("GGUF_HUB_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def set_field(browser: Any, name: str, value: str) -> None:
    browser.execute_script(
        "const f = document.forms.settings.elements[arguments[0]]; f.value = arguments[1];"
        "f.dispatchEvent(new Event('change', {bubbles: true}))",
        name,
        value,
    )


@pytest.mark.parametrize(
    ("name", "width", "height", "is_dark"),
    [("desktop", 1100, 750, False), ("phone", 390, 800, False), ("dark", 1100, 750, True)],
)
def test_it_types_streams_stops_and_goes_on(
    name: str, width: int, height: int, is_dark: bool, browse: Any, server: Running,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import time

    model = server.service.scheduler._model
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda rows: (time.sleep(0.02), decode(rows))[1])
    browser = browse(width, height, is_dark=is_dark)
    assert browser.find_element("id", "name").text == "tiny-mixtral"
    mode = "return document.forms.settings.elements.mode.value"
    assert browser.execute_script(mode) == "chat"  # the model has a template
    browser.execute_script("document.querySelector('input[value=text]').click()")
    set_field(browser, "seed", "1")
    ask(browser, "Once upon a time")
    wait(browser, lambda b: not is_idle(b))
    wait(browser, lambda b: len(last(b)) > 40)
    half = len(last(browser))
    wait(browser, lambda b: len(last(b)) > half + 10)  # it streams
    browser.find_element("id", "stop").click()
    wait(browser, is_idle)
    stopped, _, rest = last(browser).rpartition("\n")
    assert rest == "stopped Continue"
    server.wait(lambda: server.service.scheduler.n_busy == 0)
    shoot(browser, f"{name}-stopped")
    monkeypatch.undo()
    browser.find_element("css selector", "article small button").click()
    wait(browser, lambda b: is_idle(b) and "tokens" in last(b))
    whole = last(browser)
    assert whole.startswith(stopped)
    assert len(whole) > len(stopped) + 20
    ask(browser, "There was a")
    wait(browser, lambda b: is_idle(b) and "tokens" in last(b))
    assert last(browser).startswith("There was a")
    assert browser.find_elements("css selector", "article")[0].text == whole
    shoot(browser, f"{name}-text")
    browser.find_element("id", "toggle-settings").click()
    shoot(browser, f"{name}-settings")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour[4:-1].split(","))) < 200) == is_dark
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def test_it_holds_conversations_and_never_puts_texts_in_as_html(browse: Any) -> None:
    browser = browse(800, 600)
    set_field(browser, "max_tokens", "12")
    browser.find_element("id", "toggle-settings").click()
    browser.find_element("css selector", "input[value=chat]").click()
    browser.find_element("id", "toggle-settings").click()
    ask(browser, "<img src=x onerror=alert(1)>")
    wait(browser, lambda b: is_idle(b) and "tokens" in last(b))
    users = browser.find_elements("css selector", "article.user")
    assert users[0].text == "<img src=x onerror=alert(1)>"
    assert browser.find_elements("css selector", "article img") == []
    shoot(browser, "conversation")
    browser.refresh()
    wait(browser, lambda b: len(b.find_elements("css selector", "article")) == 2)
    browser.find_element("id", "new").click()
    assert browser.find_elements("css selector", "article") == []
