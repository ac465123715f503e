"""`pinnerformer serve`: the answers of a root and its store, over HTTP."""

import socket
import sys

from pipelines.serving.request import EXTRA, ServeRequest, is_loopback, parse
from stores.errors import UsageError
from stores.extras import load

NEEDED = ("uvicorn", "starlette", "orjson", "prometheus_client", "httptools", "uvloop")
DRAIN_S = 20  # for requests that are being answered when the server is told to end


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
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
    import uvicorn

    from pipelines.serving.app import Settings, make_app
    from pipelines.serving.asked import Limits
    from pipelines.serving.guard import LOCAL_NAMES
    from pipelines.serving.reader import Reader

    reader = Reader(request.root, request.kv, request.namespace, request.catalogue)
    limits = Limits(request.max_k, request.max_ids, request.max_answers, request.max_body)
    hosts = LOCAL_NAMES if request.token is None and is_loopback(request.host) else ()
    app = make_app([reader], Settings(limits, request.token, hosts))
    print(f"listening on {url_of(listening)}; /docs says what there is to ask", file=sys.stderr, flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=DRAIN_S, ws="none")
    uvicorn.Server(config).run([listening])
