"""A headless Chromium that a test drives, over its debugging pipe: real clicks, real time.

The protocol is the browser's own (Chrome DevTools Protocol): JSON messages, each ended by a zero
byte, on the file descriptors 3 and 4 of the browser.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
TIMEOUT_S = 60.0
PHONE = (390, 844)


def find_browser() -> str:
    """Return the browser's path; without one the test is skipped."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    return found


class Tab:
    """A page in the browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to_browser = to_browser
        self._from_browser = from_browser
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._width = 0
        self.console: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            self._note(answer)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        end_s = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select(
                [self._from_browser], [], [], max(0.0, end_s - time.monotonic())
            )
            assert ready, f"the browser said nothing for {TIMEOUT_S:.0f} s"
            piece = os.read(self._from_browser, 1 << 20)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what a person would see in the console as a fault."""
        values = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Runtime.consoleAPICalled" and values["type"] == "error":
            self.console.append(str([v.get("value") for v in values["args"]]))
        elif event.get("method") == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.console.append(values["entry"]["text"])

    def open(self, page: Path, size: tuple[int, int] = PHONE) -> None:
        """Load a file at the size of a screen, as a phone would where it is a narrow one."""
        self._width = size[0]
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size[0] < 600,
        )
        # By way of an empty page: the same page anew would look finished before it has begun.
        for url in ("about:blank", page.as_uri()):
            self.call("Page.navigate", url=url)
            self.wait(f"location.href === {json.dumps(url)} && document.readyState", "complete")

    def save_downloads(self, folder: Path) -> None:
        """Let the page save files, without a question, into a folder."""
        self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def run(self, script: str) -> Any:
        """Evaluate JavaScript; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, wanted: Any = True) -> None:
        """Wait until JavaScript gives a value."""
        end_s = time.monotonic() + TIMEOUT_S
        while (found := self.run(script)) != wanted:
            assert time.monotonic() < end_s, f"{script}: expected {wanted!r}, found {found!r}"
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """Click in the middle of an element, which must be what lies on top there."""
        x, y, hit = self.run(
            f"""(() => {{
              const element = document.querySelector({json.dumps(selector)});
              element.scrollIntoView({{block: "center"}});
              const box = element.getBoundingClientRect();
              const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
              const top = document.elementFromPoint(x, y);
              return [x, y, element.contains(top) || top.contains(element)];
            }})()"""
        )
        assert hit, f"{selector} is covered"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        """Press and release a key."""
        values = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **values)
        self.call("Input.dispatchKeyEvent", type="keyUp", **values)

    def too_wide(self) -> int:
        """Return by how many pixels the page is wider than the screen."""
        return self.run("document.documentElement.scrollWidth") - self._width

    def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browsing(profile: Path) -> Iterator[Tab]:
    """Start a browser and end it; `profile` is an empty folder for what it keeps."""
    near, to_browser = os.pipe()
    from_browser, far = os.pipe()
    # The shell puts them where the browser expects them; above 9 neither is in the other's way.
    from_test, to_test = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (near, far))
    os.close(near)
    os.close(far)
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            f'exec "$@" 3<&{from_test} 4>&{to_test}',
            "bash",
            find_browser(),
            "--headless=new",
            "--no-sandbox",  # containers do not let it make one
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ],
        pass_fds=(from_test, to_test),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(from_test)
    os.close(to_test)
    try:
        yield Tab(to_browser, from_browser)
    finally:
        os.close(to_browser)
        os.close(from_browser)
        process.terminate()
        process.wait(timeout=TIMEOUT_S)
