"""The pages of the explorer: from a request to what is seen, and from there to HTML."""

import dataclasses
import functools
import importlib.resources
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import jinja2
import numpy as np
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from pipelines.explorer.picks import Picks, draw_user, find_picks
from pipelines.explorer.seen import Found, see_pin, see_user, users_alike
from pipelines.explorer.views import Shelf, View, inner_id
from pipelines.serving.app import Serving, counted
from pipelines.serving.asked import TRUTH, check_names, whole_number
from pipelines.serving.catalogue import Catalogue
from pipelines.serving.problems import Problem, UnknownId, invalid
from pipelines.serving.reader import Reader
from stores.errors import PinnerFormerError
from stores.id_names import PINS, USERS, Id

DEFAULT_K, MOST_K = 20, 100
QUERY = ("id", "view", "beside", "k", "new")
KEPT_PICKS = 8  # releases whose picks are remembered: a few dozen ids each
HOUR_S = 3600


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a page is asked for.

    Attributes:
        id: As it was typed.
        view, beside: As `View.name`; empty: the one that is served, nothing.
        k: How many pins.
        new: Whether pins that the user engaged with are left out.
    """

    id: str
    view: str
    beside: str
    k: int
    new: bool

    def link(self, page: str, **other: object) -> str:
        """The address of a page asked likewise, but for some of it."""
        query = {**dataclasses.asdict(self), **other}
        query["new"] = "true" if query["new"] else ""
        query["k"] = "" if query["k"] == DEFAULT_K else query["k"]
        text = urllib.parse.urlencode({name: value for name, value in query.items() if value != ""})
        return f"{page}?{text}" if text else page


def read_query(request: Request) -> Asked:
    """What a request asks for.

    Raises:
        Problem: a name or a value that is none.
    """
    query = request.query_params
    check_names([name for name, _ in query.multi_items()], QUERY, "parameter")
    new = query.get("new", "false").lower()
    if new not in TRUTH:
        raise invalid(f"new must be true or false, got {new[:40]!r}")
    k = whole_number("k", query.get("k") or str(DEFAULT_K), 1, MOST_K)
    return Asked(query.get("id", "").strip(), query.get("view", ""), query.get("beside", ""), k, TRUTH[new])


class Explorer:
    """What the pages share.

    Args:
        reader: Of the first root, and of what the store serves of it.
        others: Further roots, whose newest releases are looked at.
        image_hosts: From which pictures may be loaded; empty: none are.
    """

    def __init__(self, reader: Reader, others: Sequence[str] = (), image_hosts: Collection[str] = ()):
        self._reader = reader
        self.shelves = [Shelf(0, reader.root_shown, reader)]
        self.shelves += [Shelf(number, url) for number, url in enumerate(others, 1)]
        self.hosts = frozenset(host.lower() for host in image_hosts)
        self._picks: dict[tuple[str, str, int], Picks] = {}
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("pipelines.explorer", "."),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["score"] = lambda number: f"{number:.3f}".replace("-", "\N{MINUS SIGN}")

    @property
    def catalogue(self) -> Catalogue | None:
        return self._reader.catalogue

    def open(self, name: str) -> View:
        """A view by its name; of an empty one what the store serves.

        Raises:
            Problem: there is no such view.
            StoreError: nothing is served.
        """
        if not name:
            return self.shelves[0].open()
        number, _, release = name.partition("@")
        if not number.isascii() or not number.isdigit() or len(number) > 3 or int(number) >= len(self.shelves):
            raise invalid(f"{name[:80]!r} is no view; choose one of the list")
        return self.shelves[int(number)].open(release)

    def choices(self) -> list[tuple[str, str]]:
        """(name, text) of the views that can be chosen."""
        found = []
        for shelf in self.shelves:
            try:
                names = shelf.names()
            except (Problem, PinnerFormerError):
                continue  # whoever chooses a release of it is told why
            at = f" of {shelf.shown}" if len(self.shelves) > 1 else ""
            found += [(f"{shelf.number}@{name}", f"{name}{at}") for name in names]
        return found

    def picks(self, view: View) -> Picks:
        """Users of a release worth a look, found once."""
        key = (view.root.url, view.release, view.manifest.revision)
        if key not in self._picks:
            found = find_picks(view, self.shelves[view.number].before(view))
            self._picks = dict([*list(self._picks.items())[-(KEPT_PICKS - 1) :], (key, found)])
        return self._picks[key]

    def html(self, template: str, asked: Asked, status: int = 200, **content: Any) -> HTMLResponse:
        """A page, with what all of them show."""
        text = self._templates.get_template(template).render(
            asked=asked,
            choices=self.choices() if content["view"] is not None else [],
            several_roots=len(self.shelves) > 1,
            shown={shelf.number: shelf.shown for shelf in self.shelves},
            **content,
        )
        return HTMLResponse(text, status, self._headers())

    def _headers(self) -> dict[str, str]:
        images = " ".join(["'self'", *(f"https://{host}" for host in sorted(self.hosts))])
        policy = (
            f"default-src 'none'; style-src 'self'; script-src 'self'; img-src {images}; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
        return {
            "content-security-policy": policy,
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",  # what people did stays in no cache
        }

    def problem(self, request: Request, problem: Problem) -> Response:
        """A page that says what is wrong."""
        asked = Asked(request.query_params.get("id", "")[:200], "", "", DEFAULT_K, False)
        page = self.html("problem.html.j2", asked, problem.status, problem=problem, view=None)
        page.headers.update(problem.headers)
        return page


def in_all_lists(lists: Sequence[Sequence[Found]]) -> set[Id]:
    """The pins that are in all of some lists."""
    return set.intersection(*({found.item.id for found in one} for one in lists))


Page = Callable[[Explorer, Serving, Request], Awaitable[Response]]


async def start(explorer: Explorer, serving: Serving, request: Request) -> Response:
    """Whom to look at."""
    asked = read_query(request)

    def page() -> Response:
        view = explorer.open(asked.view)
        return explorer.html("start.html.j2", asked, view=view, picks=explorer.picks(view))

    return await serving.run(page)


async def user(explorer: Explorer, serving: Serving, request: Request) -> Response:
    """A user: history, pins, why, what changed, users alike; in two views where that is asked for."""
    asked = read_query(request)

    def page() -> Response:
        first = explorer.open(asked.view)
        inner = inner_id(first, asked.id, USERS)
        sides, missing = [], ""
        for view in [first, *([explorer.open(asked.beside)] if asked.beside else [])]:
            if view is not first:
                inner = inner_id(view, asked.id, USERS)
            try:
                sides.append(
                    see_user(
                        view,
                        inner,
                        asked.id,
                        asked.k,
                        exclude_engaged=asked.new,
                        before=explorer.shelves[view.number].before(view),
                        catalogue=explorer.catalogue,
                        hosts=explorer.hosts,
                    )
                )
            except UnknownId as error:
                if view is first:
                    raise
                missing = error.detail
        serving.metrics.count_ids("user", 1, 0)
        vector = sides[0].vector
        alike = users_alike(first, inner_id(first, asked.id, USERS), vector.vector) if vector is not None else None
        both = in_all_lists([side.pins for side in sides])
        return explorer.html("user.html.j2", asked, view=first, sides=sides, missing=missing, alike=alike, both=both)

    return await serving.run(page)


async def pin(explorer: Explorer, serving: Serving, request: Request) -> Response:
    """A pin and its neighbours; in two views where that is asked for."""
    asked = read_query(request)

    def page() -> Response:
        views = [explorer.open(asked.view), *([explorer.open(asked.beside)] if asked.beside else [])]
        sides, missing = [], ""
        for view in views:
            try:
                found = see_pin(view, inner_id(view, asked.id, PINS), asked.k, explorer.catalogue, explorer.hosts)
                sides.append(found)
            except UnknownId as error:
                if view is views[0]:
                    raise
                missing = error.detail
        both = in_all_lists([side.pins for side in sides])
        return explorer.html("pin.html.j2", asked, view=views[0], sides=sides, missing=missing, both=both)

    return await serving.run(page)


async def random(explorer: Explorer, serving: Serving, request: Request) -> Response:
    """Leads to a user drawn at random."""
    asked = read_query(request)

    def page() -> Response:
        drawn = draw_user(explorer.open(asked.view), np.random.default_rng(time.time_ns()))
        if drawn is None:
            raise Problem(404, "nobody has a vector in this release")
        return RedirectResponse(asked.link("/user", id=drawn), 303, {"cache-control": "no-store"})

    return await serving.run(page)


# Path -> its kind, and the files that it is made of. Colours and text look as they do in the report of a release.
STATIC = {
    "/explorer.css": ("text/css", (("pipelines.report", "page.css"), ("pipelines.explorer", "explorer.css"))),
    "/explorer.js": ("text/javascript", (("pipelines.explorer", "explorer.js"),)),
    "/explorer.svg": ("image/svg+xml", (("pipelines.explorer", "explorer.svg"),)),
}


def static(path: str) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that answers with our own files, one after the other."""
    kind, names = STATIC[path]
    texts = [importlib.resources.files(package).joinpath(name).read_text("utf-8") for package, name in names]
    content = "".join(texts)

    async def endpoint(request: Request) -> Response:
        headers = {"cache-control": f"max-age={HOUR_S}", "x-content-type-options": "nosniff"}
        return Response(content, media_type=kind, headers=headers)

    return endpoint


PAGES: tuple[tuple[str, str, Page], ...] = (
    ("/", "explorer_start", start),
    ("/user", "explorer_user", user),
    ("/pin", "explorer_pin", pin),
    ("/random", "explorer_random", random),
)


def explorer_routes(explorer: Explorer) -> list[Route]:
    """What `make_app` is given to have the explorer."""
    pages = [
        Route(path, counted(name, functools.partial(function, explorer), explorer.problem), methods=["GET"])
        for path, name, function in PAGES
    ]
    return [*pages, *(Route(path, static(path), methods=["GET"]) for path in STATIC)]
