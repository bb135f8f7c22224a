"""A headless Chromium driven over its own pipe (DevTools protocol), so that the tests need no further package."""

import json
import os
import select
import shutil
import subprocess
import sys
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)

# Chromium talks on descriptors 3 and 4: put ours there, by way of high numbers lest one overwrite the other.
LAUNCH = """
import fcntl, os, sys
for number, given in ((3, sys.argv[1]), (4, sys.argv[2])):
    globals()[f"high{number}"] = fcntl.fcntl(int(given), fcntl.F_DUPFD, 20)
os.dup2(high3, 3)
os.dup2(high4, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find():
    """Path of an installed browser, or `None`."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """One page of one browser; what it logs and requests is kept in `console` and `requests`."""

    def __init__(self, browser, profile, timeout=60.0):
        self.timeout = timeout
        self.console, self.requests, self.count, self.buffer, self.answers, self.events = [], [], 0, b"", {}, []
        reads, self.write = os.pipe()
        self.read, writes = os.pipe()
        command = [browser, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(reads), str(writes), *command],
            pass_fds=(reads, writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self.session = None
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self):
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(info["targetId"] for info in targets if info["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Send a command and wait for its answer."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        wanted = self.count
        self._until(lambda: wanted in self.answers)
        answer = self.answers.pop(wanted)
        assert "error" not in answer, f"{method}: {answer['error']['message']}"
        return answer["result"]

    def open(self, address):
        """Go to an address and wait until it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        self._until(lambda: "Page.loadEventFired" in self.events)

    def run(self, script):
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer.get("exceptionDetails")
        return answer["result"].get("value")

    def click(self, selector):
        """Scroll an element into view and click it with the mouse."""
        where = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{where}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.run(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({where}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def wait(self, condition):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + self.timeout
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def close(self):
        """End this browser, and only this one."""
        os.close(self.write)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.read)

    def _until(self, done):
        end = time.monotonic() + self.timeout
        while not done():
            ready, _, _ = select.select([self.read], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.read, 1 << 20) if ready else b""
            assert chunk, "the browser gave no answer"
            *whole, self.buffer = (self.buffer + chunk).split(b"\0")
            for message in whole:
                self._take(json.loads(message))

    def _take(self, message):
        if "id" in message:
            self.answers[message["id"]] = message
            return
        method, parameters = message["method"], message["params"]
        self.events.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded":
            self.console.append(parameters["entry"]["text"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.console.append(json.dumps(parameters))
