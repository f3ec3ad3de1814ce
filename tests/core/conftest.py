"""A real browser for tests of pages of several rooms: headless Chromium, without a network but for this machine."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Headless Chromium, spoken to over its debugging pipe."""

    def __init__(self, executable: str, profile: str) -> None:
        from_browser, to_us = os.pipe()
        from_us, to_browser = os.pipe()
        self._reader, self._writer = os.fdopen(from_browser, "rb"), os.fdopen(to_browser, "wb")
        command = (
            f'exec "$0" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe '
            f'--user-data-dir="{profile}" --host-resolver-rules="MAP * ~NOTFOUND, EXCLUDE 127.0.0.1" about:blank '
            f"3<&{from_us} 4>&{to_us}"
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command, executable],
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        self._number = 0
        self._session: str | None = None

    def open(self, url: str) -> None:
        """Open a page, and wait until it is there."""
        self._session = None
        target = self.call("Target.createTarget", url=url)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Target.activateTarget", targetId=target)
        while not self.evaluate("document.readyState === 'complete' && location.protocol !== 'about:'"):
            time.sleep(0.05)

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of a command of the debugging protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression on the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def _message(self) -> bytes:
        content = bytearray()
        while (byte := self._reader.read(1)) != b"\0":
            assert byte, "the browser is gone"
            content += byte
        return bytes(content)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(timeout=600)
        self._reader.close()
        self._writer.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Headless Chromium; a test that wants it is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install it, for example with `apt-get install chromium`")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        opened = Browser(CHROMIUM, profile)
        yield opened
        opened.close()
