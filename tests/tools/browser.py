"""A headless Chromium, driven by the WebDriver protocol of its own driver: no library in
between."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window."""

    def __init__(self, address: str, width: int, height: int) -> None:
        self._address = address
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"args": arguments, "binary": shutil.which("chromium")}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"
        # As a phone has it: a window of Chromium's own is never as narrow.
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        self._ask("POST", f"{self._session}/goog/cdp/execute", command)

    def open(self, file: Path) -> None:
        self._ask("POST", f"{self._session}/url", {"url": file.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """Return what a script gives back."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def type(self, selector: str, text: str) -> None:
        """Type into an element, key by key, in place of what is there."""
        found = self._ask(
            "POST", f"{self._session}/element", {"using": "css selector", "value": selector}
        )
        element = f"{self._session}/element/{found[_ELEMENT]}"
        self._ask("POST", f"{element}/clear", {})
        self._ask("POST", f"{element}/value", {"text": text})

    def complaints(self) -> list[str]:
        """Return what the console said since this was asked last."""
        return [
            entry["message"]
            for entry in self._ask("POST", f"{self._session}/se/log", {"type": "browser"})
        ]

    def close(self) -> None:
        self._ask("DELETE", self._session)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]


def is_installed() -> bool:
    return shutil.which("chromedriver") is not None and shutil.which("chromium") is not None


@contextmanager
def browser(width: int = 1000, height: int = 800) -> Iterator[Browser]:
    """Start a driver on a free port and give a window of its own."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        port = next(
            found[1]
            for line in driver.stdout
            if (found := re.search(r"started successfully on port (\d+)", line))
        )
        window = Browser(f"http://127.0.0.1:{port}", width, height)
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait(timeout=20)
