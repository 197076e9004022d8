"""The monitor page of a running balancer, with states that a test makes up.

A balancer that shows forty conversations, a GPU and a hostile name would take machines to
arrange. So the page is the running program's own, with its headers, and its stream is ours.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from tests.fakes.snapshots import EMPTY, State

INTERVAL = 0.1
"""Seconds between two events."""

PATH = "/llmhealth-monitor"


class Stage(ThreadingHTTPServer):
    """Serves the page, and a stream of events with whatever `state` is set."""

    daemon_threads = True

    def __init__(self, balancer: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.balancer = balancer
        self.url = f"http://127.0.0.1:{self.server_port}{PATH}"
        self.page = httpx.get(balancer + PATH).raise_for_status()
        self.state: State = EMPTY
        self.stopping = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Answers the browser."""

    server: Stage

    def do_GET(self) -> None:
        if self.path == PATH:
            page = self.server.page
            self.send_response(200)
            for name in ("content-type", "content-security-policy"):
                self.send_header(name, page.headers[name])
            self.send_header("content-length", str(len(page.content)))
            self.end_headers()
            self.wfile.write(page.content)
        elif self.path == f"{PATH}/events":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self._tell()
        elif self.path.startswith("/llmhealth-usage"):
            told = json.dumps({"usage": self.server.state.get("usage", [])}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)
        else:
            self.send_error(404)

    def _tell(self) -> None:
        stage = self.server
        while not stage.stopping.is_set():
            self.wfile.write(b"data: %b\n\n" % json.dumps(stage.state).encode())
            stage.stopping.wait(INTERVAL)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextlib.contextmanager
def staging(balancer: str) -> Iterator[Stage]:
    """Show a balancer's page with states of our own until the block ends."""
    with Stage(balancer) as stage:
        thread = threading.Thread(target=stage.serve_forever, daemon=True)
        thread.start()
        try:
            yield stage
        finally:
            stage.stopping.set()
            stage.shutdown()
            thread.join()
