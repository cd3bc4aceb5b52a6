"""A headless Chromium, driven over its DevTools pipe: no driver, no port, no package."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = ("chromium", "google-chrome")
_FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "no-first-run", "remote-debugging-pipe"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    # Whatever name is asked for is not found.
    "host-resolver-rules=MAP * ~NOTFOUND",
)


class PageLeftError(Exception):
    """The page that an expression was evaluated on was left before its value was there."""


class Page:
    """One page of the browser.

    problems: errors and warnings of its console, and exceptions. asked: addresses that it fetched.
    """

    def __init__(self, send: int, receive: int):
        self._send, self._receive = send, receive
        self._number, self._read, self._session = 0, b"", None
        self.problems: list[str] = []
        self.asked: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                error = answer.get("error", {}).get("message")
                if error == "Inspected target navigated or closed":
                    raise PageLeftError(answer)
                assert error is None, answer
                return answer["result"]

    def open(self, path: Path, anchor: str = "") -> None:
        """Load a file, and wait until its scripts have run."""
        if self._session is None:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.as_uri() + anchor)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it comes to."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 30.0) -> Any:
        """The value of an expression, once it is true, on this page or one that it leads to."""
        end = time.monotonic() + seconds
        while True:
            with suppress(PageLeftError):
                if found := self.run(expression):
                    return found
            assert time.monotonic() < end, f"not so after {seconds:g} s: {expression}"
            time.sleep(0.05)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """A window of that size in pixels, in one of the two themes."""
        metrics = {"deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, **metrics)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])

    def point(self, find: str) -> None:
        """Move the pointer to the middle of the element that an expression gives."""
        middle = f"(r => [r.x + r.width / 2, r.y + r.height / 2])(({find}).getBoundingClientRect())"
        self.run(f"({find}).scrollIntoView({{block: 'center'}})")
        x, y = self.run(middle)
        for step in (3, 0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + step, y=y)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key: its name and number, and what it types."""
        key_of = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **key_of)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key_of)

    def picture(self, path: Path) -> None:
        """What the window shows, as PNG."""
        content = self.call("Page.captureScreenshot")["data"]
        path.write_bytes(base64.b64decode(content))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            more = os.read(self._receive, 1 << 20)
            assert more, "the browser has ended"
            self._read += more
        line, self._read = self._read.split(b"\0", 1)
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, said: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(said["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            self.problems.append(json.dumps(said["args"])[:500])
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.problems.append(said["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(said["request"]["url"][:80])


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser with its profile in `folder`; ended with the block."""
    command = next(filter(None, map(shutil.which, CHROMIUM)))
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    flags = [f"--{flag}" for flag in (*_FLAGS, f"user-data-dir={folder / 'profile'}")]
    # The browser reads from descriptor 3 and writes to 4.
    script = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
    with open(folder / "browser.log", "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", script, "-", command, *flags],
            pass_fds=(theirs_in, theirs_out), stdout=log, stderr=log,
        )  # fmt: skip
    os.close(theirs_in), os.close(theirs_out)
    try:
        yield Page(ours_out, ours_in)
    finally:
        os.close(ours_out)
        process.terminate()
        process.wait(20)
        os.close(ours_in)
