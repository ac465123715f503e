"""`pinnerformer serve`: the answers of a root and its store, over HTTP."""

import contextlib
import logging
import os
import socket
import sys
import tempfile
from typing import TYPE_CHECKING

from pipelines.serving.request import EXTRA, ServeRequest, is_loopback, parse
from stores.errors import PinnerFormerError, UsageError
from stores.extras import load

if TYPE_CHECKING:
    from starlette.types import ASGIApp

NEEDED = ("uvicorn", "starlette", "orjson", "prometheus_client", "httptools", "uvloop")


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    # Before numpy is loaded, which looks at it then. Questions are answered side by side, each by a thread: one that is
    # cut in pieces for all cores makes every other one wait, and on a busy machine the pieces wait for one another.
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Before its library is loaded, which looks at it then.
    with tempfile.TemporaryDirectory(prefix="pinnerformer-serve-") as counts:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = counts
        for module in NEEDED:
            load(module, EXTRA, "pinnerformer serve")
        with listen(request) as listening:
            run(request, listening)
    return 0


def listen(request: ServeRequest) -> socket.socket:
    """A socket that listens where the request says.

    Raises:
        UsageError: nobody can listen there.
    """
    host = request.host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, request.port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address, family=family, backlog=2048, reuse_port=False)
    except OSError as error:
        raise UsageError(f"--host {request.host} --port {request.port}: {error.strerror}; name another") from None
    return listening


def url_of(listening: socket.socket) -> str:
    """Where it is reached."""
    host, port, *_ = listening.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(request: ServeRequest, listening: socket.socket) -> None:
    """Answers until SIGTERM or SIGINT."""
    from pipelines.explorer.endpoints import Explorer, explorer_routes
    from pipelines.serving.app import Settings, make_app
    from pipelines.serving.asked import Limits
    from pipelines.serving.guard import LOCAL_NAMES
    from pipelines.serving.reader import LOOK_S, Reader
    from pipelines.serving.workers import Workers

    logging.getLogger("pipelines.serving").setLevel(logging.WARNING)
    reader = Reader(request.root, request.kv, request.namespace, request.catalogue)
    limits = Limits(request.max_k, request.max_ids, request.max_answers, request.max_body)
    hosts = LOCAL_NAMES if request.token is None and is_loopback(request.host) else ()
    settings = Settings(limits, request.token, hosts, ahead=False)
    routes = explorer_routes(Explorer(reader, request.others, request.image_hosts)) if request.explorer else []
    forked: list[tuple[object, ...]] = [()]

    def worker() -> "ASGIApp":
        reader.reconnect()
        return make_app([reader], settings, routes)

    def look() -> bool:
        """Whether the reader has opened anything since."""
        # Nothing is published, the store is down: whoever asks is told so, and it is tried again.
        with contextlib.suppress(PinnerFormerError):
            reader.follow()
        before, forked[0] = forked[0], reader.state()
        return forked[0] != before

    look()

    def started() -> None:
        url = url_of(listening)
        pages = f", {url}/ is for people" if request.explorer else ""
        print(f"listening on {url}; {url}/docs says what there is to ask{pages}", file=sys.stderr, flush=True)

    Workers(request.workers, worker, listening).run(look, LOOK_S, started)
