"""`pinnerformer rollback`: serves an older release again, and keeps the next night from building on the bad one."""

import argparse
import dataclasses
import datetime

from pipelines.arguments import Parser, add_publish, add_root, add_store
from pipelines.operations.outcomes import open_target, publish_target, warn
from pipelines.telemetry.lines import say
from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.lease import hold_lease
from stores.manifests import Manifest, read_manifest
from stores.releases import (
    Hold,
    chain,
    current_release,
    move_current,
    read_hold,
    remove_hold,
    rolled_back_path,
    write_hold,
)
from stores.upgrades import write_record
from transforms.publish import PublishTarget, publish

DESCRIPTION = """\
Serves an older release again: moves CURRENT to it, then brings the key-value store to it as the difference of the two
snapshots. An older model's vectors are taken from its generation if the store still has it, else written again.

The root is then HELD: `daily` refuses to run until `rollback --lift-hold`. The next run builds on the release rolled
back to, and reads again what the bad one had read. May be repeated after any interruption.
"""

EPILOG = """\
examples:
  pinnerformer rollback --root ROOT --kv URL --reason "half of the log was missing"       # to the release before
  pinnerformer rollback --root ROOT --kv URL --to 2026-11-20 --reason "bad since the 21st"
  pinnerformer rollback --root ROOT --lift-hold                                           # the cause is mended
"""


@dataclasses.dataclass(frozen=True)
class RollbackRequest:
    """What `pinnerformer rollback` is asked for.

    Attributes:
        lift_hold: Whether to let `daily` run again, and nothing else.
        to: The release; None: the one before CURRENT.
        reason: Why; "" if the flags do not say.
        target: Where to publish; None: nowhere.
    """

    root: Root
    lift_hold: bool
    to: str | None
    reason: str
    target: PublishTarget | None


def make_parser() -> Parser:
    """The flags of `pinnerformer rollback`."""
    parser = Parser(prog="pinnerformer rollback", description=DESCRIPTION, epilog=EPILOG)
    add_root(parser)
    add_store(parser)
    add_publish(parser, without="move CURRENT only")
    parser.add_argument("--to", metavar="RELEASE", help="which one to serve (default the release before CURRENT)")
    parser.add_argument("--reason", metavar="TEXT", help="why; shown to whoever comes next")
    parser.add_argument("--lift-hold", action="store_true", help="let `daily` run again")
    # What the flag was called at first, in whose scripts it still stands.
    parser.add_argument("--unpin", action="store_true", dest="lift_hold", help=argparse.SUPPRESS)
    return parser


def parse(argv: list[str]) -> RollbackRequest:
    """Reads the flags of `pinnerformer rollback`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    if found.lift_hold and (found.to or found.reason):
        raise UsageError("--lift-hold goes alone: it moves nothing")
    target = None if found.lift_hold else publish_target(found.kv, found.namespace, found.publish)
    return RollbackRequest(Root(found.root), found.lift_hold, found.to, (found.reason or "").strip(), target)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    root, target = request.root, request.target
    if request.lift_hold:
        with hold_lease(root, "rollback --lift-hold"):
            held = remove_hold(root)
        say(f"hold lifted; CURRENT is {current_release(root)}" if held else "was not held")
        return 0
    open_target(target)
    with hold_lease(root, "rollback"):
        to = roll_back(root, request.to, request.reason)
        sent = publish(root, to.release, target, unless_overtaken=True) if target else None
    warn(sent)
    words = f"{sent['users_sent']:,} users sent, {sent['users_deleted']:,} deleted" if sent else "nothing published"
    say(
        f"CURRENT is {to.release}; {words}\nheld: `daily` refuses to run until "
        f"pinnerformer rollback --root {root.url} --lift-hold"
    )
    return 0


def roll_back(root: Root, to: str | None, reason: str) -> Manifest:
    """Holds the root at a release and moves CURRENT to it; goes on where an earlier attempt stopped.

    Args:
        to: The release; None: the one before CURRENT, or the one that an earlier attempt was on the way to.
        reason: Kept in HELD.

    Returns:
        The manifest of the release that CURRENT names now.

    Raises:
        StoreError: there is no such release, or files of it are missing; nothing was moved.
        UsageError: no reason.
    """
    current = current_release(root)
    if current is None:
        raise StoreError(f"{root.url}: no release in it, nothing to roll back")
    hold = read_hold(root)
    if to is None:
        to = hold.release if hold else read_manifest(root, current).previous
    if to is None:
        raise StoreError(f"{root.url}: {current} is the first release, there is none before it")
    manifest = read_manifest(root, to)
    check_complete(root, manifest)
    if hold is None or hold.release != to:
        if not reason:
            raise UsageError("--reason is missing: whoever comes next has to know why")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
        # The hold comes before CURRENT moves: killed between the two, no night builds on what is about to be left.
        hold = Hold(to, current, reason, now)
        write_hold(root, hold)
    ancestors = [found.release for found in chain(root)]
    if to in ancestors:  # forward again, there is nothing to mark
        for release in ancestors[: ancestors.index(to)]:
            root.write_json(rolled_back_path(release), write_record(hold))
    move_current(root, current, to)
    return manifest


def check_complete(root: Root, manifest: Manifest) -> None:
    """Refuses a release that cannot be served.

    Raises:
        StoreError: `gc` dropped tables of it, or a file is missing or of another size.
    """
    if manifest.dropped:
        raise StoreError(
            f"{root.url}: release {manifest.release} has no {', '.join(manifest.dropped)} any more (gc removed them); "
            "choose a later one"
        )
    for entries in manifest.tables.values():
        for entry in entries:
            size = root.size(entry.path)
            if size != entry.bytes:
                found = "is missing" if size is None else f"has {size} bytes instead of {entry.bytes}"
                raise StoreError(f"{root.path(entry.path)}: {found}; choose another release than {manifest.release}")
