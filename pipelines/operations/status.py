"""`pinnerformer status`: the releases of a root, what the store serves, and whether the newest is too old."""

import contextlib
import dataclasses
import datetime
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.arguments import Parser, add_json, add_lookback, add_root, add_store, seconds
from pipelines.operations.alarms import find_alarms
from pipelines.operations.figures import as_json, summarise
from pipelines.telemetry.facts import facts
from pipelines.telemetry.lines import say
from stores.errors import InputError
from stores.files import Root
from stores.kv import open_store
from stores.layout import require_layout
from stores.manifests import Manifest, manifest_path
from stores.releases import chain, current_release, read_hold
from stores.rewritten import Rewritten, find_rewritten_logs, refuse_rewritten

DESCRIPTION = """\
Shows the releases of a root, newest first, and what the key-value store serves.

With --max-age it exits with 1, and a line that says why, when the data of what the store serves (without --kv: of
CURRENT) ended longer ago than that, or when anything else is wrong: nothing is served, the store is behind CURRENT or
of another root, a publish was not finished, the root is held, a night was refused or failed. --json has them as
`alarms`. A night's data ends at the midnight after its date: 30h leaves it six hours to be read, embedded and served.
"""


def describe(root: Root, kv: str | None, namespace: str, max_age_s: float | None = None) -> dict[str, Any]:
    """What there is to say of a root and a store, for people and programs alike.

    Args:
        max_age_s: As `find_alarms` takes it.

    Raises:
        StoreError: no such root, or it is damaged.
    """
    require_layout(root)
    releases = [describe_release(root, manifest) for manifest in chain(root)]
    found: dict[str, Any] = {"root": root.url, "current": current_release(root), "releases": releases, "store": None}
    held = read_hold(root)
    found["held"] = dataclasses.asdict(held) if held else None
    with open_store(kv, namespace) if kv else contextlib.nullcontext() as store:
        if store is not None:
            current = store.current()
            found["store"] = {"url": store.url_shown, "namespace": namespace, "release": None}
            if current:
                found["store"] |= {
                    "release": current.release,
                    "generation": current.generation,
                    "model": current.model_digest[:12],
                    "users": current.users,
                }
        alarms = find_alarms(root, store, max_age_s, datetime.datetime.now(datetime.UTC))
    found["alarms"] = [dataclasses.asdict(alarm) for alarm in alarms]
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
        max_age_s: How old the data that is served may be, with an exit code of 1 on any alarm; None: no alarm.
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
    parser = Parser(prog="pinnerformer status", description=DESCRIPTION, own=("logs",))
    add_root(parser)
    add_store(parser)
    parser.add_argument(
        "--logs", metavar="DIR", help="exit with 1 if log files that were read have changed or gone since"
    )
    add_lookback(parser, "as `daily --lookback`, for --logs")
    parser.add_argument(
        "--max-age", type=seconds, metavar="30h", help="exit with 1 if the data served is older, or on any alarm"
    )
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
    """Runs the command; returns the exit code: 1 on an alarm, if --max-age is given, or where logs were rewritten."""
    request = parse(argv)
    found = describe(request.root, request.kv, request.namespace, request.max_age_s)
    rewritten: list[Rewritten] = []
    if request.logs:
        rewritten = find_rewritten_logs(request.logs, list(chain(request.root)), request.lookback)
        found["rewritten"] = [{"path": one.name, "what": one.what} for one in rewritten]
    if request.as_json:
        print(as_json(found))
    else:
        _print(found)
    alarms = [] if request.max_age_s is None else found["alarms"]
    facts().alarms = alarms
    for alarm in alarms:
        say(f"pinnerformer status: {alarm['name'].replace('_', ' ')}: {alarm['text']}")
    try:
        refuse_rewritten(request.logs or "", rewritten)
    except InputError as error:  # the rest has been said by now
        say(f"pinnerformer status: {error}")
        return 1
    return 1 if alarms else 0


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


def blind_lines(releases: Sequence[dict[str, Any]]) -> list[str]:
    """A line for every gate that could not tell of some releases, as `describe_release` has them."""
    return [f"{r['release']}: {gate} cannot see: {why}" for r in releases for gate, why in r["cannot_see"].items()]


def _print(found: dict[str, Any]) -> None:
    held = found["held"]
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(release_table(found["releases"], found["current"], f"releases of {found['root']} (* CURRENT)"))
    for line in blind_lines(found["releases"][:1]):
        console.print(line, highlight=False, soft_wrap=True)
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
    if held:
        words = f"held at {held['release']} since {held['since']} ({held['reason']})"
        console.print(words, highlight=False, soft_wrap=True, markup=False)
