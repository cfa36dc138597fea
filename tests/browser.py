"""Chromium without a window, through its debugging pipe, and what can be wrong with a page that it shows.

`page_faults.js` measures what a reader would see: text that overlaps, is cut, too small or too faint, and pages that
scroll sideways. Contrast is that of WCAG 2.2, success criterion 1.4.3.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FAULTS = Path(__file__).with_name("page_faults.js")
CONTRAST, SMALLEST = 4.5, 8.5  # the ratio of WCAG's level AA for text; CSS pixels
OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--hide-scrollbars", "--no-first-run", "--disable-gpu",
    "--disable-extensions", "--disable-background-networking",
)  # fmt: skip
PHONE, DESK = (390, 844), (1280, 900)


class Browser:
    """A page of a running Chromium; `errors` are what its console and its network complained about."""

    def __init__(self, process: subprocess.Popen, into: Any, out: Any):
        self._process, self._into, self._out, self._number = process, into, out, 0
        self.errors: list[str] = []
        self._page = ""
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._page = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def open(self, url: str, size: tuple[int, int] = DESK, dark: bool = False) -> None:
        """Loads a page for a screen of `size`, in CSS pixels, whose reader prefers dark or light."""
        self.errors.clear()
        width, height = size
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                   mobile=width < 700)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._send("Emulation.setEmulatedMedia", features=features)
        self._loaded = False
        self._send("Page.navigate", url=url)
        while not self._loaded:
            self._event(self._read())

    def evaluate(self, script: str) -> Any:
        """Returns the value of an expression in the page, awaited where it is a promise."""
        found = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def faults(self) -> list[str]:
        """Returns what is wrong with the page as it is shown, with all that can be opened open."""
        self.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        script = FAULTS.read_text(encoding="utf-8").partition("\n")[2]
        return self.evaluate(f"({script})({CONTRAST}, {SMALLEST})") + self.errors

    def picture(self, path: Path, top: int = 0, height: int = 0) -> None:
        """Writes the page from `top` on as a PNG; to its end where the height is 0."""
        end = top + height if height else self.evaluate("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": top, "width": self.evaluate("innerWidth"), "height": end - top, "scale": 1}
        found = self._send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def wait_until(self, condition: str, seconds: float = 10.0) -> None:
        """Waits until an expression is true in the page."""
        self._wait(lambda: self.evaluate(f"Boolean({condition})"), condition, seconds)

    def save_downloads(self, folder: Path) -> None:
        """Saves the files that the page offers into a folder, under their names."""
        self._send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def wait_for(self, path: Path, seconds: float = 10.0) -> None:
        """Waits for a file that the browser writes."""
        self._wait(path.exists, f"{path.name} is saved", seconds)

    def _wait(self, reached: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < end, f"not after {seconds} s: {what}"
            time.sleep(0.02)

    def _send(self, method: str, **values: object) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        if self._page:
            message["sessionId"] = self._page
        self._into.write(json.dumps(message).encode() + b"\0")
        self._into.flush()
        while (answer := self._read()).get("id") != self._number:
            self._event(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        found = bytearray()
        while (byte := self._out.read(1)) != b"\0":
            assert byte, f"{self._process.args[0]} has ended"
            found += byte
        return json.loads(found)

    def _event(self, message: dict[str, Any]) -> None:
        method, values = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(f"log: {values['entry']['text']} {values['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.errors.append(f"exception: {values['exceptionDetails']['text']}")
        elif method == "Network.responseReceived" and values["response"]["status"] >= 400:
            self.errors.append(f"HTTP {values['response']['status']}: {values['response']['url']}")


@contextmanager
def browser() -> Iterator[Browser]:
    """Starts Chromium; skips the test where there is none."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: install one of {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads commands from its file 3 and answers in its file 4, each ended by a zero byte.
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        words = [program, *OPTIONS, f"--user-data-dir={profile}"]
        words += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(["bash", "-c", shell, "bash", *words], pass_fds=(theirs_in, theirs_out), **quiet)
        os.close(theirs_in)
        os.close(theirs_out)
        with os.fdopen(ours_in, "wb") as into, os.fdopen(ours_out, "rb") as out:
            page = Browser(process, into, out)
            try:
                yield page
            finally:
                page._page = ""
                page._send("Browser.close")
                process.wait(20)
