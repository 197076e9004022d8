"""A headless Chromium, driven over WebDriver (https://www.w3.org/TR/webdriver2/)."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.ports import free_port

CHROMIUM = shutil.which("chromium")
CHROMEDRIVER = shutil.which("chromedriver")
AVAILABLE = CHROMIUM is not None and CHROMEDRIVER is not None
PATIENCE = 20.0
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]


class Browser:
    """One window."""

    def __init__(self, client: httpx.Client, session: str) -> None:
        self._client = client
        self._session = f"/session/{session}"

    def open(self, url: str) -> None:
        self._post("/url", {"url": url})

    def evaluate(self, script: str) -> Any:
        """Run the body of a function."""
        return self._post("/execute/sync", {"script": script, "args": []})

    def wait_until(self, expression: str) -> Any:
        """Wait until an expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not (value := self.evaluate(f"return {expression}")):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.05)
        return value

    def resize(self, width: int, height: int) -> None:
        """Make the page so wide and so high, even narrower than a window may be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._command("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Prefer the `light` or the `dark` colour scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._command("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        shot = self._command("Page.captureScreenshot", {"captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(shot["data"]))

    def press_enter(self) -> None:
        """Press the key on what has the focus."""
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}
            self._command("Input.dispatchKeyEvent", event)

    def console(self) -> list[str]:
        """Read what was written to the console since the last time."""
        return [line["message"] for line in self._post("/se/log", {"type": "browser"})]

    def _command(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._client.post(self._session + path, json=body).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["message"])
        return answer


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run a browser whose profile is in an empty folder."""
    assert CHROMEDRIVER is not None
    port = free_port()
    with (
        subprocess.Popen(
            [CHROMEDRIVER, f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TZ": "UTC"},
        ) as driver,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client,
    ):
        try:
            session = _session(client, folder)
            yield Browser(client, session)
            client.delete(f"/session/{session}")
        finally:
            driver.terminate()


def _session(client: httpx.Client, folder: Path) -> str:
    options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={folder}"]}
    wanted = {
        "browserName": "chrome",
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
            break
        except httpx.ConnectError:
            assert time.monotonic() < deadline, "chromedriver does not start"
            time.sleep(0.05)
    value = answer.json()["value"]
    if "sessionId" not in value:
        raise RuntimeError(json.dumps(value)[:1000])
    session: str = value["sessionId"]
    return session
