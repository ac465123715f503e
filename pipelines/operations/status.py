"""`pinnerformer status`: the releases of a root, what the store serves, and whether the newest is too old."""

import dataclasses
import datetime
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.arguments import Parser, add_json, add_lookback, add_root, add_store, seconds
from pipelines.operations.figures import as_json, summarise
from stores.errors import InputError
from stores.files import Root
from stores.kv import open_store
from stores.layout import require_layout
from stores.manifests import Manifest, manifest_path
from stores.releases import chain, current_release
from stores.rewritten import Rewritten, find_rewritten_logs, refuse_rewritten

DESCRIPTION = """\
Shows the releases of a root, newest first, and what the key-value store serves.

With --max-age it exits with 1 when the newest release was committed longer ago than that: the alarm for the job that
never ran.
"""


def describe(root: Root, kv: str | None, namespace: str) -> dict[str, Any]:
    """What there is to say of a root and a store, for people and programs alike.

    Raises:
        StoreError: no such root, or it is damaged.
    """
    require_layout(root)
    releases = [describe_release(root, manifest) for manifest in chain(root)]
    found: dict[str, Any] = {"root": root.url, "current": current_release(root), "releases": releases, "store": None}
    if kv:
        with open_store(kv, namespace) as store:
            current = store.current()
            found["store"] = {"url": store.url_shown, "namespace": namespace, "release": None}
            if current:
                found["store"] |= {
                    "release": current.release,
                    "generation": current.generation,
                    "model": current.model_digest[:12],
                    "users": current.users,
                }
    return found


def describe_release(root: Root, manifest: Manifest) -> dict[str, Any]:
    """The figures of a release, and when it was committed."""
    committed = root.modified(manifest_path(manifest.release))
    stamp = datetime.datetime.fromtimestamp(committed, datetime.UTC)
    return {**summarise(manifest), "committed": stamp.isoformat(timespec="seconds")}


@dataclasses.dataclass(frozen=True)
class StatusRequest:
    """What `pinnerformer status` is asked for.

    Attributes:
        kv: The store to ask; None: none.
        logs: Whose files are compared with what was read; None: none.
        lookback: How many partitions of them.
        max_age_s: How old the newest release may be; None: as old as it is.
        as_json: Whether programs read it.
    """

    root: Root
    kv: str | None
    namespace: str
    logs: str | None
    lookback: int
    max_age_s: float | None
    as_json: bool


def make_parser() -> Parser:
    """The flags of `pinnerformer status`."""
    parser = Parser(prog="pinnerformer status", description=DESCRIPTION)
    add_root(parser)
    add_store(parser)
    parser.add_argument(
        "--logs", metavar="DIR", help="exit with 1 if log files that were read have changed or gone since"
    )
    add_lookback(parser, "as `daily --lookback`, for --logs (default %(default)s)")
    parser.add_argument("--max-age", type=seconds, metavar="30h", help="exit with 1 if the newest release is older")
    add_json(parser)
    return parser


def parse(argv: list[str]) -> StatusRequest:
    """Reads the flags of `pinnerformer status`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    return StatusRequest(
        root=Root(found.root),
        kv=found.kv,
        namespace=found.namespace,
        logs=found.logs,
        lookback=found.lookback,
        max_age_s=found.max_age,
        as_json=found.json,
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code: 1 if the newest release is too old, or logs were rewritten."""
    request = parse(argv)
    found = describe(request.root, request.kv, request.namespace)
    rewritten: list[Rewritten] = []
    if request.logs:
        rewritten = find_rewritten_logs(request.logs, list(chain(request.root)), request.lookback)
        found["rewritten"] = [{"path": one.name, "what": one.what} for one in rewritten]
    if request.as_json:
        print(as_json(found))
    else:
        _print(found)
    if request.max_age_s is not None:
        now = datetime.datetime.now(datetime.UTC)
        newest = found["releases"][0] if found["releases"] else None
        age = (now - datetime.datetime.fromisoformat(newest["committed"])).total_seconds() if newest else None
        if age is None or age > request.max_age_s:
            what = (
                f"{newest['release']} was committed {age / 3600:.1f} h ago" if newest and age else "there is no release"
            )
            print(
                f"pinnerformer status: too old: {what}, --max-age allows {request.max_age_s / 3600:g} h",
                file=sys.stderr,
            )
            return 1
    try:
        refuse_rewritten(request.logs or "", rewritten)
    except InputError as error:  # the rest has been said by now
        print(f"pinnerformer status: {error}", file=sys.stderr)
        return 1
    return 0


def release_table(releases: Sequence[dict[str, Any]], current: str | None, title: str) -> Table:
    """A line per release, as `describe_release` has them."""
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for name in ("", "release", "committed (UTC)", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("rows read", "active", "embedded", "users", "pins", "recall@10"):
        table.add_column(name, justify="right")
    for r in releases:
        recall = r["index_recall_at_10"]
        numbers = [f"{r[key]:,}" for key in ("rows_read", "users_active", "users_embedded", "users", "pins")]
        mark = "*" if r["release"] == current else ""
        committed = r["committed"][:16].replace("T", " ")
        table.add_row(mark, r["release"], committed, r["model"], *numbers, f"{recall:.4f}" if recall else "-")
    return table


def _print(found: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(release_table(found["releases"], found["current"], f"releases of {found['root']} (* CURRENT)"))
    store = found["store"]
    if store and store["release"]:
        console.print(
            f"{store['url']} serves {store['release']} to namespace {store['namespace']}: {store['users']:,} users, "
            f"generation {store['generation']}",
            highlight=False,
            soft_wrap=True,
        )
    elif store:
        console.print(f"{store['url']}: nothing published in namespace {store['namespace']}", highlight=False)
