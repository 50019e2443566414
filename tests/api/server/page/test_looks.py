"""The page on a desk, on a phone, in the dark, by key and for screen readers.

Set ``GGUF_HUB_SCREENSHOTS`` to a folder to get pictures.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.page.browser import Page
from tests.api.server.page.scripted_server import Answer, ScriptedServer

SIZES = [("desktop", 1100, 750, False), ("phone", 390, 800, False), ("dark", 1100, 750, True),
         ("dark-phone", 390, 800, True)]  # fmt: skip
ANSWER = """Here is a *table* and `code`:

```python
for i in range(10):
    print("a line that is much longer than a phone is wide, so that it has to be scrolled", i)
```

| a | b |
|---|---|
| 1 | 2 |

> A quote with a [link](https://example.org).
"""


def axe_path() -> Path | None:
    """Where axe-core is: a file that is named, or in a package that brings it."""
    if named := os.environ.get("GGUF_HUB_AXE"):
        return Path(named)
    for package in ("axe_playwright_python", "axe_core_python"):
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            return Path(spec.origin).with_name("axe.min.js")
    return None


@pytest.fixture(scope="session")
def axe(driver: Any) -> str:
    path = axe_path()
    if path is None:
        pytest.skip("axe-core is not installed: `make page`")
    return path.read_text(encoding="utf-8")


def problems(page: Page, axe: str) -> list[str]:
    """What axe-core finds, of the rules of WCAG 2.2 AA and of good practice."""
    page.run(axe)
    found = page.run_async("return JSON.stringify(await axe.run(document))")
    violations = json.loads(found)["violations"]
    return [f"{v['impact']} {v['id']}: {[n['html'] for n in v['nodes']][:3]}" for v in violations]


def assert_fits(page: Page, width: int) -> None:
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run("return document.body.scrollWidth") <= width


@pytest.mark.parametrize(("name", "width", "height", "is_dark"), SIZES)
def test_nothing_stands_in_anybodys_way(
    name: str, width: int, height: int, is_dark: bool, open_page: Callable[..., Page],
    server: ScriptedServer, axe: str,
) -> None:  # fmt: skip
    page = open_page(server.url, width, height, is_dark=is_dark)
    assert problems(page, axe) == []
    server.answers += [Answer(ANSWER, reasoning="I wonder", reason="length"), Answer("second")]
    page.ask("Tell me a story with a wordthatisverylong" + "g" * 60)
    assert_fits(page, width)
    page.shoot(f"{name}-answer")
    assert problems(page, axe) == []
    page.press("regenerate")
    page.settle()
    page.press("edit", 0)
    assert_fits(page, width)
    assert problems(page, axe) == []
    page.click("form.edit button[data-action=cancel-edit]")
    page.click("#toggle-settings")
    assert_fits(page, width)
    page.shoot(f"{name}-settings")
    assert problems(page, axe) == []
    page.click("#toggle-settings")
    if width < 500:
        assert not page.one("#search").is_displayed()
        page.click("#toggle-side")
        assert page.one("#search").is_displayed()
        page.shoot(f"{name}-list")
        assert problems(page, axe) == []
        page.keys("\ue00c")
        assert not page.one("#search").is_displayed()
    colour = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour[4:-1].split(","))) < 200) == is_dark


@pytest.mark.parametrize(("name", "width", "height", "is_dark"), SIZES)
def test_nor_does_anything_in_the_dialog_of_models(
    name: str, width: int, height: int, is_dark: bool, open_page: Callable[..., Page],
    server: ScriptedServer, axe: str,
) -> None:  # fmt: skip
    page = open_page(server.url, width, height, is_dark=is_dark)
    page.run(
        "const fits = ['fits in RAM', 'from disk', 'too big'];"
        "document.getElementById('model').hidden = false;"
        "window.fetch = async () => ({ok: true, json: async () => ({data: fits.map((f, i) => ({"
        "  id: 'TheBloke/Mixtral-8x7B-v0.1-GGUF:Q' + i, meta: {size: 26e9},"
        "  status: {value: i ? 'not_downloaded' : 'loaded'},"
        "  fit: {verdict: f, ram_bytes: 3e10}}))})});"
    )
    page.click("#model")
    page.wait(lambda: len(page.all("#model-rows tr")) == 3)
    page.shoot(f"{name}-models")
    assert_fits(page, width)
    assert problems(page, axe) == []
    page.keys("\ue00c")
    assert not page.run("return document.getElementById('models').open")


def test_everything_can_be_reached_and_done_by_key(page: Page, server: ScriptedServer) -> None:
    server.say("first", "second")
    page.ask("Question")
    assert page.run("return document.activeElement.id") == "input"
    reached = set()
    for _ in range(40):
        page.keys("\ue004")  # Tab
        name = page.run("const e = document.activeElement;return e.dataset.action ?? e.id ?? ''")
        reached.add(name)
        outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or name == "", name
    assert {
        "new", "search", "open", "rename", "export", "remove", "toggle-settings", "copy", "edit",
        "regenerate", "input", "send", "talk",
    } <= reached  # fmt: skip
    page.run("document.querySelector('button[data-action=regenerate]').focus()")
    page.keys("\ue007")  # Enter
    page.wait(lambda: page.messages[-1:] == ["second"])


def test_screen_readers_are_told_what_happens(page: Page, server: ScriptedServer) -> None:
    server.say("slowly " * 10, piece_s=0.02)
    page.ask("Go", waits=False)
    page.wait(lambda: "generating" in page.status)
    busy = "return document.getElementById('talk').getAttribute('aria-busy')"
    assert page.run(busy) == "true"  # not every letter is read out
    page.settle()
    assert page.run(busy) == "false"
    assert page.run("return document.getElementById('talk').getAttribute('aria-live')") == "polite"
    headings = "return [...document.querySelectorAll('article h2')].map((e) => e.textContent)"
    assert page.run(headings) == ["You", "Model"]
    unnamed = page.run(
        "return [...document.querySelectorAll('button, input:not([hidden]), textarea')]"
        ".filter((e) => !(e.ariaLabel || e.innerText || e.labels?.length || e.title))"
        ".map((e) => e.outerHTML)"
    )
    assert unnamed == []
