"""A browser without a window, for the tests of the dashboard: Debian's Chromium, driven by Selenium.

Owns starting it so that it talks to nobody else, and what it is asked; not what is expected of the pages.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

# As root it has no sandbox of its own; the rest keeps it from asking its maker for anything.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,720",
)


class Browser:
    """One window of a browser that keeps its data in `directory`."""

    def __init__(self, directory: Path, dark: bool = False) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not binary or not driver:
            pytest.skip("needs chromium and chromedriver; scripts/test installs them")
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*_FLAGS, f"--user-data-dir={directory}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.driver.set_page_load_timeout(60)
        self.driver.set_script_timeout(60)
        self.look(dark)

    def look(self, dark: bool) -> None:
        """Prefers dark colours or light ones."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, address: str) -> None:
        """Opens an address, even if it differs only in its fragment."""
        self.driver.get("about:blank")
        self.driver.get(address)

    def run(self, script: str, *args: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *args)

    def text(self, css: str) -> str:
        """The text of the first element that matches; narrow spaces are spaces. "" if there is none."""
        found = self.run("return document.querySelector(arguments[0])?.innerText ?? ''", css)
        return str(found).replace("\u202f", " ").replace("\u00a0", " ")

    def texts(self, css: str) -> list[str]:
        """The texts of all elements that match."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        return [str(one).replace("\u202f", " ") for one in self.run(script, css)]

    def rows(self, label: str) -> list[dict[str, str]]:
        """A table, by its label: for each row, what stands under each title."""
        script = """
            const table = document.querySelector(`table[aria-label="${arguments[0]}"]`);
            if (!table) return [];
            const titles = [...table.querySelectorAll("thead th")].map(th => th.innerText);
            return [...table.querySelectorAll("tbody tr")].map(tr =>
                Object.fromEntries([...tr.children].map((td, k) => [titles[k], td.innerText])));
        """
        return [
            {name: text.replace("\u202f", " ") for name, text in row.items()}
            for row in self.run(script, label)
        ]

    def click(self, css: str) -> None:
        """Clicks the first element that matches, as a user does: at its middle, where it must be on top."""
        self.until(lambda: self.run("return Boolean(document.querySelector(arguments[0]))", css))
        self.driver.find_element("css selector", css).click()

    def type(self, css: str, text: str) -> None:
        """Types into a field, in place of what is there."""
        field = self.driver.find_element("css selector", css)
        field.clear()
        field.send_keys(text)

    def choose(self, label: str, value: str) -> None:
        """Chooses a value in the list of a label."""
        script = """
            const select = document.querySelector(`select[aria-label="${arguments[0]}"]`);
            select.value = arguments[1];
            select.dispatchEvent(new Event("change"));
        """
        self.run(script, label, value)

    def keys(self, css: str, text: str) -> None:
        """Presses keys while an element has the focus."""
        self.driver.find_element("css selector", css).send_keys(text)

    def until(self, condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        """Waits until `condition()` is true, and returns what it gave."""
        end = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            assert time.monotonic() < end, f"it did not come; the page says:\n{self.text('body')[:3000]}"
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """What the console was told since the last call, but for answers that are errors."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if "Failed to load resource" not in entry["message"]]

    def requests(self) -> list[tuple[str, int | None]]:
        """The requests since the last call, each with its status if there was an answer."""
        asked: dict[str, str] = {}
        answered: dict[str, int] = {}
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            params = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                asked[params["requestId"]] = params["request"]["url"]
            elif message["method"] == "Network.responseReceived":
                answered[params["requestId"]] = params["response"]["status"]
        return [(url, answered.get(name)) for name, url in asked.items() if url != "about:blank"]

    def picture(self, path: Path, width: int = 1280, height: int = 800) -> None:
        """Writes what is shown to a PNG file."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.save_screenshot(str(path))

    def close(self) -> None:
        """Ends it."""
        self.driver.quit()


def places(requests: list[tuple[str, int | None]]) -> set[str]:
    """Hosts and ports, or schemes that need none, that requests went to."""
    return {urlsplit(url).netloc or urlsplit(url).scheme for url, _ in requests}
