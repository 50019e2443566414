"""The page in a headless Chromium, as people use it: by what is written on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
TIMEOUT_S = 30
ELSEWHERE = "elsewhere.test"
"""A name of this machine that browsers trust no more than one of another machine."""


class Page:
    """A tab with the page.

    Args:
        driver: The browser.
        url: Where the page is.
    """

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self._url = driver, url
        driver.get(url)
        self.handle = driver.current_window_handle
        self.wait(lambda: "connecting" not in self.text("#facts"))

    # -- looking ---------------------------------------------------------------------------------

    def all(self, selector: str) -> list[Any]:
        self.driver.switch_to.window(self.handle)
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Any:
        found = self.all(selector)
        assert len(found) == 1, f"{len(found)} of {selector}"
        return found[0]

    def text(self, selector: str) -> str:
        return "\n".join(self.texts(selector))

    def texts(self, selector: str) -> list[str]:
        """Return the visible texts; what is replaced meanwhile is looked for again."""
        self.driver.switch_to.window(self.handle)
        found: list[str] = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector
        )
        return [text.replace("\u00a0", " ") for text in found]

    @property
    def messages(self) -> list[str]:
        return self.texts("article .body")

    @property
    def is_idle(self) -> bool:
        return bool(self.run("return !document.getElementById('send').hidden"))

    @property
    def status(self) -> str:
        return self.text("#status")

    def run(self, script: str, *arguments: Any) -> Any:
        self.driver.switch_to.window(self.handle)
        return self.driver.execute_script(script, *arguments)

    def run_async(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async function."""
        self.driver.switch_to.window(self.handle)
        return self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            f"(async () => {{ {script} }})().then(done, (e) => done('failed: ' + e.message))",
            *arguments,
        )

    def wait(self, condition: Callable[[], Any]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, TIMEOUT_S, poll_frequency=0.02).until(lambda _: condition())

    # -- doing -----------------------------------------------------------------------------------

    def click(self, selector: str, place: int = -1) -> None:
        """Press one of those that a selector names; what is replaced is looked for again."""
        from selenium.common.exceptions import StaleElementReferenceException

        def is_clicked() -> bool:
            try:
                self.all(selector)[place].click()
            except StaleElementReferenceException:  # it was not pressed
                return False
            return True

        self.wait(is_clicked)

    def press(self, action: str, place: int = -1) -> None:
        """Press a button of a message: the last one of this kind."""
        self.click(f"article button[data-action={action}]", place)

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        self.driver.switch_to.window(self.handle)
        chain = ActionChains(self.driver)
        for key in keys[:-1]:
            chain.key_down(key)
        chain.send_keys(keys[-1])
        for key in keys[:-1]:
            chain.key_up(key)
        chain.perform()

    def type(self, text: str) -> None:
        self.one("#input").send_keys(text)

    def ask(self, text: str, *, waits: bool = True) -> None:
        """Send a text, by default until its answer is there."""
        before = len(self.all("article"))
        self.type(text + "\n")
        self.wait(lambda: len(self.all("article")) > before or not self.is_idle)
        if waits:
            self.settle()

    def settle(self) -> None:
        self.wait(lambda: self.is_idle)

    def set(self, name: str, value: str | bool) -> None:
        """Change a setting."""
        self.run(
            "const f = document.forms.settings.elements[arguments[0]];"
            "if (f.type === 'checkbox') f.checked = arguments[1]; else f.value = arguments[1];"
            "(f.length ? f[0] : f).dispatchEvent(new Event('change', {bubbles: true}))",
            name,
            value,
        )

    def setting(self, name: str) -> Any:
        return self.run(
            "const f = document.forms.settings.elements[arguments[0]];"
            "return f.type === 'checkbox' ? f.checked : f.value",
            name,
        )

    def reload(self) -> None:
        self.driver.switch_to.window(self.handle)
        self.driver.refresh()
        self.wait(lambda: "connecting" not in self.text("#facts"))

    def tab(self) -> Page:
        """Open another tab with the page."""
        self.driver.switch_to.new_window("tab")
        return Page(self.driver, self._url)

    def size(self, width: int, height: int, *, is_dark: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def shoot(self, name: str) -> None:
        if folder := os.environ.get("GGUF_HUB_SCREENSHOTS"):
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    def complaints(self) -> list[str]:
        """Return what the browser has refused or could not run since this was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")
                if entry["level"] == "SEVERE"]  # fmt: skip


def start(downloads: Path) -> Any:
    """Return a browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        f"host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
    ):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    driver.set_script_timeout(TIMEOUT_S)
    return driver
