"""Headless Chromium over its debugging pipe, without further packages: open a page, act on it, look at it.

Used by `scripts/screenshots.py` and by the tests of the report. The browser gets a profile of its own in a temporary
folder; messages are the Chrome DevTools protocol's, JSON ended by a null byte, on file descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--mute-audio"),
    *("--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update"),
)
SECONDS = 60.0


def find() -> str | None:
    """Path of an installed Chromium or Chrome, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One tab. `events` holds every message that is no answer, in order."""

    def __init__(self, send: int, receive: int) -> None:
        """Attach to the one page of a browser that listens on the pipe ends `send` and `receive`."""
        self._send, self._receive, self._buffer, self._count = send, receive, b"", 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        pages = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        target = pages[0]["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; RuntimeError with the browser's words where it fails."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error'].get('message')}")
                return dict(answer["result"])
            self.events.append(answer)

    def _message(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._receive, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError("the browser does not answer")
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(text))

    def open(self, path: Path) -> None:
        """Load a local file and wait until it and its pictures are there."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def run(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page; the page's own policy does not bind it."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "exception"))
        return answer["result"].get("value")

    def view(self, width: int, height: int, dark: bool = False, scale: float = 1.0) -> None:
        """Size of the window and which colours the user prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def key(self, kind: str, key: str) -> None:
        """Press (`keyDown`) or let go (`keyUp`) a letter's key."""
        self.call("Input.dispatchKeyEvent", type=kind, key=key.lower(), code=f"Key{key.upper()}")

    def click(self, selector: str) -> None:
        """Click the middle of the first element that matches, as a mouse does."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = self.run(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def picture(self, clip: tuple[float, float, float, float] | None = None) -> bytes:
        """PNG bytes of the window, or of a part of the page: x, y, width, height."""
        more = {}
        if clip:
            x, y, width, height = clip
            more = {"clip": {"x": x, "y": y, "width": width, "height": height, "scale": 1}}
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=bool(clip), **more)
        return base64.b64decode(answer["data"])


@contextlib.contextmanager
def browser(script: bool = True) -> Iterator[Browser]:
    """A running browser with one empty tab; without `script` pages run no JavaScript of their own.

    RuntimeError where none is installed.
    """
    path = find()
    if path is None:
        raise RuntimeError(f"no browser: install one of {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        commands, answers = os.pipe(), os.pipe()

        def ends() -> None:  # in the child: the two ends it reads and writes, where the protocol wants them
            ours = os.dup(commands[0]), os.dup(answers[1])
            os.dup2(ours[0], 3)
            os.dup2(ours[1], 4)

        flags = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            [path, *flags],
            preexec_fn=ends,
            close_fds=False,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            os.close(commands[0])
            os.close(answers[1])
            page = Browser(commands[1], answers[0])
            page.call("Emulation.setScriptExecutionDisabled", value=not script)
            yield page
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, 9)
            process.wait()
            os.close(commands[1])
            os.close(answers[0])
