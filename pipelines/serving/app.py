"""The ASGI application of `pinnerformer serve`: routes to a reader's answers, nothing else."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from pipelines.serving.answers import (
    ENCODINGS,
    FLOATS,
    lookup_answer,
    neighbours_answer,
    user_answer,
    users_answer,
)
from pipelines.serving.asked import (
    PINS_QUERY,
    Limits,
    check_names,
    ids_of,
    parse_body,
    path_id,
    pins_body,
    pins_query,
    whole_number,
)
from pipelines.serving.guard import Guard
from pipelines.serving.metrics import Metrics
from pipelines.serving.openapi import docs_page, document
from pipelines.serving.problems import Problem, invalid, problem_of
from pipelines.serving.reader import LOOK_S, Reader, data_age_s
from pipelines.serving.responses import json_response, problem_response
from stores.errors import PinnerFormerError
from stores.id_names import PINS

LOG = logging.getLogger(__name__)
THREADS = 8  # questions answered at a time; what they wait for is a store, or numpy, which lets go of Python
MOST_RELEASES = 1000  # listed at once
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a server is asked.

    Attributes:
        limits: How much one request may ask for.
        token: Whoever asks has to know it; None: everybody may.
        hosts: What the header `Host` may be; empty: anything.
        ahead: Whether releases are opened here before the store serves them; another process may do that.
    """

    limits: Limits = Limits()
    token: str | None = None
    hosts: Collection[str] = ()
    ahead: bool = True


class Serving:
    """What the endpoints share: `request.app.state.serving`.

    Attributes:
        readers: One a root; the API answers from the first.
    """

    def __init__(self, readers: Sequence[Reader], settings: Settings):
        self.readers = list(readers)
        self.settings = settings
        self.metrics = Metrics(self._served)
        self._pool = ThreadPoolExecutor(THREADS, "answer")
        self._ended = threading.Event()

    @property
    def reader(self) -> Reader:
        return self.readers[0]

    async def run(self, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Calls a function in a thread: whatever waits for a store or computes would hold up every other request."""
        call = functools.partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _served(self) -> tuple[str, str, float] | None:
        try:
            manifest = self.reader.release().manifest
            return manifest.release, manifest.model_digest, data_age_s(manifest)
        except PinnerFormerError:
            return None

    def follow(self) -> None:
        """Opens releases before they are asked for, until `end` is called."""
        said: dict[int, str] = {}
        while not self._ended.is_set():
            for number, reader in enumerate(self.readers):
                try:
                    text = f"serving {reader.follow(self.settings.ahead).name}"
                except PinnerFormerError as error:
                    text = str(error)
                except Exception:  # a fault here must not end what keeps a server up to date
                    LOG.exception("looking for a release")
                    continue
                if said.get(number) != text:
                    LOG.warning("%s: %s", reader.root_shown, text)
                said[number] = text
            self._ended.wait(LOOK_S)

    def end(self) -> None:
        """Ends the threads, and gives connections back."""
        self._ended.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for reader in self.readers:
            reader.close()


Endpoint = Callable[[Serving, Request], Awaitable[Response]]
ShowProblem = Callable[[Request, Problem], Response]


def counted(
    name: str, function: Endpoint, show: ShowProblem = lambda request, problem: problem_response(problem)
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose requests are counted under a name; errors are documents, or what `show` makes of them."""

    async def endpoint(request: Request) -> Response:
        began = time.perf_counter()
        serving: Serving = request.app.state.serving
        status = 500
        try:
            response = await function(serving, request)
            status = response.status_code
            return response
        except ClientDisconnect:
            status = 499  # whoever asked has gone; nobody reads this
            return Response(status_code=400)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            status = problem.status
            return show(request, problem)
        finally:
            serving.metrics.count(name, status, began)

    return endpoint


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request.

    Raises:
        Problem: it is longer than that; the rest is not read.
    """
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise Problem(413, f"a body may have {most:,} bytes", {"connection": "close"})
        pieces.append(piece)
    return b"".join(pieces)


async def lookup(serving: Serving, request: Request) -> Response:
    limits = serving.settings.limits
    check_names(list(request.query_params), (), "parameter")
    body = parse_body(await read_body(request, limits.body), ("ids", "encoding"))
    encoding = body.get("encoding", FLOATS)
    if encoding not in ENCODINGS:
        raise invalid(f"encoding must be {' or '.join(ENCODINGS)}, got {str(encoding)[:40]}")
    ids = ids_of(body, limits)

    def answer() -> Response:
        found = serving.reader.vectors(ids)
        serving.metrics.count_ids("user", int(found.found.sum()), int((~found.found).sum()))
        return json_response(lookup_answer(found, encoding), found.current.release)

    return await serving.run(answer)


async def pins_of_user(serving: Serving, request: Request) -> Response:
    asked = pins_query(request.query_params, _names(request), serving.settings.limits)

    def answer() -> Response:
        reader = serving.reader
        user = path_id(request.path_params["user_id"], reader.current().user_ids, "user")
        found = reader.pins_of_users([user], asked.k, exclude_engaged=asked.exclude_engaged, where=asked.where)
        serving.metrics.count_ids("user", int(found[0].found[0]), int(not found[0].found[0]))
        return json_response(user_answer(*found), found[1].name)

    return await serving.run(answer)


async def pins_of_users(serving: Serving, request: Request) -> Response:
    limits = serving.settings.limits
    check_names(list(request.query_params), (), "parameter")
    body = parse_body(await read_body(request, limits.body), ("ids", *PINS_QUERY))
    ids, asked = pins_body(body, limits)

    def answer() -> Response:
        reader = serving.reader
        found = reader.pins_of_users(ids, asked.k, exclude_engaged=asked.exclude_engaged, where=asked.where)
        serving.metrics.count_ids("user", int(found[0].found.sum()), int((~found[0].found).sum()))
        return json_response(users_answer(*found), found[1].name)

    return await serving.run(answer)


async def neighbours(serving: Serving, request: Request) -> Response:
    names = _names(request)
    check_names(names, ("k", "where"), "parameter")
    asked = pins_query(request.query_params, names, serving.settings.limits)

    def answer() -> Response:
        reader = serving.reader
        pin = path_id(request.path_params["pin_id"], PINS.kind(reader.release().manifest), "pin")
        release, pins = reader.neighbours(pin, asked.k, where=asked.where)
        return json_response(neighbours_answer(release, pin, pins), release.name)

    return await serving.run(answer)


async def releases(serving: Serving, request: Request) -> Response:
    check_names(_names(request), ("limit",), "parameter")
    limit = whole_number("limit", request.query_params.get("limit", "30"), 1, MOST_RELEASES)
    found = await serving.run(serving.reader.releases, limit)
    return json_response(found, found["served"])


async def healthz(serving: Serving, request: Request) -> Response:
    """Whether this process answers at all; a store that is down is no reason to start it again."""
    return json_response({"status": "ok"})


async def readyz(serving: Serving, request: Request) -> Response:
    """Whether a release is open and served."""
    release = (await serving.run(serving.reader.release)).name
    return json_response({"status": "ready", "release": release}, release)


async def metrics(serving: Serving, request: Request) -> Response:
    return Response(await serving.run(serving.metrics.text), media_type="text/plain; version=0.0.4; charset=utf-8")


async def openapi(serving: Serving, request: Request) -> Response:
    return json_response(document(serving.settings.limits, serving.settings.token is not None))


async def docs(serving: Serving, request: Request) -> Response:
    return HTMLResponse(docs_page(document(serving.settings.limits, serving.settings.token is not None)))


def _names(request: Request) -> list[str]:
    return [name for name, _ in request.query_params.multi_items()]


ENDPOINTS: tuple[tuple[str, str, str, Endpoint], ...] = (
    ("POST", "/v1/embeddings:lookup", "lookup", lookup),
    # An id may have a slash in it.
    ("GET", "/v1/users/{user_id:path}/pins", "pins", pins_of_user),
    ("POST", "/v1/users:pins", "pins_batch", pins_of_users),
    ("GET", "/v1/pins/{pin_id:path}/neighbours", "neighbours", neighbours),
    ("GET", "/v1/releases", "releases", releases),
    ("GET", "/healthz", "healthz", healthz),
    ("GET", "/readyz", "readyz", readyz),
    ("GET", "/metrics", "metrics", metrics),
    ("GET", "/openapi.json", "openapi", openapi),
    ("GET", "/docs", "docs", docs),
)


def make_app(
    readers: Sequence[Reader], settings: Settings | None = None, routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """The application.

    Args:
        readers: One a root; the API answers from the first. Closed when the application ends.
        settings: Limits, token, hosts.
        routes: More of them, such as pages; `request.app.state.serving` is what they share with the API.
    """
    settings = settings or Settings()
    serving = Serving(readers, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        thread = threading.Thread(target=serving.follow, name="follow", daemon=True)
        thread.start()
        yield
        await asyncio.to_thread(serving.end)

    own = [Route(path, counted(name, function), methods=[method]) for method, path, name, function in ENDPOINTS]
    app = Starlette(
        routes=[*own, *routes],
        middleware=[Middleware(Guard, token=settings.token, hosts=settings.hosts)],
        exception_handlers={HTTPException: _http_problem, Exception: _fault},
        lifespan=lifespan,
    )
    app.state.serving = serving
    return app


async def _http_problem(request: Request, error: Exception) -> Response:
    """A path that is not there, a method that it does not have."""
    assert isinstance(error, HTTPException)
    detail = "no such path; /docs says which there are" if error.status_code == 404 else error.detail
    return problem_response(Problem(error.status_code, detail, error.headers))


async def _fault(request: Request, error: Exception) -> Response:
    return problem_response(Problem(500, "a fault of the server; its log says more"))
