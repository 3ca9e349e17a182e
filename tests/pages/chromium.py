"""A headless Chromium that tests drive over two pipes, by the DevTools protocol."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars")
READING = "willReadFrequently"  # what the browser says to a test that looks at pixels
PATIENCE = 60  # seconds for one answer of a browser on a busy machine


def find_chromium():
    """The browser of this machine, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser with one page at a time. What goes wrong in the page is kept in `problems`."""

    def __init__(self, profile: Path) -> None:
        to_read, to_write = os.pipe(), os.pipe()
        # The browser reads commands from its descriptor 3 and answers on 4; 3 and 4 of this process may be in use.
        start = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        command = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", start, "bash", str(to_read[0]), str(to_write[1]), *command],
            pass_fds=(to_read[0], to_write[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read[0])
        os.close(to_write[1])
        self.commands, self.answers = to_read[1], to_write[0]
        self.number, self.pending, self.session = 0, b"", None
        self.problems: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        os.close(self.commands)
        os.close(self.answers)
        os.killpg(self.process.pid, signal.SIGKILL)  # the group that this process began, its own helpers in it
        self.process.wait()

    def send(self, method, **params):
        """Give a command and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self.number:
            self._note(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _receive(self):
        while b"\0" not in self.pending:
            part = os.read(self.answers, 1 << 16)
            assert part, "the browser has ended"
            self.pending += part
        message, self.pending = self.pending.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event):
        """Keep errors of the page, and every request that is not for the page itself or for data inside of it."""
        params = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            if READING not in params["entry"]["text"]:
                self.problems.append(params["entry"]["text"])
        elif event["method"] == "Runtime.consoleAPICalled":
            self.problems.append(json.dumps(params["args"]))
        elif event["method"] == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {params['message']}")
            self.number += 1
            message = {"id": self.number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            os.write(self.commands, json.dumps({**message, "sessionId": self.session}).encode() + b"\0")
        elif event["method"] == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.problems.append(f"request: {url}")

    def open(self, file: Path, width=1200, height=900, touch=False):
        """Show a file on a screen of so many CSS pixels, and wait until it is there."""
        self.problems.clear()
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.send("Page.navigate", url=file.resolve().as_uri())
        self.wait("location.href != 'about:blank' && document.readyState == 'complete'")

    def value(self, expression):
        """What a JavaScript expression comes to in the page; a promise is waited for."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, f"still not true: {expression}"
            time.sleep(0.02)

    def click(self, selector, x=0.5, y=0.5, **options):
        """Click at a part of an element, by default its middle."""
        left, top = self._place(selector, x, y)
        for kind in ("mousePressed", "mouseReleased"):
            options = {"button": "left", "clickCount": 1, **options}
            self.send("Input.dispatchMouseEvent", type=kind, x=left, y=top, **options)

    def drag(self, selector, by, button="left"):
        """Press in the middle of an element, move by (x, y) pixels, and let go."""
        left, top = self._place(selector, 0.5, 0.5)
        held = {"left": 1, "right": 2}[button]
        self.send("Input.dispatchMouseEvent", type="mousePressed", x=left, y=top, button=button, clickCount=1)
        left, top = left + by[0], top + by[1]
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=left, y=top, button=button, buttons=held)
        self.send("Input.dispatchMouseEvent", type="mouseReleased", x=left, y=top, button=button, clickCount=1)

    def tap(self, selector, x=0.5, y=0.5):
        left, top = self._place(selector, x, y)
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": left, "y": top}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def scroll(self, selector, down):
        left, top = self._place(selector, 0.5, 0.5)
        self.send("Input.dispatchMouseEvent", type="mouseWheel", x=left, y=top, deltaX=0, deltaY=down)

    def key(self, name):
        text = {"text": name} if len(name) == 1 else {}
        codes = {"ArrowUp": 38, "ArrowDown": 40, "Enter": 13}
        code = {"windowsVirtualKeyCode": codes[name]} if name in codes else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=name, **text, **code)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=name, **code)

    def screenshot(self, file: Path, whole=True):
        """Write what is seen, the whole length of the page by default, as PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _place(self, selector, x, y):
        box = self.value(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)});"
            " found.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const box = found.getBoundingClientRect(); return [box.left, box.top, box.width, box.height] })()"
        )
        return box[0] + x * box[2], box[1] + y * box[3]
