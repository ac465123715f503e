"""The night itself: the root, what `daily` says to these flags, and what it would cost."""

import dataclasses
import datetime
import shlex

from pipelines.checking.findings import Finding, Level, Part, count
from pipelines.checking.log_part import LogsFound
from pipelines.operations.plan import foretell
from pipelines.planning.daily_request import NightRequest
from stores.errors import PinnerFormerError, StoreError
from stores.files import Root
from stores.kv import open_store
from stores.layout import Layout, advise_buckets, read_layout
from stores.lease import live_run
from stores.manifests import Manifest
from stores.releases import read_current, refuse_held
from transforms.publish import PublishTarget


@dataclasses.dataclass(frozen=True)
class RootFound:
    """What the other parts ask of a root.

    Attributes:
        current: Its newest release; None where there is none.
        layout: As it was made; None where it was not yet.
    """

    current: Manifest | None
    layout: Layout | None


def look_at_root(root: Root) -> tuple[Part, RootFound]:
    """Looks at a root: its newest release, whether it is held, whether another run is on it."""
    part = Part("root")
    current = None
    try:
        found = read_layout(root)
        current = read_current(root)
    except PinnerFormerError as error:
        part.headline = f"{root.url}: cannot be read"
        part.refuse(error)
        return part, RootFound(None, None)
    if found is None and current is None:
        part.headline = f"{root.url}: new, nothing has run there"
    elif current is None:
        part.headline = f"{root.url}: made, no release yet"
    else:
        users = f"{current.rows('user_embeddings'):,} users"
        part.headline = f"{root.url}: at {current.release}, {users}, {current.rows('pin_embeddings'):,} pins"
    part.figures |= {
        "release": current.release if current else None,
        "layout": dataclasses.asdict(found) if found else None,
    }
    running = live_run(root)
    if running is not None:
        part.refuse(StoreError(f"{root.path('lease.json')}: run {running} holds this root; wait for it"))
    try:
        refuse_held(root)
    except PinnerFormerError as error:
        part.refuse(error)
    return part, RootFound(current, found)


def look_at_store(part: Part, target: PublishTarget | None) -> None:
    """Whether the store can be read; that it can be written to is left to the night, since nothing is written here."""
    if target is None:
        return
    try:
        with open_store(target.url, target.namespace) as store:
            served = store.current()
    except PinnerFormerError as error:
        part.refuse(error)
        return
    part.figures["store_serves"] = served.release if served else None
    part.add("store", f"serves {served.release}" if served else "serves nothing yet", "read; not tried to write")


def look_at_start(part: Part, request: NightRequest, found: RootFound, logs: LogsFound | None) -> None:
    """What a first night has to be told: where histories begin, and how many buckets they want."""
    if found.current is not None or logs is None:
        return
    if request.bootstrap_from is None:
        first = min(logs.partitions)
        part.find(
            Level.STOPS,
            "an empty root, and no word on the first day of logs to build the histories from",
            flags=(("bootstrap-from", first.isoformat()),),
            exit_code=2,
        )
    requested = request.job.requested_layout
    if found.layout is None and "user_buckets" not in requested:
        return  # as many as the rows want
    layout = found.layout or Layout(**requested)
    users, rows = logs.histories.distinct, logs.looked_at.total
    kept = min(rows, users * layout.history_length)
    advised = advise_buckets(kept, rows)
    if advised > layout.user_buckets:
        part.find(
            Level.NOTE,
            f"{layout.user_buckets:,} user buckets are few for {count(rows, 'row')} at once; they are fixed once "
            "the root is made",
            flags=(("user-buckets", str(advised)),),
        )


def foretell_night(part: Part, request: NightRequest, logs: LogsFound | None) -> tuple[Finding | None, Layout | None]:
    """What `daily` says to these flags, by its own checks, and what the night would cost.

    Args:
        logs: Tell how many users a first night embeds.

    Returns:
        What it would be refused with, None where it would start; the layout of the root that it would start on.
    """
    part.headline = f"daily --date {request.date}"
    try:
        foretold = foretell(request)
    except PinnerFormerError as error:
        part.headline += " would be refused"
        part.figures["refused"] = str(error)
        return Finding.of(error), None
    part.figures["foretold"] = {}
    for what, figure, remark in foretold.describe():
        if what == "users to embed" and foretold.current is None and logs is not None:
            figure = f"about {logs.histories.distinct:,}"
        part.add(what, figure, remark)
        part.figures["foretold"][what] = figure
    for gate in foretold.closed_gates():
        part.find(
            Level.CLOSES, f"the gate {gate.name} would close: {gate.reads} {gate.measured:.2f}, <= {gate.threshold:g}"
        )
    return None, foretold.layout


def lead_to_vectors(logs: str, last: datetime.date) -> Finding:
    """What to type where there are no vectors.

    Args:
        last: The newest day of the logs.
    """
    until = last + datetime.timedelta(1)
    command = f"pinnerformer item-vectors --logs {shlex.quote(logs)} --until {until} --out pins"
    text = (
        "no vectors of pins: `item-vectors` makes some from the logs (docs/item-vectors.md); with vectors of text or "
        "pictures, of any width, beside them: --content VECTORS"
    )
    return Finding(Level.STOPS, text, flags=(("pins", "pins"),), commands=(command,), exit_code=2)


def lead_to_model(logs: str, pins: str) -> Finding:
    """What to type where there is no model."""
    command = f"pinnerformer init-model --logs {shlex.quote(logs)} --pins {shlex.quote(pins)} --out model"
    text = (
        "no model: `init-model` writes one that finds what resembles a user's last pins; `train` makes more of it "
        "(docs/training.md)"
    )
    return Finding(Level.STOPS, text, flags=(("model", "model"),), commands=(command,), exit_code=2)
