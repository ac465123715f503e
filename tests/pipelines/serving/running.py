"""A server that runs in a thread of the test, asked over real HTTP."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn

from pipelines.explorer.endpoints import Explorer, explorer_routes
from pipelines.serving.app import Settings, make_app
from pipelines.serving.command import listen
from pipelines.serving.reader import Reader
from pipelines.serving.request import parse


class Asked:
    """An answer: `status`, `headers` and `body`, which was JSON."""

    def __init__(self, response: http.client.HTTPResponse):
        self.status, self.headers = response.status, response.headers
        data = response.read()
        self.body: Any = json.loads(data) if "json" in (response.headers["content-type"] or "") else data.decode()

    @property
    def detail(self) -> str:
        """Of a problem document, which it must be."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        assert self.body["status"] == self.status
        return self.body["detail"]


class Client:
    """Asks one server, over one connection; `reader` is that of a server in this process."""

    def __init__(self, port: int, reader: Reader | None = None):
        self.port, self.reader = port, reader
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Asked:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request(method, path, data, headers or {})
        return Asked(self._connection.getresponse())

    def get(self, path: str, **headers: str) -> Asked:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> Asked:
        return self.ask("POST", path, body, headers)


@contextlib.contextmanager
def serving(
    root: str,
    kv: str,
    catalogue: str | None = None,
    settings: Settings | None = None,
    *,
    others: Sequence[str] = (),
    image_hosts: Sequence[str] = (),
) -> Iterator[Client]:
    """A server for the body of the block, with the explorer."""
    reader = Reader(root, kv, catalogue=catalogue)
    app = make_app([reader], settings, explorer_routes(Explorer(reader, others, image_hosts)))
    listening = listen(parse([f"--root={root}", f"--kv={kv}", "--port=0"]))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Client(listening.getsockname()[1], reader)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextlib.contextmanager
def served_by_processes(*words: str, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen, Client]]:
    """`pinnerformer serve` as it is started for people, on a free port."""
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--port=0", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("listening on "):
                break
        port = int(line.split(";")[0].rpartition(":")[2])
        said = threading.Thread(target=process.stderr.read)  # or it would stop where the pipe is full
        said.start()
        yield process, Client(port)
    finally:
        process.terminate()
        assert process.wait(30) == 0
        said.join()
