"""A server on loopback that is told things."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any


class Listener(http.server.ThreadingHTTPServer):
    """Keeps what is posted.

    Attributes:
        heard: (path, object) of every POST.
        answer: The status that it answers with.
        slow_s: How long it takes to answer, at most until it is closed.
        closed: Set when it is.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[tuple[str, Any]] = []
        self.answer, self.slow_s = 200, 0.0
        self.closed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, json.loads(body)))
        if self.server.closed.wait(self.server.slow_s):
            return
        self.send_response(self.server.answer)
        if self.server.answer == 302:
            self.send_header("Location", f"{self.server.url}/elsewhere")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """A server while the body runs."""
    server = Listener()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
